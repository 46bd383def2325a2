from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from milvus_coop.config import Settings
from milvus_coop.models.encoder import BundleEncoder, Encoder
from milvus_coop.models.open import Models, open_models
from milvus_coop.offline.evaluation.memo import MemoBackend
from tests.evaluation.kit import drawn, fake

TEXTS = ["a dog", "a cat that sleeps on the warm roof of an old house", "a dog", "two red apples"]


@pytest.fixture(scope="module")
def models() -> Iterator[Models]:
    opened = open_models(Settings())
    yield opened
    opened.close()


def with_memo(models: Models, limit_bytes: int = 10**6) -> Encoder:
    assert isinstance(models.encoder, BundleEncoder)
    return BundleEncoder(MemoBackend(models.backend, limit_bytes), models.encoder._tokenizer)


def test_the_cross_encoder_cannot_tell_the_difference(models: Models) -> None:
    encoder = with_memo(models)
    encoder.encode_texts(TEXTS[1:])  # padded to another length than below
    rng = np.random.default_rng(0)
    spec = models.encoder.spec.tokens
    tokens = rng.integers(-127, 128, (len(TEXTS), spec.count, spec.dim), dtype=np.int8)
    scales = rng.random((len(TEXTS), spec.count)).astype(np.float32) / 127
    for texts in (TEXTS, TEXTS[:1] * 4, TEXTS[::-1]):
        ours, plain = encoder.encode_texts(texts), models.encoder.encode_texts(texts)
        # float32 sums in another order: batches are of other sizes and padded to other lengths
        np.testing.assert_allclose(ours.embeddings, plain.embeddings, atol=1e-5)
        assert {n: a.shape for n, a in ours.text_side.items()} == {n: a.shape for n, a in plain.text_side.items()}
        mine, theirs = (models.reranker.score(side, tokens, scales) for side in (ours.text_side, plain.text_side))
        np.testing.assert_allclose(mine, theirs, atol=1e-5)


def test_a_text_is_encoded_once() -> None:
    backend = fake().backend
    opened = open_models(Settings(), backend)
    encoder = with_memo(opened)
    for _ in range(3):
        encoder.encode_texts(TEXTS)
    assert opened.backend.rows == {"text_encoder": 3}  # type: ignore[attr-defined]


def test_an_image_is_encoded_once() -> None:
    opened = open_models(Settings(), fake().backend)
    encoder = with_memo(opened)
    images = [drawn(seed) for seed in (1, 2, 1, 3)]
    for _ in range(2):
        ours, plain = encoder.encode_images(images), opened.encoder.encode_images(images)
        np.testing.assert_array_equal(ours.embeddings, plain.embeddings)
        np.testing.assert_array_equal(ours.tokens, plain.tokens)
    assert opened.backend.rows == {"image_encoder": 3 + 2 * 4}  # type: ignore[attr-defined]


def test_a_full_memo_still_answers() -> None:
    opened = open_models(Settings(), fake().backend)
    encoder = with_memo(opened, limit_bytes=1)
    for _ in range(2):
        np.testing.assert_array_equal(encoder.encode_texts(TEXTS).embeddings, opened.encoder.encode_texts(TEXTS).embeddings)
    assert encoder._backend._memo == {}  # type: ignore[attr-defined]
