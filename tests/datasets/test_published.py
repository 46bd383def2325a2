"""Published formats: Karpathy's split files and Multi30k, and folders with captions beside the images."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from milvus_coop.errors import DatasetError
from milvus_coop.offline.datasets import SPLITS, Caption, Dataset, open_dataset
from tests.datasets.conftest import Draw


def ids(dataset: Dataset) -> dict[str, list[str]]:
    return {split: [item.id for item in dataset.items(split)] for split in SPLITS}


def sentences(*texts: str) -> list[dict[str, str]]:
    return [{"raw": text} for text in texts]


@pytest.fixture
def karpathy(tmp_path: Path, image: Draw) -> Path:
    for name in ("val2014/a.png", "train2014/b.png", "c.png", "d.png"):
        image(f"images/{name}")
    images: list[Any] = [
        {"filename": "a.png", "filepath": "val2014", "split": "val", "sentences": sentences("A.", " B. ", "A.")},
        {"filename": "b.png", "filepath": "train2014", "split": "restval", "sentences": sentences("C.")},
        {"filename": "c.png", "split": "train", "sentences": sentences("D.")},
        {"filename": "d.png", "filepath": "not-there", "split": "test", "sentences": sentences("E.")},
        {"filename": "gone.png", "split": "test", "sentences": sentences("F.")},
        {"filename": "c.png", "split": "test", "sentences": sentences("G.")},
        {"filename": "d.png", "split": "other", "sentences": sentences("H.")},
        {"filename": "d.png", "split": "test", "sentences": []},
        "d.png",
    ]
    path = tmp_path / "dataset_coco.json"
    path.write_text(json.dumps({"dataset": "coco", "images": images}))
    return path


def test_karpathy(karpathy: Path) -> None:
    dataset = open_dataset(f"karpathy:{karpathy},images={karpathy.parent}/images")
    assert ids(dataset) == {"train": ["train2014/b.png", "c.png"], "dev": ["val2014/a.png"], "test": ["not-there/d.png"]}
    assert dataset.items("dev")[0].captions == (Caption("A."), Caption("B."))
    assert all(dataset.open(item).size == (8, 6) for split in SPLITS for item in dataset.items(split))
    places = [problem.place.removeprefix("dataset_coco.json, image ") for problem in dataset.problems]
    assert places == ["5 (gone.png)", "6 (c.png)", "7 (d.png)", "8 (d.png)", "9"]


def test_karpathy_without_restval(karpathy: Path) -> None:
    dataset = open_dataset(f"{karpathy},images={karpathy.parent}/images,restval=0")
    assert ids(dataset)["train"] == ["c.png"]


@pytest.mark.parametrize(
    ("content", "said"), [("{", "is not JSON"), ("[]", "no list of 'images'"), ('{"images": 3}', "no list of 'images'")]
)
def test_karpathy_file_that_is_none(tmp_path: Path, content: str, said: str) -> None:
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(DatasetError, match=said):
        open_dataset(f"{tmp_path}/x.json")


@pytest.fixture
def multi30k(tmp_path: Path, image: Draw) -> Path:
    root = tmp_path / "dataset"
    for name in ("a.png", "b.png", "c.png", "d.png"):
        image(f"images/{name}")
    files = {
        "task1/image_splits/train.txt": "a.png\nb.png\n",
        "task1/image_splits/val.txt": "c.png\n",
        "task1/image_splits/test_2016_flickr.txt": "d.png\n",
        "task1/image_splits/test_2017_mscoco.txt": "d.png#123\n",
        "task1/raw/train.en": "One.\nTwo\u2028lines.\n",
        "task1/raw/train.de": "Eins.\n \n",
        "task1/raw/val.en": "Three.\n",
        "task1/raw/val.de": "Drei.\n",
        "task1/raw/test_2016_flickr.en": "Four.\n",
        "task1/raw/test_2016_flickr.de": "Vier.",
        "task1/raw/test_2017_mscoco.en": "Five.\n",
        "task2/image_splits/train_images.txt": "a.png\nb.png\n",
        "task2/raw/train.1.en": "One.\nTwo.\n",
        "task2/raw/train.2.en": "Uno.\nDue.\n",
    }
    for name, text in files.items():
        path = root / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return root


def test_multi30k_in_two_languages(multi30k: Path) -> None:
    packed = multi30k / "data/task1/raw/train.de"
    packed.with_name("train.de.gz").write_bytes(gzip.compress(packed.read_bytes()))
    packed.unlink()
    dataset = open_dataset(f"{multi30k},images={multi30k.parent}/images,language=en+de")
    assert ids(dataset) == {"train": ["a.png", "b.png"], "dev": ["c.png"], "test": ["d.png"]}
    assert dataset.items("train")[0].captions == (Caption("One."), Caption("Eins.", "de"))
    assert dataset.items("train")[1].captions == (Caption("Two\u2028lines."),)
    assert [(p.place, p.reason) for p in dataset.problems] == [("train.de.gz, line 2", "a caption is empty")]


def test_multi30k_task_2_and_another_test_set(multi30k: Path) -> None:
    images = f"images={multi30k.parent}/images"
    dataset = open_dataset(f"multi30k:{multi30k},{images},task=2")
    assert [item.captions for item in dataset.items("train")] == [
        (Caption("One."), Caption("Uno.")),
        (Caption("Two."), Caption("Due.")),
    ]
    assert not dataset.items("test")
    other = open_dataset(f"multi30k:{multi30k},{images},test=2017_mscoco")
    assert [(item.id, item.captions) for item in other.items("test")] == [("d.png", (Caption("Five."),))]


def test_multi30k_names_both_counts(multi30k: Path) -> None:
    (multi30k / "data/task1/raw/train.de").write_text("Eins.\n")
    with pytest.raises(DatasetError, match=r"train\.de has 1 lines, .*train\.txt has 2"):
        open_dataset(f"multi30k:{multi30k},language=de")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("language=fr", "no train.fr, train.1.fr .*; expected: language=de[+]en"),
        ("test=2019", "expected: one of 2016_flickr, 2017_mscoco"),
        ("task=3", "from 1 to 2"),
    ],
)
def test_multi30k_mistakes(multi30k: Path, options: str, said: str) -> None:
    with pytest.raises(DatasetError, match=said):
        open_dataset(f"multi30k:{multi30k},{options}")


def test_multi30k_files_that_cannot_be_read(multi30k: Path) -> None:
    raw = multi30k / "data/task1/raw"
    (raw / "train.en").write_bytes(b"One.\n\xff\n")
    with pytest.raises(DatasetError, match=r"train\.en, line 2 is not UTF-8"):
        open_dataset(f"multi30k:{multi30k}")
    (raw / "train.en").unlink()
    (raw / "train.en.gz").write_bytes(gzip.compress(b"One.\nTwo.\n")[:-9])
    with pytest.raises(DatasetError, match=r"train\.en\.gz cannot be read"):
        open_dataset(f"multi30k:{multi30k}")


def test_folder_with_captions_beside(tmp_path: Path, image: Draw) -> None:
    for name in ("train/a.png", "train/deep/b.JPG", "val/c.png", "test/d.png", "test/bad.png", "test/none.png", "e.png"):
        image(name)
    (tmp_path / "train/a.txt").write_text("One.\n\nTwo.\n")
    (tmp_path / "train/deep/b.json").write_text('{"captions": {"en": "B.", "de": ["Be."]}}')
    (tmp_path / "val/c.json").write_text('{"caption": "C."}')
    (tmp_path / "test/d.txt").write_text("D.")
    (tmp_path / "test/bad.json").write_text("{")
    (tmp_path / "test/orphan.txt").write_text("O.")
    dataset = open_dataset(str(tmp_path))
    assert ids(dataset) == {"train": ["train/a.png", "train/deep/b.JPG"], "dev": ["val/c.png"], "test": ["test/d.png"]}
    assert dataset.items("train")[0].captions == (Caption("One."), Caption("Two."))
    assert dataset.items("train")[1].captions == (Caption("B."), Caption("Be.", "de"))
    reasons = {problem.place: problem.reason for problem in dataset.problems}
    assert set(reasons) == {"e.png", "test/bad.png", "test/none.png", "test/orphan.txt"}
    assert "none.txt" in reasons["test/none.png"]
    with pytest.raises(DatasetError, match="name the splits"):
        open_dataset(f"folder:{tmp_path},dev=0.1")


def test_folder_split_by_name_is_stable(tmp_path: Path) -> None:
    for number in range(60):
        (tmp_path / f"{number}.png").touch()
        (tmp_path / f"{number}.txt").write_text("Box.")
    before = ids(open_dataset(f"folder:{tmp_path},dev=0.2,test=0.2"))
    (tmp_path / "new.png").touch()
    (tmp_path / "new.txt").write_text("New.")
    after = ids(open_dataset(f"folder:{tmp_path},dev=0.2,test=0.2"))
    assert {split: [i for i in found if i != "new.png"] for split, found in after.items()} == before
    assert all(4 <= len(before[split]) <= 22 for split in ("dev", "test"))


def test_folders_may_be_links(tmp_path: Path, image: Draw) -> None:
    image("elsewhere/a.png")
    (tmp_path / "elsewhere/a.txt").write_text("One.")
    (tmp_path / "data").mkdir()
    (tmp_path / "data/train").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (tmp_path / "elsewhere/round").symlink_to(tmp_path / "data", target_is_directory=True)
    assert ids(open_dataset(str(tmp_path / "data")))["train"] == ["train/a.png"]
