"""Opening the data set that the text after `--data` names, and a check that it has enough data."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from milvus_coop.errors import DatasetError
from milvus_coop.offline.datasets import folder, jsonl, karpathy, multi30k
from milvus_coop.offline.datasets.items import Dataset, Split
from milvus_coop.offline.datasets.spec import Spec, parse_spec


@dataclass(frozen=True)
class Format:
    """One way to lay out captioned images."""

    keys: Mapping[str, str]
    """The options and their descriptions."""
    open: Callable[[Spec], Dataset]


FORMATS: dict[str, Format] = {
    "karpathy": Format(karpathy.KEYS, karpathy.open_karpathy),
    "multi30k": Format(multi30k.KEYS, multi30k.open_multi30k),
    "jsonl": Format(jsonl.KEYS, jsonl.open_jsonl),
    "folder": Format(folder.KEYS, folder.open_folder),
}


def open_dataset(spec: str, *, may_lack_captions: bool = False) -> Dataset:
    """Open captioned images: `FORMAT:PATH[,key=value]...`, or a path whose format is guessed.

    Formats and their options are in `FORMATS`. Files are listed, not opened. Whatever cannot be used is in `problems`.

    Args:
        spec: the format, the path and the options.
        may_lack_captions: keep images without captions as well. They can be distractors of an evaluation.

    Raises:
        DatasetError: the format, an option or a value is unknown, the path does not exist, or the file as a whole is broken.
    """
    parsed = parse_spec(spec, FORMATS)
    if not parsed.format:
        parsed = replace(parsed, format=guess_format(parsed.where()))
    format_ = FORMATS[parsed.format]
    parsed.check_keys(format_.keys)
    return format_.open(replace(parsed, may_lack_captions=may_lack_captions))


def guess_format(path: Path) -> str:
    """The format of the file or folder at a path.

    Raises:
        DatasetError: the file is of an unknown kind.
    """
    if path.is_dir():
        return "multi30k" if multi30k.find_texts(path, [1, 2]) else "folder"
    if path.suffix.lower() in {".jsonl", ".ndjson"}:
        return "jsonl"
    if path.suffix.lower() == ".json":
        return "karpathy"
    raise DatasetError(
        f"--data {path}: the format of a {path.suffix or 'file without an ending'} is not known",
        expected="a .jsonl list, a Karpathy .json file or a folder",
        run=f"--data jsonl:{path}",
    )


def check(dataset: Dataset, splits: Iterable[Split], *, minimum: int = 2) -> None:
    """Refuse splits with too few items to compare one with another, before a model loads.

    Raises:
        DatasetError: names the split, how many items it has, and the first problem of the data set.
    """
    for split in splits:
        count = len(dataset.items(split))
        if count < minimum:
            left_out = len(dataset.problems)
            why = f"; {left_out:,} left out, first: {dataset.problems[0].place}: {dataset.problems[0].reason}" if left_out else ""
            items = "no items" if count == 0 else f"{count} item{'s' if count > 1 else ''}"
            raise DatasetError(f"--data {dataset.name}: {split} has {items}{why}", expected=f"at least {minimum}")
