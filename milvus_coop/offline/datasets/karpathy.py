"""The split files of Karpathy and Fei-Fei (2015) for MSCOCO, Flickr30k and Flickr8k."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from milvus_coop.errors import DatasetError, reason_of
from milvus_coop.offline.datasets.items import Caption, Split
from milvus_coop.offline.datasets.listed import SPLIT_NAMES, Gathering, ListedDataset
from milvus_coop.offline.datasets.spec import Spec

KEYS = {
    "images": "folder of the images, or of `train2014` and `val2014` (default: the file's folder)",
    "restval": "1: the `restval` images belong to train, as is the custom for MSCOCO; 0: they are left out (default: 1)",
    "language": "language of the captions (default: en)",
}


def open_karpathy(spec: Spec) -> ListedDataset:
    """Read `karpathy:dataset_coco.json,images=DIR[,restval=1][,language=en]`: `val` becomes dev, `restval` train.

    An image is at `DIR/filepath/filename` if the file names a `filepath`, or at `DIR/filename`.
    """
    path = spec.where()
    folder, languages, with_restval = str(spec.folder("images", path.parent)), spec.languages("en"), spec.switch("restval", True)
    if len(languages) > 1:
        raise spec.wrong("language", "one language")
    gathering = Gathering(may_lack_captions=spec.may_lack_captions)
    for number, image in enumerate(_images(path), start=1):
        place = f"{path.name}, image {number}"
        if not isinstance(image, dict) or not isinstance(image.get("filename"), str) or not image["filename"]:
            gathering.problem(place, "no 'filename'")
            continue
        name, subfolder = image["filename"], image.get("filepath")
        place += f" ({name})"
        split = _split(image, with_restval)
        if split is None:
            if image.get("split") != "restval":
                gathering.problem(
                    place, f"the split is {json.dumps(image.get('split'))[:40]}, expected train, restval, val or test"
                )
            continue
        places = [os.path.join(folder, name)]  # noqa: PTH118 - 123,000 times; a Path is ten times as slow
        if isinstance(subfolder, str) and subfolder:
            name = f"{subfolder}/{name}"
            places.insert(0, os.path.join(folder, name))  # noqa: PTH118
        captions = [Caption(text, languages[0]) for text in _texts(image)]
        gathering.add(place, name, next((p for p in places if gathering.exists(p)), places[0]), captions, split)
    return gathering.dataset(spec.text)


def _images(path: Path) -> list[Any]:
    try:
        content = json.loads(path.read_bytes())
    except OSError as exc:
        raise DatasetError(f"{path} cannot be read: {reason_of(exc)}", expected="a Karpathy split file") from exc
    except (ValueError, RecursionError) as exc:
        raise DatasetError(f"{path} is not JSON: {exc}", expected="a Karpathy split file such as dataset_coco.json") from exc
    images = content.get("images") if isinstance(content, dict) else None
    if not isinstance(images, list):
        raise DatasetError(f"{path} has no list of 'images'", expected="a Karpathy split file such as dataset_coco.json")
    return images


def _split(image: dict[str, Any], with_restval: bool) -> Split | None:
    name = image.get("split")
    if name == "restval":
        return "train" if with_restval else None
    return SPLIT_NAMES.get(name) if isinstance(name, str) else None


def _texts(image: dict[str, Any]) -> Iterator[str]:
    sentences = image.get("sentences")
    for sentence in sentences if isinstance(sentences, list) else []:
        raw = sentence.get("raw") if isinstance(sentence, dict) else None
        yield raw if isinstance(raw, str) else ""
