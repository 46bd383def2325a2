"""The encodings that an open search remembers: the same as without, for each text and each batch, and never more than the limit."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from milvus_coop import FakeBackend, Settings, load_bundle
from milvus_coop.bundle import TEXT_ENCODER
from milvus_coop.models.encoder import BundleEncoder, EncodedTexts
from milvus_coop.models.open import Models, open_models

SHORT, LONG = "a boat", "an old stone bridge over a small river in autumn, with two dogs and a red bicycle beside it"
TEXTS = [SHORT, LONG, "a red apple", "two dogs on a beach", "a cat"]


@pytest.fixture(scope="module")
def models() -> Iterator[Models]:
    opened = open_models(Settings(threads=1))
    yield opened
    opened.close()


def counted(**settings: Any) -> tuple[Models, FakeBackend]:
    backend = FakeBackend(load_bundle("coop-small").spec)
    return open_models(Settings(**settings), backend), backend


def same(found: EncodedTexts, expected: EncodedTexts) -> None:
    """Texts in a batch of another length differ by rounding alone. What the mask hides does not count."""
    np.testing.assert_allclose(found.embeddings, expected.embeddings, atol=1e-5)
    assert found.text_side.keys() == expected.text_side.keys()
    mask = expected.text_side["attention_mask"].astype(bool)
    for name, array in expected.text_side.items():
        ours = found.text_side[name]
        assert (ours.shape, ours.dtype) == (array.shape, array.dtype)
        per_token = array.shape[:2] == mask.shape
        np.testing.assert_allclose(ours[mask] if per_token else ours, array[mask] if per_token else array, atol=1e-5)


@pytest.mark.parametrize(
    "batches",
    [
        [[SHORT], [SHORT]],
        [[SHORT], [LONG], [SHORT, LONG]],  # a known text in a longer batch
        [[SHORT, LONG], [SHORT], [LONG]],  # and in a shorter one
        [[SHORT], TEXTS, TEXTS[::-1], [LONG, SHORT, LONG, "new", "new"]],
    ],
)
def test_remembered_texts_are_encoded_as_new_ones(models: Models, batches: list[list[str]]) -> None:
    fresh = open_models(Settings(), models.backend)
    for texts in batches:
        same(fresh.encoder.encode_query_texts(texts), fresh.encoder.encode_texts(texts))


def remembered(models: Models) -> int:
    """The number of texts that are remembered."""
    assert isinstance(models.encoder, BundleEncoder)
    return len(models.encoder._memory)


def test_each_text_is_encoded_once() -> None:
    models, backend = counted()
    encode = models.encoder.encode_query_texts
    encode([SHORT])
    encode([SHORT])
    encode([SHORT, LONG, LONG])
    encode([LONG, SHORT])
    assert backend.rows[TEXT_ENCODER] == 2


def test_the_text_that_was_not_used_for_the_longest_time_is_forgotten() -> None:
    models, backend = counted(remembered_texts=2)
    encode = models.encoder.encode_query_texts
    for text in ("a", "b", "a", "c", "a"):
        encode([text])
    assert backend.rows[TEXT_ENCODER] == 3
    encode(["b"])
    assert backend.rows[TEXT_ENCODER] == 4
    encode([f"text {i}" for i in range(50)])  # more than the limit at once
    assert remembered(models) == 2


def test_it_can_be_turned_off() -> None:
    models, backend = counted(remembered_texts=0)
    for _ in range(2):
        models.encoder.encode_query_texts([SHORT, SHORT])
    assert backend.rows[TEXT_ENCODER] == 4


def test_a_caller_cannot_change_what_is_remembered() -> None:
    models, _ = counted()
    first = models.encoder.encode_query_texts([SHORT])
    expected = first.embeddings.copy()
    first.embeddings[:] = 0
    models.encoder.encode_query_texts([SHORT]).embeddings[:] = 0
    np.testing.assert_array_equal(models.encoder.encode_query_texts([SHORT]).embeddings, expected)


def test_threads_share_it() -> None:
    models, _ = counted(remembered_texts=3)
    expected = {text: models.encoder.encode_texts([text]).embeddings[0] for text in TEXTS}

    def encode(i: int) -> None:
        some = [TEXTS[(i + j) % len(TEXTS)] for j in range(1 + i % 3)]
        for text, row in zip(some, models.encoder.encode_query_texts(some).embeddings, strict=True):
            np.testing.assert_allclose(row, expected[text], atol=1e-6)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(encode, range(400)))
    assert remembered(models) == 3
