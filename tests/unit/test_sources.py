"""Folders, globs, files and lists as sources of items."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from milvus_coop.errors import SourceError
from milvus_coop.ingest.items import Item, checked, hash_of_metadata
from milvus_coop.ingest.sources import PassedOver, open_sources, read_sources
from milvus_coop.ingest.sources.lists import parse_value
from milvus_coop.types import Failure, Kind


def write(path: Path, content: str = "x") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding="utf-8")
    return path


def read(*sources: str | Path, kind: Kind = "image") -> tuple[list[Item], list[Failure]]:
    entries = list(read_sources(open_sources(sources, kind), set()))
    return [e for e in entries if isinstance(e, Item)], [e for e in entries if isinstance(e, Failure)]


def names(*sources: str | Path, root: Path) -> list[str]:
    items, failures = read(*sources)
    assert not failures
    return [Path(item.uri).relative_to(root).as_posix() for item in items]


@pytest.fixture
def album(tmp_path: Path) -> Path:
    root = tmp_path / "album"
    for name in ("b.jpg", "a.PNG", "notes.txt", ".hidden.jpg", "2020/z.tiff", "2020/x/y.webp", ".trash/c.jpg", "2021/k.gif"):
        write(root / name)
    return root


def test_a_folder_is_read_in_order_without_hidden_files(album: Path) -> None:
    assert names(album, root=album) == ["a.PNG", "b.jpg", "2020/z.tiff", "2020/x/y.webp", "2021/k.gif"]


def test_uris_are_absolute_paths(album: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(album.parent)
    items, _ = read("./album/../album/b.jpg")
    assert items[0].uri == str(album / "b.jpg")
    assert items[0].image == album / "b.jpg"
    assert len(items[0].id) == 32


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*.jpg", ["b.jpg"]),
        ("**/*.webp", ["2020/x/y.webp"]),
        ("**", ["a.PNG", "b.jpg", "2020/z.tiff", "2020/x/y.webp", "2021/k.gif"]),
        ("202[01]/*", ["2020/z.tiff", "2021/k.gif"]),
        ("20?0/**/*.*", ["2020/z.tiff", "2020/x/y.webp"]),
        ("*", ["a.PNG", "b.jpg"]),
    ],
)
def test_globs(album: Path, pattern: str, expected: list[str]) -> None:
    assert names(album / pattern, root=album) == expected


def test_a_name_with_brackets_is_no_glob(tmp_path: Path) -> None:
    write(tmp_path / "a[1].jpg")
    assert names(tmp_path / "a[1].jpg", root=tmp_path) == ["a[1].jpg"]


def test_links_in_circles_end_and_no_folder_is_read_twice(album: Path) -> None:
    (album / "2020" / "up").symlink_to(album)
    (album / "1999").symlink_to(album / "2020")
    (album / "self.jpg").symlink_to(album / "self.jpg")
    (album / "linked.jpg").symlink_to(album / "b.jpg")
    expected = ["a.PNG", "b.jpg", "linked.jpg", "self.jpg", "2020/z.tiff", "2020/x/y.webp", "2021/k.gif"]
    assert names(album, root=album) == expected


def test_a_folder_called_like_a_picture_is_a_folder(album: Path) -> None:
    write(album / "folder.jpg" / "inside.jpg")
    assert "folder.jpg" not in names(album, root=album)
    assert "folder.jpg/inside.jpg" in names(album, root=album)


def test_overlapping_sources_name_each_picture_once(album: Path) -> None:
    assert names(album / "2020" / "*", album, album / "b.jpg", root=album).count("b.jpg") == 1
    assert len(names(album / "2020" / "*", album, root=album)) == 5


@pytest.mark.parametrize(
    ("source", "kind", "message"),
    [
        ("missing", "image", "there is no .*missing; expected: a folder, a glob"),
        ("album/notes.txt", "image", "of another type"),
        ("empty", "image", "has no images"),
        ("album/*.xyz", "image", "has no images"),
        ("nowhere/*.jpg", "image", "has no images: the folder cannot be listed"),
        ("album", "text", "is a folder; expected: a file of texts"),
        ("album/b.jpg", "text", "of another type"),
        ("empty.txt", "text", "has no texts"),
        ("empty.jsonl", "image", "has no images"),
        ("headless.csv", "image", "no header with a column"),
    ],
)
def test_sources_without_items_are_errors(album: Path, source: str, kind: Kind, message: str) -> None:
    (album.parent / "empty").mkdir()
    write(album.parent / "empty.txt", "\n  \n")
    write(album.parent / "empty.jsonl", "\n")
    write(album.parent / "headless.csv", "a,b\n1,2\n")
    with pytest.raises(SourceError, match=message):
        read(album.parent / source, kind=kind)


def test_no_sources_is_an_error() -> None:
    with pytest.raises(SourceError, match="no sources"):
        read()


@pytest.mark.parametrize("sources", ["", " ", [""], ["a.jpg", ""]])
def test_an_empty_name_is_not_this_folder(album: Path, monkeypatch: pytest.MonkeyPatch, sources: Any) -> None:
    monkeypatch.chdir(album)
    with pytest.raises(SourceError, match=r"the name of a source is empty|there is no "):
        open_sources(sources, "image")


def test_one_path_is_one_source(album: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(album)
    for sources in ("./", album, [album], (source for source in ["./"]), {album}):
        (source,) = open_sources(sources, "image")
        assert len(list(source.entries())) == 5


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("x" * 5000, "File name too long"),
        ("a\0b", "there is no|null"),
        ("b\0/*", "null"),
        ("*\0/*", "has no images"),
        ("caf\udce9", r"no .*caf\\udce9"),
    ],
)
def test_paths_that_no_system_has(album: Path, source: str, message: str) -> None:
    with pytest.raises(SourceError, match=message) as caught:
        open_sources(source, "image")
    assert len(str(caught.value)) < 800
    str(caught.value).encode()


@pytest.mark.parametrize("sources", [5, None, b"photos", [b"photos"], [None], [["a"]]])
def test_sources_of_another_type_are_refused(sources: Any) -> None:
    with pytest.raises(SourceError, match=r"of type (int|NoneType|bytes|list); expected: "):
        open_sources(sources, "image")


def test_images_of_other_kinds_are_passed_over_and_counted(album: Path) -> None:
    for name in ("x.svg", "2020/y.SVG", "2021/z.psd", "2021/raw.cr3", ".hidden.svg", "clip.mp4"):
        write(album / name)
    passed = PassedOver()
    items = list(read_sources(open_sources([album, album / "2020" / "*"], "image"), set(), passed))
    assert len(items) == 5
    assert passed.counts == {".svg": 2, ".psd": 1, ".cr3": 1}
    passed = PassedOver()
    list(read_sources(open_sources(album / "**" / "*.[pP]*", "image"), set(), passed))
    assert passed.counts == {".psd": 1}


def test_a_folder_of_other_kinds_says_so(tmp_path: Path) -> None:
    write(tmp_path / "a.svg")
    write(tmp_path / "b.svg")
    with pytest.raises(SourceError, match=r"has no images: 2 \.svg cannot be read"):
        open_sources(tmp_path, "image")


def test_jsonl_of_pictures(tmp_path: Path) -> None:
    rows: list[Any] = [
        {"path": "a.jpg", "year": 2020, "tags": ["x", {"y": None}], "none": None},
        {"uri": "sub/../b.jpg"},
        {"uri": "https://example.com/c.jpg", "path": "/data/c.jpg"},
        {"uri": "file:///data/d%20e.jpg", "title": "naïve 猫"},
    ]
    source = write(tmp_path / "list.jsonl", "\n\n".join(json.dumps(row) for row in rows))
    items, failures = read(source)
    assert not failures
    assert [(i.uri, i.image, i.metadata) for i in items] == [
        (f"{tmp_path}/a.jpg", tmp_path / "a.jpg", {"year": 2020, "tags": ["x", {"y": None}]}),
        (f"{tmp_path}/b.jpg", tmp_path / "b.jpg", {}),
        ("https://example.com/c.jpg", Path("/data/c.jpg"), {}),
        ("/data/d e.jpg", Path("/data/d e.jpg"), {"title": "naïve 猫"}),
    ]


def test_broken_lines_are_named_with_their_number(tmp_path: Path) -> None:
    lines = [
        b'\xef\xbb\xbf{"path": "a.jpg"}',
        b"not json",
        b"[1]",
        b'{"path": ""}',
        b'{"path": 7}',
        b'{"uri": "http://example.com/a.jpg"}',
        b'{"path": "b.jpg", "id": 1}',
        b'{"path": "b.jpg", "x": NaN}',
        b'{"path": "b.jpg", "x": 1e999}',
        b'{"path": "b.jpg", "x": 9223372036854775808}',
        b'{"path": "b.jpg", "x": "\xff"}',
        b'{"path": "b\\u0000.jpg"}',
        b'{"path": "b\\n.jpg"}',
        b'{"path": "b.jpg", "x": "' + b"y" * 70_000 + b'"}',
        b'{"path": "' + b"y" * 3000 + b'.jpg"}',
        b'{"path": "b.jpg", "": 1}',
        b'{"path": "file://[bad/x.jpg"}',
        b'{"path": "b.jpg", "gps": {"lat": 1e400}}',
        b'{"path": "b.jpg", "gps": [{"n": 9223372036854775808}]}',
        b'{"path": "b.jpg", "smile": ["\\ud83d"]}',
        b'{"path": "b.jpg", "\\ud83d": 1}',
        b'{"path": "b\\ud83d.jpg"}',
        b'{"path": "b.jpg", "x": 1, "x": 2}',
        b'{"path": "a.jpg"}',
        b'{"path": "a.jpg", "x": 1}',
        b"[" * 100_000,
        b'{"path": "c.jpg"}',
    ]
    source = tmp_path / "list.jsonl"
    source.write_bytes(b"\r\n".join(lines))
    items, failures = read(source)
    assert [Path(i.uri).name for i in items] == ["a.jpg", "c.jpg"]
    numbered = [int(f.uri.rpartition(":")[2]) for f in failures if f.uri.startswith(f"{source}:")]
    assert numbered == [*range(2, 24), 26]
    reasons = {int(f.uri.rpartition(":")[2]): f.reason for f in failures if f.uri.startswith(f"{source}:")}
    assert reasons[17].startswith("line 17: 'file://[bad/x.jpg' is neither a path nor a file:// address")
    assert reasons[18] == "'lat' is not a finite number"
    assert reasons[23] == "line 23: the name 'x' appears twice"
    assert "line 2: not JSON" in failures[0].reason
    assert [f.uri for f in failures if "more than once, with different content" in f.reason] == [f"{tmp_path}/a.jpg"]


def test_csv_values_are_parsed(tmp_path: Path) -> None:
    content = (
        "path,year,score,ok,code,title,empty\r\n"
        'a.jpg,2020,-1.5e3,TRUE,007,"one, ""two""",\r\n'
        "b.jpg,1,2,3,4,5,6,7\r\n"
        'c.jpg,1\r\n"d\ne.jpg",2,,,,,\r\n'
    )
    source = write(tmp_path / "list.csv", content)
    items, failures = read(source)
    assert items[0].metadata == {"year": 2020, "score": -1500.0, "ok": True, "code": "007", "title": 'one, "two"'}
    assert items[1].metadata == {"year": 1}
    assert [(f.uri, f.reason) for f in failures] == [
        (f"{source}:3", "line 3: more values than the header's 7 columns"),
        (f"{source}:6", "its name has control characters"),
    ]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("12", 12), ("-3", -3), ("0", 0), ("007", "007"), ("1_000", "1_000"), ("12345678901234567890", "12345678901234567890"),
        ("1234e567", "1234e567"),
        ("1.5", 1.5), (".5", 0.5), ("1e3", 1000.0), ("1.", 1.0), ("e3", "e3"), ("nan", "nan"), ("inf", "inf"), ("0x1F", "0x1F"),
        ("true", True), ("False", False), ("yes", "yes"), ("", None), ("  ", None), (" 4 ", 4), (" a ", " a "),
        ("2020-01-02", "2020-01-02"),
    ],
)  # fmt: skip
def test_csv_value(text: str, value: Any) -> None:
    parsed = parse_value(text)
    assert (type(parsed), parsed) == (type(value), value)


