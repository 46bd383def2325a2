"""The stamps in all their languages, as a list that `milvus-coop train` and `milvus-coop eval` read (`--data jsonl:...`)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from milvus_coop.training.coop_small.features import perceptual_hash
from milvus_coop.training.coop_small.pictures import is_usable, on_background, open_picture
from milvus_coop.training.coop_small.records import Record
from milvus_coop.training.coop_small.sources import STAMPS, read_stamps
from milvus_coop.training.coop_small.split import folds, group_records, read_test_ids, without_leaks
from milvus_coop.types import Array

LIST = "stamps.jsonl"
_DEV_FOLDS = 5  # the first of them is the dev split


def write_stamps(raw: Path, folder: Path) -> Path:
    """Write every stamp as PNG, and `stamps.jsonl`: picture, captions per language, split (15 s).

    `test` is the held-out list of the recipe; `dev` is a fifth of the others, captions and near-copies never torn apart. A stamp
    that shares its English caption or its look with a held-out one is left out.

    Args:
        raw: the unpacked packages.
        folder: where the list goes, with the pictures in `pictures/`.

    Returns:
        The list's path.
    """
    records = [record for record in read_stamps(raw) if is_usable(record, raw)]
    (folder / "pictures").mkdir(parents=True, exist_ok=True)
    hashes = []
    for record in records:
        picture = on_background(open_picture(record, raw))
        hashes.append(perceptual_hash(picture))
        picture.save(folder / _picture(record))
    splits = split_stamps(records, np.stack(hashes), read_test_ids())
    rows = (
        {"image": _picture(record), "id": record.id, "captions": read_captions(raw, record), "split": splits[record.id]}
        for record in records
        if record.id in splits
    )
    path = folder / LIST
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    return path


def split_stamps(records: Sequence[Record], hashes: Array, test_ids: frozenset[str]) -> dict[str, str]:
    """Split by record id, without the records that share caption or look with a held-out one."""
    is_test = np.array([record.id in test_ids for record in records])
    test = [record for record in records if record.id in test_ids]
    kept = without_leaks(records, hashes, test, hashes[is_test])
    others = [record for _, record in kept]
    groups = group_records(others, hashes[[index for index, _ in kept]])
    numbers = folds(groups, [record.id for record in others], _DEV_FOLDS)
    splits = {record.id: "test" for record in test}
    return splits | {record.id: "train" if fold else "dev" for record, fold in zip(others, numbers, strict=True)}


def read_captions(raw: Path, record: Record) -> dict[str, list[str]]:
    """The stamp's captions by language: `en`, then the names that the package uses, such as `de`, `pt_BR`, `ca@valencia`."""
    captions = {"en": [record.caption]}
    text_file = (raw / STAMPS / record.id.removeprefix("stamps/")).with_suffix(".txt")
    for line in text_file.read_text("utf-8", errors="replace").splitlines()[1:]:
        language, found, text = line.partition(".utf8=")
        if found and text.strip() and language not in captions:
            captions[language] = [" ".join(text.split())]
    return captions


def _picture(record: Record) -> str:
    return f"pictures/{record.id.removeprefix('stamps/').replace('/', '-')}.png"
