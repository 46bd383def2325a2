"""Collections whose rows name token files, and collections that keep tokens nowhere, on Milvus Lite and a Milvus server."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from milvus_coop.bundle.spec import BundleSpec
from milvus_coop.errors import FilterError, InvalidArgumentError, TokenStoreError
from milvus_coop.store import Store
from milvus_coop.store.schema import HEADER, Header, collection_schema
from milvus_coop.store.token_store import token_key
from milvus_coop.types import Content, ImageFile, Kind, Row, StoredText, StoredTokens, TokenFile
from tests.contract.store_samples import SPEC, make_rows

STORED = replace(SPEC, name="stored", tokens=replace(SPEC.tokens, keep="store"))
OPENED = replace(SPEC, name="opened", tokens=replace(SPEC.tokens, count=0, dim=0, keep="nowhere"))
RAW = bytes(SPEC.tokens.n_bytes)


@pytest.fixture
def stored(store: Store, store_uri: str, tmp_path: Path) -> Iterator[Store]:
    """A store that knows where token files go."""
    with Store(store_uri, token_store=tmp_path / "tokens", timeout_s=20) as opened:
        yield opened
        for info in opened.list():
            if info.bundle == STORED.label:
                opened.drop(info.name)


def with_keys(rows: list[Row]) -> list[Row]:
    return [replace(row, content=TokenFile(token_key(row.id, row.digest))) for row in rows]


def key_of(row: Row) -> str:
    assert isinstance(row.content, TokenFile)
    return row.content.key


def test_files_go_with_their_rows(stored: Store, tmp_path: Path) -> None:
    folder = tmp_path / "tokens" / "contract_tokens"
    collection = stored.create("contract_tokens", STORED)
    rows = with_keys(make_rows(6))
    tokens = collection.tokens
    assert tokens is not None
    tokens.write({key_of(row): RAW for row in rows})
    collection.upsert(rows)
    assert [c.content for c in collection.search(rows[0].embedding[None], 1)[0]] == [rows[0].content]
    (changed,) = with_keys([replace(rows[0], digest="another")])
    tokens.write({key_of(changed): RAW})
    assert len(list(tokens.entries())) == 7
    collection.upsert([changed, rows[1]])
    collection.delete([rows[2].id, "unknown"])
    assert {entry.name for entry in tokens.entries()} == {key_of(changed), *(key_of(row) for row in (rows[1], *rows[3:]))}
    with suppress(InvalidArgumentError):
        collection.upsert([replace(rows[1], content=TokenFile("x" * 129))])
    assert collection.sweep(older_than_s=0).needed == 5
    assert stored.describe("contract_tokens") == collection.info()
    assert collection.info().tokens == str(folder)
    stored.drop("contract_tokens")
    assert not folder.exists()


def test_where_the_files_are_is_remembered(stored: Store, store: Store, tmp_path: Path) -> None:
    collection = stored.create("contract_remembered", STORED)
    assert collection.tokens is not None
    with Store(store._connection.address.folder or store._connection.address.endpoint) as another:
        opened = another.open("contract_remembered", STORED)
        assert opened.tokens is not None
        assert opened.tokens.location == collection.tokens.location
    for path in (tmp_path / "tokens" / "contract_remembered").iterdir():
        path.unlink()
    (row,) = with_keys(make_rows(1))
    collection.upsert([row])
    with pytest.raises(TokenStoreError, match="is not at"):
        store.open("contract_remembered")


def test_without_a_place(store: Store) -> None:
    if store._connection.is_lite:
        assert store.create("contract_beside", STORED).tokens is not None
        return
    with pytest.raises(InvalidArgumentError, match="too large for Milvus at http"):
        store.create("contract_beside", STORED)
    assert "contract_beside" not in {info.name for info in store.list()}


def test_an_odd_place_does_not_hide_other_collections(store: Store) -> None:
    header = Header("image", STORED.label, STORED.fingerprint, "1" * 32, "http://somewhere/else")
    schema = collection_schema(STORED, "image", header)
    store._connection.call("create_collection", collection="contract_odd", schema=schema, properties={HEADER: header.to_json()})
    try:
        assert {info.name: info.tokens for info in store.list()}["contract_odd"] == "http://somewhere/else"
        with pytest.raises(InvalidArgumentError, match="a token store cannot be at http://"):
            store.open("contract_odd", STORED)
    finally:
        store._connection.call("drop_collection", collection="contract_odd")


def test_tokens_kept_nowhere(store: Store) -> None:
    collection = store.create("contract_opened", OPENED)
    rows = [replace(row, content=ImageFile(row.uri)) for row in make_rows(3)]
    collection.upsert(rows)
    (best,) = collection.search(rows[0].embedding[None], 1)[0]
    assert (best.uri, best.content) == (rows[0].uri, ImageFile(rows[0].uri))
    again = store.open("contract_opened", OPENED)
    assert again.tokens is None
    assert again.rows([rows[0].id])[rows[0].id].content == ImageFile(rows[0].uri)
    assert again.info().tokens.startswith("none: images are opened")
    for content in (ImageFile("file:///another.png"), make_rows(1)[0].content):
        with pytest.raises(InvalidArgumentError, match="keeps no image tokens"):
            again.upsert([replace(rows[0], content=content)])


def test_texts_need_no_place(store: Store) -> None:
    texts = store.create("contract_stored_texts", STORED, "text")
    assert texts.tokens is None
    assert texts.content_of("a dog") == StoredText("a dog")


@pytest.mark.parametrize(
    ("spec", "kind", "content", "field", "string"),
    [
        (SPEC, "image", StoredTokens("QUJD"), "image_tokens", "QUJD"),
        (STORED, "image", TokenFile("any/key"), "image_tokens", "any/key"),
        (SPEC, "text", StoredText("a dog"), "text", "a dog"),
    ],
)
def test_what_the_field_holds(stored: Store, spec: BundleSpec, kind: Kind, content: Content, field: str, string: str) -> None:
    """These strings are the format of every collection that exists; other programs read them too."""
    collection = stored.create("contract_strings", spec, kind)
    (row,) = (replace(row, content=content) for row in make_rows(1))
    collection.upsert([row])
    (record,) = stored._connection.call("query", collection=collection.name, filter="", limit=1, output_fields=["*"])
    assert record[field] == string
    assert collection.rows([row.id])[row.id].content == content
    assert collection.content_of(string) == content
    stored.drop(collection.name)


def test_views_read_a_part_and_do_not_write(stored: Store) -> None:
    collection = stored.create("contract_tokens", STORED)
    rows = [replace(row, metadata={"year": year}) for year, row in enumerate(with_keys(make_rows(6)))]
    assert collection.tokens is not None
    collection.tokens.write({key_of(row): RAW for row in rows})
    collection.upsert(rows)
    view = collection.within("year < 2")
    here = {row.id for row in rows[:2]}
    ids = [row.id for row in rows]
    assert view.count() == 2
    assert set(view.uris(ids)) == set(view.stamps(ids)) == set(view.rows(ids)) == here
    assert {id for id, _ in view.all_stamps()} == here
    assert {found.id for found in view.candidates(ids, rows[0].embedding)} == here
    assert {found.id for found in view.search(rows[0].embedding[None], 6)[0]} == here
    assert {found.id for found in view.within("year > 0").search(rows[0].embedding[None], 6)[0]} == {rows[1].id}
    strings = [key_of(row) for row in rows]
    assert collection.contents_of([*strings, "x"]) == [*map(TokenFile, strings), collection.content_of("x")]
    assert view.contents_of([*strings, "x"])[:6] == [TokenFile(key) for key in strings[:2]] + [None] * 4
    assert not any(hasattr(view, name) for name in ("upsert", "insert", "settle", "delete", "sweep", "flush"))
    for breaking in ("year < 2) or (year >= 0", "(", "'", "year < 9 #", "]"):
        with pytest.raises(FilterError):
            view.search(rows[0].embedding[None], 6, filter=breaking)
        with pytest.raises(FilterError):
            collection.within(breaking)
    with pytest.raises(FilterError) as caught:
        view.search(rows[0].embedding[None], 6, filter="year >")
    assert "year < 2" not in str(caught.value)
    assert collection.count() == 6
