"""Metadata whose names are words of Milvus' filters, or no names at all there: as docs/search.md says, on Milvus Lite."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from milvus_coop import CoopIngest, CoopSearch
from milvus_coop.errors import FilterError

IMAGES = Path(__file__).parent.parent.parent / "examples" / "images"
WORDS = ("like", "in", "and", "or", "not", "LIKE", "In", "exists", "is", "null", "true", "interval", "iso")
ODD = ("year month", "2year", "a.b", 'quo"te', "back\\slash", "it's", "a-b")
HARMLESS = ("naïve", "json_contains", "text_match", "array_contains", "has")


@pytest.fixture(scope="module")
def search(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CoopSearch]:
    """Two images, of which the dog's has every name, with the value 3."""
    folder = tmp_path_factory.mktemp("names")
    fields = dict.fromkeys((*WORDS, *ODD, *HARMLESS), 3) | {"camera": {"like": 3}}
    lines = [{"path": str(IMAGES / "dog.jpg"), **fields}, {"path": str(IMAGES / "cat.jpg")}]
    (folder / "list.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    with CoopIngest("images", uri=folder / "lite.db") as ingest:
        assert ingest.run([folder / "list.jsonl"]).added == 2
    with CoopSearch("images", uri=folder / "lite.db") as opened:
        yield opened


def found(search: CoopSearch, filter: str) -> list[str]:
    return [Path(hit.uri).stem for hit in search.query("an animal", filter=filter, rerank=False)]


@pytest.mark.parametrize("name", [*WORDS, *ODD, *HARMLESS])
def test_every_name_can_be_filtered_by_and_returned(search: CoopSearch, name: str) -> None:
    field = f"$meta[{json.dumps(name, ensure_ascii=False)}]"
    for filter in (f"{field} == 3", f"{field} > 2", f"{field} == 3 or {field} == 4", f"exists {field}"):
        assert found(search, filter) == ["dog"], filter
    assert found(search, f"{field} == 4") == []
    values = [hit.fields.get(name) for hit in search.query("a dog", output_fields=[name])]
    assert sorted(values, key=str) == [3, None]


@pytest.mark.parametrize("name", [*WORDS, *ODD])
def test_these_need_it(search: CoopSearch, name: str) -> None:
    if name == "a-b":  # a subtraction
        assert found(search, f"{name} == 3") == []
        return
    for filter in (f"{name} == 3", f"({name} > 2)", f"has == 3 and not {name} == 3"):
        with pytest.raises(FilterError, match="Milvus rejects the filter") as caught:
            found(search, filter)
        assert caught.value.run.startswith(f"$meta[{json.dumps(name)}], if ")


@pytest.mark.parametrize("filter", ["has >", "(has > 3", "has == 3 and", "3 == has naïve", "'a b' == has has"])
def test_other_mistakes_have_nothing_to_do_with_names(search: CoopSearch, filter: str) -> None:
    with pytest.raises(FilterError) as caught:
        found(search, filter)
    assert caught.value.run == ""


@pytest.mark.parametrize("name", HARMLESS)
def test_these_do_not(search: CoopSearch, name: str) -> None:
    assert found(search, f"{name} == 3") == ["dog"]


def test_objects_go_on_like_that(search: CoopSearch) -> None:
    assert found(search, 'camera["like"] == 3') == found(search, '$meta["camera"]["like"] == 3') == ["dog"]


def test_in_takes_plain_names_only(search: CoopSearch) -> None:
    with pytest.raises(FilterError):
        found(search, '$meta["in"] in [3]')
