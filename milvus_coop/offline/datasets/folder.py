"""A folder of images with a file of captions beside each: `cat.jpg` and `cat.txt` or `cat.json`."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from milvus_coop.errors import DatasetError, reason_of
from milvus_coop.models.preprocess.formats import SUFFIXES
from milvus_coop.offline.datasets.items import Caption, Split
from milvus_coop.offline.datasets.jsonl import captions_of
from milvus_coop.offline.datasets.listed import SPLIT_NAMES, Gathering, ListedDataset, split_by_hash
from milvus_coop.offline.datasets.spec import Spec

KEYS = {
    "language": "language of captions that name none (default: en)",
    "dev": "share of the dev split where no folders name the splits (default: 0.05)",
    "test": "share of the test split (default: 0.05)",
}
IMAGES = tuple(sorted(SUFFIXES))
SIDECARS = (".txt", ".json")


def open_folder(spec: Spec) -> ListedDataset:
    """Read `folder:DIR[,language=en][,dev=0.05][,test=0.05]`.

    A `.txt` file has one caption per line. A `.json` file has `captions` or `caption` as in a JSONL list. The folders `train`,
    `dev` (or `val`) and `test` name the splits. Without them the image's name decides, so that new images do not move the old ones.
    """
    root = spec.where()
    if not root.is_dir():
        raise DatasetError(f"--data {spec.text}: {root} is a file", expected="a folder of images")
    languages, dev, test = spec.languages("en"), spec.share("dev", 0.05), spec.share("test", 0.05)
    if len(languages) > 1:
        raise spec.wrong("language", "one language, that of captions without a language")
    if dev + test >= 1:
        raise spec.wrong("dev", f"dev and test below 1 together; test is {test}")
    by_folder = any((root / name).is_dir() for name in SPLIT_NAMES)
    if by_folder and {"dev", "test"} & spec.options.keys():
        raise DatasetError(f"--data {spec.text}: the folders in {root} name the splits", expected="neither dev= nor test=")

    def split_of(item_id: str) -> Split | None:
        return SPLIT_NAMES.get(item_id.split("/")[0]) if by_folder else split_by_hash(item_id, dev, test)

    gathering = Gathering(may_lack_captions=spec.may_lack_captions)
    for folder, names in _walk(str(root)):
        _gather(gathering, root, folder, names, languages[0], split_of)
    return gathering.dataset(spec.text)


def _gather(
    gathering: Gathering, root: Path, folder: str, names: frozenset[str], language: str, split_of: Callable[[str], Split | None]
) -> None:
    stems = {name.rpartition(".")[0] for name in names if name.lower().endswith(IMAGES)}
    for name in sorted(names):
        path = os.path.join(folder, name)  # noqa: PTH118 - once per image; a Path is ten times as slow
        item_id = os.path.relpath(path, root).replace(os.sep, "/")
        stem, _, ending = name.rpartition(".")
        if not name.lower().endswith(IMAGES):
            if f".{ending}" in SIDECARS and stem not in stems:
                gathering.problem(item_id, "there is no image of that name beside it")
            continue
        split = split_of(item_id)
        if split is None:
            gathering.problem(item_id, f"lies in none of the folders {', '.join(SPLIT_NAMES)}")
            continue
        captions = _captions(gathering, os.path.join(folder, stem), item_id, names, language)  # noqa: PTH118
        if captions is not None:
            gathering.add(item_id, item_id, path, captions, split)


def _walk(root: str) -> Iterator[tuple[str, frozenset[str]]]:
    def refuse(exc: OSError) -> None:
        raise DatasetError(f"{exc.filename} cannot be listed: {exc.strerror}", expected="a folder that may be read") from exc

    seen: set[str] = set()
    for folder, folders, files in os.walk(root, onerror=refuse, followlinks=True):
        if (real := os.path.realpath(folder)) in seen:  # a link to a folder above it
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield folder, frozenset(name for name in files if not name.startswith("."))


def _captions(gathering: Gathering, stem: str, item_id: str, names: frozenset[str], language: str) -> list[Caption] | None:
    base = os.path.basename(stem)  # noqa: PTH119
    sidecars = [Path(stem + ending) for ending in SIDECARS if base + ending in names]
    if not sidecars and gathering.may_lack_captions:
        return []
    if not sidecars:
        gathering.problem(item_id, f"no captions: there is no {base}.txt or {base}.json beside it")
        return None
    try:
        return [caption for sidecar in sidecars for caption in _read(sidecar, language)]
    except (OSError, ValueError) as exc:
        gathering.problem(item_id, f"the captions beside it cannot be read: {reason_of(exc)}")
        return None


def _read(sidecar: Path, language: str) -> list[Caption]:
    if sidecar.suffix == ".txt":
        with sidecar.open(encoding="utf-8-sig") as file:
            return [Caption(line, language) for line in file if line.strip()]
    row = json.loads(sidecar.read_bytes())
    if not isinstance(row, dict):
        raise ValueError("not a JSON object")
    return captions_of(row, language)
