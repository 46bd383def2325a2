"""The recipe's packages and readers, on a few files made here."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from milvus_coop.offline.datasets import open_dataset
from recipes.coop_small.class_names import ImageNetClass, read_classes, read_english_words
from recipes.coop_small.drawings import collect
from recipes.coop_small.packages import PACKAGES
from recipes.coop_small.sources import read_clipart, read_emoji_texts, read_icons, read_stamps
from recipes.coop_small.split import Record
from tests.recipes.raw import CIRCLE, SQUARE, write_clipart, write_icons, write_raw


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    write_raw(tmp_path / "raw")
    return tmp_path / "raw"


def test_packages_have_a_licence_and_share_alike_art_is_not_trained_on() -> None:
    assert len({package.folder for package in PACKAGES}) == len(PACKAGES)
    for package in PACKAGES:
        assert package.licence
        assert package.role != "train" or "SA" not in package.licence


def test_a_stamp_has_the_first_line_as_caption(raw: Path) -> None:
    root = "tuxpaint-stamps-default/usr/share/tuxpaint/stamps"
    assert list(read_stamps(raw)) == [
        Record("stamps/animals/dog", "stamps", f"{root}/animals/dog.png", ("A dog.",)),
        Record("stamps/animals/old", "stamps", f"{root}/animals/old.svg", ("An old dog.",)),
    ]


def test_clip_art_needs_an_english_title_that_is_not_used_often(raw: Path) -> None:
    write_clipart(raw, "pets/hund", "Hund", "dog")
    for number in range(6):
        write_clipart(raw, f"series/{number}", "cat", "apple")
    found = list(read_clipart(raw, read_english_words(raw)))
    assert [(record.id, record.texts) for record in found] == [("clipart/pets/dog_01", ("red dog", "cat"))]


def test_icons_are_named_by_emojibase_or_by_their_own_name(raw: Path) -> None:
    names = ["red-apple", "red-apple-2", "cats", "zzz", "flag-dog", "dog-medium-dark", "dog-skin-tone-2"]
    write_icons(raw, "noto", dict.fromkeys(names, CIRCLE))
    found = list(read_icons(raw, "noto", read_emoji_texts(raw), read_english_words(raw)))
    assert [(record.id, record.texts) for record in found] == [
        ("noto/cats", ("cats",)),
        ("noto/red-apple", ("red apple", "apple", "red")),
        ("noto/red-apple-2", ("red apple", "apple", "red")),
    ]


def test_classes_have_readable_names_and_the_words_above_them(raw: Path) -> None:
    names = raw / "open-clip-torch/open_clip/zero_shot_metadata.py"
    synsets = raw / "timm/timm/data/_info/imagenet_synsets.txt"
    for path, text in ((names, "import missing\nIMAGENET_CLASSNAMES = ['Irish setter']\n"), (synsets, "n00000003\n")):
        path.parent.mkdir(parents=True)
        path.write_text(text, "utf-8")
    assert read_classes(raw) == [ImageNetClass("Irish setter", (("red setter",), ("dog", "domestic dog"), ("entity",)))]


def test_the_product_reads_what_is_collected(raw: Path) -> None:
    write_icons(raw, "noto", {"dog": SQUARE, "red-apple": CIRCLE})
    write_icons(raw, "openmoji", {"cats": '<path d="M7 0h2v16H7z"/>', "red-apple": '<path d="M0 7h16v2H0z"/>'})
    path = collect(raw.parent)
    lines = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    assert {(line["id"], line["source"], line["split"]) for line in lines} == {
        ("stamps/animals/dog", "stamps", "dev"),  # chosen by the hash of its id, so that the icon of a dog is cut
        ("clipart/pets/dog_01", "clipart", "train"),
        ("noto/red-apple", "noto", "train"),
    }
    drawings, style = (open_dataset(f"jsonl:{path.with_name(name)}") for name in ("captions.jsonl", "style.jsonl"))
    assert not drawings.problems
    assert not style.problems
    items = {item.id: item for item in drawings.items("train")}
    assert [caption.text for caption in items["noto/red-apple"].captions] == ["red apple", "apple", "red"]
    assert drawings.open(drawings.items("dev")[0]).size == (320, 256)
    assert [[caption.text for caption in item.captions] for item in style.items("test")] == [["cats"], ["red apple"]]
    icon = style.open(style.items("test")[0])
    assert icon.size == (320, 320)
    assert icon.getpixel((5, 5)) == (255, 255, 255)
    assert icon.getpixel((160, 160)) == (0, 0, 0)
    assert Image.open(path.parent / "images/noto/red-apple.png").getpixel((160, 160)) == (0x22, 0x22, 0x22)