@pytest.mark.parametrize(
    ("header", "kind", "message"),
    [
        ("path,year,year", "image", "has two columns 'year'"),
        ("path, year,year ", "image", "has two columns 'year'"),
        ("path,id", "image", r"has a column 'id', and that name is taken .* another name; a column 'uri' names images"),
        ("path,text", "image", "has a column 'text', and that name is taken"),
        ("path,$meta", "image", "has a column '\\$meta'"),
        ("text,embedding", "text", "has a column 'embedding'"),
        (",path", "image", r"column 1 of .* has no name; .*index=False"),
        ('path,"year', "image", "the header of .* is not CSV"),
    ],
)
def test_headers_that_cannot_be_used_are_refused_once(tmp_path: Path, header: str, kind: Kind, message: str) -> None:
    source = write(tmp_path / "list.csv", f"{header}\na.jpg,1,2\nb.jpg,1,2\n")
    with pytest.raises(SourceError, match=message):
        open_sources(source, kind)
    other = write(tmp_path / "other.jsonl", '{"path": "c.jpg", "text": "a dog"}' if kind == "text" else '{"path": "c.jpg"}')
    items = list(open_sources(other, kind)[0].entries())
    assert len(items) == 1


def test_names_of_columns_are_taken_without_blanks(tmp_path: Path) -> None:
    source = write(tmp_path / "list.csv", " path , year,\na.jpg,2020,\nb.jpg,2021,lost\n")
    items, failures = read(source)
    assert [(item.image, item.metadata) for item in items] == [(tmp_path / "a.jpg", {"year": 2020})]
    assert [f.reason for f in failures] == ["line 3: a value stands in a column without a name"]


