"""Lists of your own: what a line may say, and that a bad line is named and the rest kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from milvus_coop.errors import DatasetError, ImageUnreadableError
from milvus_coop.offline.datasets import Caption, Dataset, check, open_dataset
from tests.datasets.conftest import Draw


def opened(tmp_path: Path, *lines: Any, options: str = "") -> Dataset:
    path = tmp_path / "captions.jsonl"
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines), encoding="utf-8")
    return open_dataset(f"jsonl:{path}{options}")


def reasons(dataset: Dataset) -> dict[str, str]:
    return {problem.place: problem.reason for problem in dataset.problems}


def test_a_line_names_image_captions_split_and_id(tmp_path: Path, image: Draw) -> None:
    image("a.png")
    image("more/b.png", size=(5, 4))
    dataset = opened(
        tmp_path,
        {"image": "a.png", "captions": [" A red box. ", "A box.", "A red box."]},
        {"image": "more/b.png", "captions": {"en": ["Two."], "de": "Zwei."}, "split": "val", "id": 7},
        {"image": "a.png", "caption": "Again.", "split": "test", "id": "again"},
    )
    (train,), (dev,), (test,) = dataset.items("train"), dataset.items("dev"), dataset.items("test")
    assert train.captions == (Caption("A red box."), Caption("A box."))
    assert (dev.id, dev.captions) == ("7", (Caption("Two."), Caption("Zwei.", "de")))
    assert (test.id, test.path) == ("again", train.path)
    assert dataset.open(dev).size == (5, 4)
    assert not dataset.problems


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{broken", "not JSON"),
        ("[]", "not a JSON object"),
        ({"captions": ["x"]}, "no 'image'"),
        ({"image": 3, "captions": ["x"]}, "'image' holds 3"),
        ({"image": " ", "captions": ["x"]}, "'image' is empty"),
        ({"image": "https://example.org/a.png", "captions": ["x"]}, "is an address"),
        ({"image": "gone.png", "captions": ["x"]}, "there is no image"),
        ({"image": "a.png"}, "no 'captions'"),
        ({"image": "a.png", "captions": []}, "no captions"),
        ({"image": "a.png", "captions": ["x", 3]}, "'captions' holds 3"),
        ({"image": "a.png", "captions": ["x"], "split": "tets"}, 'the split is "tets"'),
        ({"image": "a.png", "captions": ["x"], "split": ["test"]}, "the split is"),
        ({"image": "a.png", "captions": ["x"], "id": True}, "'id' is neither"),
        ({"image": "a.png", "captions": ["x"], "id": "kept"}, "is taken by captions.jsonl, line 1"),
        ({"image": "a.png", "captions": ["\ud800"]}, "not valid UTF-8"),
    ],
)
def test_a_bad_line_is_named_and_the_rest_goes_on(tmp_path: Path, image: Draw, line: Any, reason: str) -> None:
    image("a.png")
    first, last = ({"image": "a.png", "caption": "A box.", "id": name} for name in ("kept", "last"))
    dataset = opened(tmp_path, first, "", line, last)
    assert [item.id for item in dataset.items("train")] == ["kept", "last"]
    assert list(reasons(dataset)) == ["captions.jsonl, line 3"]
    assert reason in reasons(dataset)["captions.jsonl, line 3"]


def test_an_empty_caption_is_counted_and_the_others_are_kept(tmp_path: Path, image: Draw) -> None:
    image("a.png")
    dataset = opened(tmp_path, {"image": "a.png", "captions": ["A box.", "  "]})
    assert dataset.items("train")[0].captions == (Caption("A box."),)
    assert reasons(dataset) == {"captions.jsonl, line 1": "a caption is empty"}


def test_images_and_language_are_options(tmp_path: Path, image: Draw) -> None:
    image("elsewhere/a.png")
    dataset = opened(tmp_path, {"image": "a.png", "caption": "Eine Kiste."}, options=f",images={tmp_path}/elsewhere,language=de")
    assert dataset.items("train")[0].captions == (Caption("Eine Kiste.", "de"),)


def test_bytes_that_are_not_utf8_are_named_with_their_line(tmp_path: Path, image: Draw) -> None:
    image("a.png")
    path = tmp_path / "list.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"image": "a.png", "caption": "fine"}\n{"image": "a.png", "caption": "\xff", "id": 2}\n')
    dataset = open_dataset(str(path))
    assert len(dataset.items("train")) == 1
    assert reasons(dataset) == {"list.jsonl, line 2": "'captions' is not valid UTF-8 text"}


def test_an_image_that_cannot_be_read_is_an_image_error(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"no image")
    dataset = opened(tmp_path, {"image": "a.png", "caption": "x"})
    with pytest.raises(ImageUnreadableError, match=r"a\.png"):
        dataset.open(dataset.items("train")[0])


def test_check_names_the_split_that_is_too_small(tmp_path: Path, image: Draw) -> None:
    image("a.png")
    dataset = opened(
        tmp_path, *({"image": "a.png", "caption": "x", "id": i, "split": s} for i, s in enumerate(["train", "train", "dev"]))
    )
    check(dataset, ["train"])
    with pytest.raises(DatasetError, match="dev has 1 item; expected: at least 2"):
        check(dataset, ["train", "dev"])
    with pytest.raises(DatasetError, match="test has no items"):
        check(dataset, ["test"])
