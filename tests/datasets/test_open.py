"""The text after `--data`: formats, options, guesses, and what is said about mistakes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from milvus_coop.errors import DatasetError
from milvus_coop.offline.datasets import FORMATS, open_dataset
from milvus_coop.offline.datasets.open import guess_format
from milvus_coop.offline.datasets.spec import parse_spec
from tests.datasets.conftest import Draw


def test_paths_and_values_may_contain_commas_and_colons() -> None:
    spec = parse_spec("jsonl:/a,b/c:d.jsonl,images=/x,y/z,language=de", FORMATS)
    assert (spec.format, spec.path, dict(spec.options)) == ("jsonl", Path("/a,b/c:d.jsonl"), {"images": "/x,y/z", "language": "de"})


def test_a_drive_letter_is_no_format() -> None:
    assert parse_spec(r"C:\data\list.jsonl", FORMATS).format == ""


@settings(max_examples=30, deadline=None)
@given(
    st.sampled_from(sorted(FORMATS)),
    st.dictionaries(st.sampled_from(["n", "images", "language", "x_y"]), st.text("ab/.+,:9", min_size=1, max_size=6)),
)
def test_every_option_comes_back(name: str, options: dict[str, str]) -> None:
    spec = parse_spec(",".join([f"{name}:some/path", *(f"{key}={value}" for key, value in options.items())]), FORMATS)
    assert (spec.format, spec.path, dict(spec.options)) == (name, Path("some/path"), options)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("", "names no data"),
        ("n=3", "names no data"),
        ("karpaty:/x", "there is no format 'karpaty'; expected: one of .*; try: --data karpathy:/x"),
        ("jsonl:/nowhere/x.jsonl", "there is no /nowhere/x.jsonl"),
        ("/nowhere/x.jsonl", "there is no /nowhere/x.jsonl"),
        ("jsonl", "no path"),
        ("jsonl:https://example.org/x.jsonl", "is an address"),
        ("https://example.org/x.jsonl", "is an address"),
        ("karpathy:x.json,restvals=0", "karpathy has no option 'restvals'; expected: .*; try: restval=0"),
        ("folder:{tmp},dev=0.1,dev=0.2", "dev is given twice"),
        ("multi30k:{tmp},task=many", "task=many; expected: a whole number from 1 to 2"),
        ("multi30k:{tmp},task=3", "task=3; expected: a whole number from 1 to 2"),
        ("karpathy:{tmp}/a.jsonl,restval=yes", "restval=yes; expected: 0 or 1"),
        ("jsonl:{tmp}/a.jsonl,images=/nowhere", "images=/nowhere; expected: a folder"),
        ("jsonl:{tmp}/a.jsonl,language=en+de", "expected: one language"),
        ("jsonl:{tmp}/a.jsonl,language=German!", "expected: language codes"),
        ("jsonl:{tmp}", "is a folder; expected: a JSONL file; try: --data folder:"),
        ("folder:{tmp}/a.jsonl", "is a file; expected: a folder"),
        ("folder:{tmp},dev=5", "dev=5; expected: a share"),
        ("folder:{tmp},dev=0.6,test=0.5", "below 1 together"),
        ("multi30k:{tmp}", "no image list"),
        ("{tmp}/notes.md", "format of a .md is not known"),
    ],
)
def test_mistakes_are_named(given: str, said: str, tmp_path: Path) -> None:
    for name in ("a.jsonl", "notes.md"):
        (tmp_path / name).touch()
    with pytest.raises(DatasetError, match=said):
        open_dataset(given.format(tmp=tmp_path))


def test_formats_are_guessed(tmp_path: Path, image: Draw) -> None:
    (tmp_path / "a.jsonl").touch()
    (tmp_path / "dataset.json").write_text(json.dumps({"images": []}))
    (tmp_path / "multi").mkdir()
    (tmp_path / "multi/train.txt").write_text("a.jpg\n")
    assert guess_format(tmp_path / "multi") == "folder", "a sidecar may be called train.txt"
    (tmp_path / "multi/train.en").write_text("A box.\n")
    found = {name: guess_format(tmp_path / name) for name in ("a.jsonl", "dataset.json", "multi", "")}
    assert found == {"a.jsonl": "jsonl", "dataset.json": "karpathy", "multi": "multi30k", "": "folder"}


def test_every_option_is_explained() -> None:
    for format_ in FORMATS.values():
        assert all(format_.keys.values())


@pytest.mark.parametrize("format_", ["jsonl", "folder", "karpathy"])
def test_images_without_captions_are_kept_where_they_may_lack_them(tmp_path: Path, image: Draw, format_: str) -> None:
    image("images/a.png")
    image("images/b.png")
    (tmp_path / "images" / "b.txt").write_text("A box.", "utf-8")
    (tmp_path / "list.jsonl").write_text('{"image": "images/a.png"}\n{"image": "images/b.png", "captions": ["A box."]}', "utf-8")
    rows = [
        {"filename": name, "split": "train", "sentences": [{"raw": text} for text in texts]}
        for name, texts in (("a.png", []), ("b.png", ["A box."]))
    ]
    (tmp_path / "list.json").write_text(json.dumps({"images": rows}), "utf-8")
    spec = {
        "jsonl": f"jsonl:{tmp_path}/list.jsonl",
        "folder": f"folder:{tmp_path}/images,dev=0,test=0",
        "karpathy": f"karpathy:{tmp_path}/list.json,images={tmp_path}/images",
    }[format_]
    kept = open_dataset(spec, may_lack_captions=True).items("train")
    assert [[caption.text for caption in item.captions] for item in kept] == [[], ["A box."]]
    assert [len(item.captions) for item in open_dataset(spec).items("train")] == [1]