def test_a_text_that_is_not_unicode_is_named_and_the_rest_goes_on(tmp_path: Path) -> None:
    lines = [
        '{"text": "smile \\ud83d"}',
        '{"text": "a dog"}',
        '{"text": "a cat", "uri": "\\ud83d"}',
        '{"text": "a cat", "id": "\\ud83d"}',
        '{"text": "a cat", "n": "\\ud83d"}',
        '{"text": "a cat", "\\ud83d": 1}',
        '{"text": "a cat", "uri": "a", "id": "b"}',
    ]
    items, failures = read(write(tmp_path / "t.jsonl", "\n".join(lines)), kind="text")
    assert [item.text for item in items] == ["a dog"]
    assert [f.uri.rpartition(":")[2] for f in failures] == ["1", "3", "4", "5", "6", "7"]
    assert all("not valid Unicode" in f.reason for f in failures[:-1])


def test_a_list_whose_own_name_is_not_unicode(tmp_path: Path) -> None:
    source = tmp_path / os.fsdecode(b"caf\xe9.jsonl")
    source.write_text('{"path": "/a.jpg"}\nbroken\n')
    items, failures = read(source)
    assert [item.uri for item in items] == ["/a.jpg"]
    assert [f.uri for f in failures] == [f"{tmp_path}/caf\\udce9.jsonl:2"]


