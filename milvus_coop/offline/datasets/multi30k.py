"""Multi30k: image captions in several languages, line by line beside a list of images."""

from __future__ import annotations

import gzip
import io
import itertools
import os
import re
import zlib
from pathlib import Path

from milvus_coop.errors import DatasetError, reason_of
from milvus_coop.offline.datasets.items import SPLITS, Caption, Split
from milvus_coop.offline.datasets.listed import Gathering, ListedDataset
from milvus_coop.offline.datasets.spec import Spec

KEYS = {
    "images": "folder of the images (default: `images` in the folder of the data set)",
    "language": "one or more of en, de, fr, cs, joined by + (default: en)",
    "task": "1: one caption per image and language, translated; 2: five, written independently (default: 1 if it is there)",
    "test": "which test set: 2016_flickr, 2017_flickr, 2017_mscoco or 2018_flickr (default: 2016_flickr)",
}
_STEMS: dict[Split, tuple[str, ...]] = {
    "train": ("train",),
    "dev": ("val", "dev"),
    "test": ("test_2016_flickr", "test_2016", "test"),
}


def open_multi30k(spec: Spec) -> ListedDataset:
    """Read `multi30k:DIR[,images=DIR][,language=en+de][,task=1][,test=2016_flickr]`.

    `DIR` is a clone of multi30k/dataset or any folder with `train.en`, `val.de`, ... (task 2: `train.1.en`, ...; all may end in
    .gz) and the image lists `train.txt` or `train_images.txt`, beside them or in `image_splits`. Line N of a language belongs to
    line N of the image list.
    """
    folder = spec.where()
    task = spec.whole("task", 1, minimum=1, maximum=2)
    texts = find_texts(folder, [task] if "task" in spec.options else [1, 2])
    if texts is None:
        raise DatasetError(
            f"--data {spec.text}: {folder} holds no image list of Multi30k",
            expected="train.txt or image_splits/train.txt, with train.en beside it or in raw/",
        )
    default = folder / "images"
    images = str(spec.folder("images", default if default.is_dir() else folder))
    gathering = Gathering(may_lack_captions=spec.may_lack_captions)
    for split in SPLITS:
        stems = (f"test_{spec.options['test']}",) if split == "test" and "test" in spec.options else _STEMS[split]
        stem, listing = _listing(texts, stems)
        if listing is None:
            if split == "test" and "test" in spec.options:
                raise spec.wrong("test", f"one of {', '.join(_test_sets(texts)) or 'no test sets here'}")
            continue
        _read_split(gathering, split, listing, texts, stem, spec.languages("en"), images)
    return gathering.dataset(spec.text)


def find_texts(folder: Path, tasks: list[int]) -> Path | None:
    """The folder with the captions of a Multi30k layout. None if `folder` has another layout."""
    within = [*(f"data/task{task}/raw" for task in tasks), *(f"task{task}/raw" for task in tasks), "raw", "."]
    return next((folder / name for name in within if _listing(folder / name, _STEMS["train"] + _STEMS["test"])[1]), None)


def _places(texts: Path) -> tuple[Path, ...]:
    return texts, texts / "image_splits", texts.parent / "image_splits"


def _listing(texts: Path, stems: tuple[str, ...]) -> tuple[str, Path | None]:
    for stem, place, ending in itertools.product(stems, _places(texts), (".txt", "_images.txt")):
        if (place / f"{stem}{ending}").is_file() and _languages(texts, stem):
            return stem, place / f"{stem}{ending}"
    return stems[0], None


def _languages(texts: Path, stem: str) -> list[str]:
    found = (re.fullmatch(r"(?:\.[1-5])?\.([a-z]{2})(?:\.gz)?", path.name[len(stem) :]) for path in texts.glob(f"{stem}.*"))
    return sorted({match.group(1) for match in found if match})


def _test_sets(texts: Path) -> list[str]:
    found = (path for place in _places(texts) for path in place.glob("test_*.txt"))
    return sorted({path.stem.removeprefix("test_").removesuffix("_images") for path in found})


def _read_split(
    gathering: Gathering, split: Split, listing: Path, texts: Path, stem: str, languages: tuple[str, ...], images: str
) -> None:
    names = _lines(listing)
    columns = [(path, code, _lines(path)) for code in languages for path in _files_of(texts, stem, code)]
    for path, _, lines in columns:
        if len(lines) != len(names):
            raise DatasetError(
                f"{path} has {len(lines):,} lines, {listing} has {len(names):,}",
                expected="a line for every image; the two do not belong together, or one is cut off",
            )
    for row, name in enumerate(names):
        captions = [Caption(lines[row], code) for _, code, lines in columns if lines[row].strip()]
        for path, _, lines in columns:
            if not lines[row].strip():
                gathering.problem(f"{path.name}, line {row + 1}", "a caption is empty")
        place, name = f"{listing.name}, line {row + 1}", name.strip().partition("#")[0]  # MSCOCO's are `name.jpg#caption`
        if name:
            gathering.add(place, name, os.path.join(images, name), captions, split)  # noqa: PTH118 - 30,000 times
        else:
            gathering.problem(place, "no image is named")


def _files_of(texts: Path, stem: str, language: str) -> list[Path]:
    names = [f"{stem}.{language}", *(f"{stem}.{number}.{language}" for number in range(1, 6))]
    found = [path for name in names for path in (texts / name, texts / f"{name}.gz") if path.is_file()]
    if not found:
        raise DatasetError(
            f"{texts} has no {stem}.{language}, {stem}.1.{language} or their .gz",
            expected=f"language={'+'.join(_languages(texts, stem))}, or fewer",
        )
    return list({path.name.removesuffix(".gz"): path for path in found}.values())


def _lines(path: Path) -> list[str]:
    try:
        content = path.read_bytes()
        if path.suffix == ".gz":
            content = gzip.decompress(content)
        # Not `splitlines`, which would also break lines at characters that captions may contain.
        return [line.rstrip("\n") for line in io.StringIO(content.decode("utf-8-sig"), newline=None)]
    except UnicodeDecodeError as exc:
        line = content.count(b"\n", 0, exc.start) + 1
        raise DatasetError(f"{path}, line {line} is not UTF-8", expected="a text file in UTF-8") from exc
    except (OSError, EOFError, zlib.error) as exc:
        raise DatasetError(f"{path} cannot be read: {reason_of(exc)}", expected="a text file, or one packed by gzip") from exc
