"""From the text after `--data` to a data set."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from milvus_coop.errors import DatasetError
from milvus_coop.offline.datasets import folder, jsonl, karpathy, multi30k, scenes
from milvus_coop.offline.datasets.items import Dataset
from milvus_coop.offline.datasets.spec import Spec, parse_spec


@dataclass(frozen=True)
class Format:
    """One way to lay out captioned images."""

    usage: str
    """`jsonl:FILE`."""
    keys: Mapping[str, str]
    """Each option, and what it says."""
    open: Callable[[Spec], Dataset]


FORMATS: dict[str, Format] = {
    "karpathy": Format("karpathy:dataset_coco.json,images=DIR", karpathy.KEYS, karpathy.open_karpathy),
    "multi30k": Format("multi30k:DIR,images=DIR,language=en+de", multi30k.KEYS, multi30k.open_multi30k),
    "jsonl": Format("jsonl:FILE", jsonl.KEYS, jsonl.open_jsonl),
    "folder": Format("folder:DIR", folder.KEYS, folder.open_folder),
    "scenes": Format("scenes:n=20000", scenes.KEYS, scenes.open_scenes),
}


def open_dataset(spec: str) -> Dataset:
    """Open captioned images: `FORMAT:PATH[,key=value]...`, or a path whose format is guessed.

    Formats and their options are in `FORMATS`. Files are listed, not opened; what cannot be used is in `problems`.

    Raises:
        DatasetError: unknown format, option or value; nothing at the path; or a file that is broken as a whole.
    """
    parsed = parse_spec(spec, FORMATS)
    if not parsed.format:
        parsed = replace(parsed, format=guess_format(parsed.where()))
    format_ = FORMATS[parsed.format]
    parsed.check_keys(format_.keys)
    return format_.open(parsed)


def guess_format(path: Path) -> str:
    """The format of what lies at a path.

    Raises:
        DatasetError: a file of another kind.
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