def test_a_list_with_broken_lines_only_is_a_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "t.jsonl", "broken\n")
    monkeypatch.chdir(tmp_path)
    for source in ("t.jsonl", tmp_path / "t.jsonl"):
        assert [f.reason[:14] for f in read(source)[1]] == ["line 1: not JS"]


def test_text_files(tmp_path: Path) -> None:
    source = write(tmp_path / "captions.txt", "a dog\n\n  a cat  \na dog\n")
    items, failures = read(source, kind="text")
    assert not failures
    assert [i.text for i in items] == ["a dog", "a cat"]  # the same caption twice is one item
    assert all(i.uri.startswith(f"{source}#") for i in items)
    write(source, "new first line\na dog\n")
    assert read(source, kind="text")[0][1].uri == items[0].uri  # lines may move


def test_jsonl_and_csv_of_texts(tmp_path: Path) -> None:
    rows = [
        {"text": "a dog", "uri": "u1", "n": 1},
        {"text": "12", "id": 5},
        {"text": "a cat"},
        {"text": "a cat", "n": 2},
        {"text": " "},
        {"n": 1},
        {"text": "a bird", "uri": ["x"]},
        {"text": "another dog", "uri": "u1"},
    ]
    items, failures = read(write(tmp_path / "t.jsonl", "\n".join(map(json.dumps, rows))), kind="text")
    assert [(i.text, i.uri) for i in items[:2]] == [("a dog", "u1"), ("12", "5")]
    assert [i.text for i in items] == ["a dog", "12", "a cat"]
    assert [f.uri.rpartition(":")[2] for f in failures if "line" in f.reason[:4]] == ["5", "6", "7"]
    assert sum("more than once" in f.reason for f in failures) == 2
    items, _ = read(write(tmp_path / "t.csv", "text,id,n\n12,007,3\n"), kind="text")
    assert [(i.text, i.uri, i.metadata) for i in items] == [("12", "007", {"n": 3})]


