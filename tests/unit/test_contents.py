"""The cross-encoder's inputs are read from contents of the right type; everything else counts as unreadable."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from milvus_coop.bundle.spec import CE_PREFIX, IMAGE_TOKENS, PIXELS, Keep
from milvus_coop.config import Settings
from milvus_coop.elsewhere.location import parse_location
from milvus_coop.models.open import open_models
from milvus_coop.models.tokens import pack, to_bytes
from milvus_coop.search.contents import ContentReader, ReadContents, content_reader
from milvus_coop.store.token_store import Owner, TokenStore, token_key
from milvus_coop.types import Content, ImageFile, Kind, StoredText, StoredTokens, TokenFile
from tests.toy_bundle import COUNT, TOKEN_DIM, draw, make_bundle

VALUES = np.arange(2 * COUNT * TOKEN_DIM, dtype=np.int8).reshape(2, COUNT, TOKEN_DIM)
SCALES = np.full((2, COUNT), 0.5, np.float16)
KEY = token_key("a" * 32, "b" * 32)


def reader_of(folder: Path, keep: Keep, kind: Kind = "image", tokens: TokenStore | None = None) -> ContentReader:
    make_bundle(folder / keep, keep)
    return content_reader(open_models(Settings(bundle=str(folder / keep))).encoder, kind, tokens)


def read(reader: ContentReader, contents: Sequence[Content | None]) -> ReadContents:
    return reader.read(contents, 10.0)


@pytest.fixture
def contents(tmp_path: Path) -> list[Content | None]:
    """One readable content of each type, and None."""
    path = draw(tmp_path / "a.png", 1)
    return [None, StoredText("a red dog"), StoredTokens(pack(VALUES, SCALES)[1]), TokenFile(KEY), ImageFile(str(path))]


def test_texts(tmp_path: Path, contents: list[Content | None]) -> None:
    reader = reader_of(tmp_path, "collection", "text")
    found = read(reader, contents)
    assert (found.positions, {len(array) for array in found.side.values()}) == ([1], {1})
    # A collection of another program may hold texts that no ingest would take. One of them does not spoil the others.
    odd = [StoredText(text) for text in ("", " \n", "x" * 20_001, "\ud800", "a blue cat")]
    assert read(reader, odd).positions == [4]
    assert read(reader, odd[:4]) == ReadContents()


def test_tokens(tmp_path: Path, contents: list[Content | None]) -> None:
    reader = reader_of(tmp_path, "collection")
    found = read(reader, [*contents, StoredTokens(""), StoredTokens("AAAA"), StoredTokens("no base64")])
    assert found.positions == [2]
    np.testing.assert_array_equal(found.side[IMAGE_TOKENS], VALUES[1:])


def test_token_files(tmp_path: Path, contents: list[Content | None]) -> None:
    tokens = TokenStore.open(
        parse_location(str(tmp_path / "tokens")), Owner("images", "toy 1", "f" * 32, "1" * 32), is_new=lambda: True
    )
    tokens.write({KEY: to_bytes(VALUES, SCALES)[0]})
    found = read(reader_of(tmp_path, "store", tokens=tokens), [*contents, TokenFile("../a.png"), StoredText(KEY)])
    assert found.positions == [3]
    np.testing.assert_array_equal(found.side[IMAGE_TOKENS], VALUES[:1])


def test_images(tmp_path: Path, contents: list[Content | None]) -> None:
    found = read(reader_of(tmp_path, "nowhere"), [*contents, ImageFile(""), StoredText(str(tmp_path / "a.png"))])
    assert (found.positions, set(found.side)) == ([4], {CE_PREFIX + PIXELS})