def test_globs_of_texts(tmp_path: Path) -> None:
    write(tmp_path / "a.txt", "one\ntwo\n")
    write(tmp_path / "sub" / "b.txt", "three\n")
    assert [i.text for i in read(tmp_path / "**" / "*.txt", kind="text")[0]] == ["one", "two", "three"]


def test_what_no_collection_can_hold(tmp_path: Path) -> None:
    latin = Item(os.fsdecode(b"/caf\xe9.jpg"))
    assert len(latin.id) == 32
    assert checked(latin) == Failure("/caf\\udce9.jpg", "its name is not valid Unicode")
    assert checked(Item("/a\nb.jpg")) == Failure("/a\\nb.jpg", "its name has control characters")
    assert isinstance(checked(Item("/" + "x" * 2048)), Failure)
    assert isinstance(checked(Item("/a", metadata={"k": "x" * 70_000})), Failure)
    assert checked(Item("/a")) == Item("/a")


def test_what_a_list_says_of_a_picture_counts(album: Path) -> None:
    source = write(album.parent / "l.jsonl", json.dumps({"path": "album/b.jpg", "year": 1}))
    items, _ = read(album, source)
    assert [i.metadata for i in items if i.uri.endswith("b.jpg")] == [{"year": 1}]
    assert len(items) == 5


def test_metadata_hash_ignores_the_order_of_keys() -> None:
    assert hash_of_metadata({"a": 1, "b": [2]}) == hash_of_metadata({"b": [2], "a": 1})
    assert hash_of_metadata({"a": 1}) != hash_of_metadata({"a": "1"})
    assert hash_of_metadata(None) == hash_of_metadata({})


def gone(source: str | Path, uri: str | Path, *, kind: Kind = "image", key: str = "", seen: frozenset[str] = frozenset()) -> bool:
    return open_sources([source], kind)[0].gone(seen)(str(uri), key)


def test_only_missing_files_below_a_folder_are_gone(album: Path) -> None:
    assert gone(album, album / "deleted.jpg")
    assert gone(album, album / "2020" / "deleted.jpg")
    assert gone(album, album / "b.jpg" / "was_a_folder.jpg")
    assert not gone(album, album / "b.jpg")
    assert not gone(album, album / ".hidden.jpg")
    assert not gone(album, album.parent / "album2" / "deleted.jpg")
    assert not gone(album, "https://example.com/x.jpg")
    assert not gone(album / "*.jpg", album / "2020" / "z.tiff")
    assert gone(album / "*.jpg", album / "deleted.jpg")
    assert not gone(album / "b.jpg", album / "deleted.jpg")


def test_a_list_of_pictures_loses_what_it_names_and_is_missing(album: Path) -> None:
    source = write(album / "l.jsonl", '{"path": "b.jpg"}\n{"path": "deleted.jpg"}\n{"path": "gone.jpg", "uri": "u"}')
    assert gone(source, album / "deleted.jpg")
    assert gone(source, "u")
    assert not gone(source, album / "b.jpg")
    assert not gone(source, album / "deleted_but_not_listed.jpg")


def test_a_file_of_texts_loses_its_lines(tmp_path: Path) -> None:
    source = write(tmp_path / "a.txt", "one\n")
    write(tmp_path / "b.txt", "two\n")
    assert gone(source, f"{source}#123", kind="text", key="k")
    assert not gone(source, f"{source}#123", kind="text", key="k", seen=frozenset({"k"}))
    assert not gone(source, f"{tmp_path}/b.txt#123", kind="text")
    assert not gone(source, "given", kind="text")
    pattern = tmp_path / "*.txt"
    assert gone(pattern, f"{tmp_path}/deleted.txt#1", kind="text")
    assert gone(pattern, f"{tmp_path}/b.txt#1", kind="text")
    assert not gone(pattern, f"{tmp_path}/c.jsonl#1", kind="text")
    assert not gone(pattern, f"{tmp_path.parent}/x.txt#1", kind="text")
