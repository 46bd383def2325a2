"""What every backend does, whatever runs the graphs."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from milvus_coop.bundle import CROSS_ENCODER, GRAPHS, IMAGE_ENCODER, IMAGE_TOKENS, TEXT_ENCODER, load_bundle
from milvus_coop.bundle.folder import TOKENIZER, Bundle
from milvus_coop.config import Settings
from milvus_coop.errors import BackendInputError, BackendUnavailableError, InvalidArgumentError
from milvus_coop.models.backends import Backend, open_backend
from milvus_coop.models.backends.fake import FakeBackend
from milvus_coop.models.backends.onnx import OnnxBackend
from milvus_coop.models.encoder import BundleEncoder, EncodedImages, EncodedTexts, Encoder
from milvus_coop.models.preprocess.images import decode
from milvus_coop.models.preprocess.texts import Tokenizer
from milvus_coop.models.reranker import Reranker

TEXTS = ["a red apple", "two dogs on a beach", "猫", "🚲", "a " * 5000]
PICTURES = sorted((Path(__file__).parent.parent.parent / "examples" / "images").glob("*.jpg"))[:5]


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return load_bundle("coop-small")


@pytest.fixture(scope="module", params=["fake", "onnx", pytest.param("triton", marks=pytest.mark.triton)])
def backend(request: pytest.FixtureRequest, bundle: Bundle) -> Iterator[Backend]:
    if request.param == "fake":
        opened: Backend = FakeBackend(bundle.spec)
    elif request.param == "onnx":
        opened = open_backend(Settings(), bundle)
    else:
        opened = open_backend(Settings(models=request.getfixturevalue("triton_server").uri), bundle)
    yield opened
    opened.close()
    opened.close()  # twice is fine


@pytest.fixture(scope="module")
def encoder(backend: Backend, bundle: Bundle) -> Encoder:
    return BundleEncoder(backend, Tokenizer(bundle.path(TOKENIZER), bundle.spec.text))


@pytest.fixture(scope="module")
def texts(encoder: Encoder) -> EncodedTexts:
    return encoder.encode_texts(TEXTS)


@pytest.fixture(scope="module")
def images(encoder: Encoder) -> EncodedImages:
    return encoder.encode_images([decode(path) for path in PICTURES])


def test_shapes_and_dtypes_are_those_of_the_spec(
    backend: Backend, encoder: Encoder, texts: EncodedTexts, images: EncodedImages
) -> None:
    spec = backend.spec
    for embeddings in (texts.embeddings, images.embeddings):
        assert embeddings.shape == (5, spec.dim)
        assert embeddings.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1.0, atol=1e-5)
    assert images.tokens.shape == (5, spec.tokens.count, spec.tokens.dim)
    assert images.tokens.dtype == np.int8
    assert images.scales.dtype == np.float16
    scores = Reranker(backend).score(texts.text_side, images.tokens, images.scales)
    assert scores.shape == (5,)
    assert scores.dtype == np.float32
    assert ((scores >= 0) & (scores <= 1)).all()


def test_a_row_does_not_depend_on_its_batch(encoder: Encoder, texts: EncodedTexts, images: EncodedImages) -> None:
    """ONNX Runtime sums in another order for another batch size: 1e-5. Padding differs too: alone, a text is padded less."""
    for i, text in enumerate(TEXTS):
        np.testing.assert_allclose(encoder.encode_texts([text]).embeddings[0], texts.embeddings[i], atol=1e-5)
    for i, path in enumerate(PICTURES):
        alone = encoder.encode_images([decode(path)])
        np.testing.assert_allclose(alone.embeddings[0], images.embeddings[i], atol=1e-5)
        assert np.abs(alone.tokens[0].astype(int) - images.tokens[i]).max() <= 1


def test_scores_do_not_depend_on_batch_or_padding(
    backend: Backend, encoder: Encoder, texts: EncodedTexts, images: EncodedImages
) -> None:
    reranker = Reranker(backend)
    together = reranker.score(texts.text_side, images.tokens, images.scales)
    for i, text in enumerate(TEXTS):
        alone = reranker.score(encoder.encode_texts([text]).text_side, images.tokens[i : i + 1], images.scales[i : i + 1])
        np.testing.assert_allclose(alone, together[i : i + 1], atol=1e-5)


def test_one_text_against_many_images_and_the_reverse(backend: Backend, texts: EncodedTexts, images: EncodedImages) -> None:
    reranker = Reranker(backend)
    one_text = {name: array[:1] for name, array in texts.text_side.items()}
    many = reranker.score(one_text, images.tokens, images.scales)
    assert many.shape == (5,)
    assert len(set(many.tolist())) == 5
    assert reranker.score(texts.text_side, images.tokens[:1], images.scales[:1]).shape == (5,)


def test_batches_beyond_the_limit_are_split_and_joined(backend: Backend, texts: EncodedTexts, images: EncodedImages) -> None:
    n = backend.spec.graph(CROSS_ENCODER).max_batch * 2 + 3
    index = np.arange(n) % 5
    side = {name: array[index] for name, array in texts.text_side.items()}
    scores = Reranker(backend).score(side, images.tokens[index], images.scales[index])
    np.testing.assert_allclose(scores, np.resize(scores[:5], n), atol=1e-5)


def test_an_empty_batch(backend: Backend) -> None:
    inputs = {"input_ids": np.zeros((0, 8), dtype=np.int64), "attention_mask": np.zeros((0, 8), dtype=np.int64)}
    assert backend.run(TEXT_ENCODER, inputs)["text_embedding"].shape == (0, backend.spec.dim)


def test_wrong_inputs_are_named(backend: Backend) -> None:
    size = backend.spec.image.size
    with pytest.raises(BackendInputError, match="image_encoder got no 'pixel_values'"):
        backend.run(IMAGE_ENCODER, {})
    with pytest.raises(BackendInputError, match=r"as float64 of shape \(1, 3, 8, 8\); expected: uint8 of shape"):
        backend.run(IMAGE_ENCODER, {"pixel_values": np.zeros((1, 3, 8, 8))})
    with pytest.raises(BackendInputError, match="pixel_values"):
        backend.run(IMAGE_ENCODER, {"pixel_values": np.zeros((3, size, size), dtype=np.uint8)})
    inputs = {"input_ids": np.zeros((2, 8), dtype=np.int64), "attention_mask": np.zeros((1, 8), dtype=np.int64)}
    with pytest.raises(BackendInputError, match="attention_mask"):
        backend.run(TEXT_ENCODER, inputs)


def test_threads_share_a_backend(encoder: Encoder, texts: EncodedTexts) -> None:
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda i: encoder.encode_texts([TEXTS[i % 5]]).embeddings[0], range(40)))
    for i, row in enumerate(results):
        np.testing.assert_allclose(row, texts.embeddings[i % 5], atol=1e-5)


@pytest.mark.parametrize("text", ["", "  \n", "x" * 20_001])
def test_texts_that_are_none(encoder: Encoder, text: str) -> None:
    with pytest.raises(InvalidArgumentError, match="the text"):
        encoder.encode_texts(["fine", text])


def test_every_backend_loads_its_graphs(backend: Backend) -> None:
    backend.load(GRAPHS)


def test_load_makes_every_graph_ready(bundle: Bundle) -> None:
    with closing(OnnxBackend(bundle)) as backend:
        backend.load(GRAPHS)
        assert set(backend._sessions) == set(GRAPHS)


def test_unknown_backends(bundle: Bundle) -> None:
    with pytest.raises(InvalidArgumentError, match="models is 'magic'; expected: onnx"):
        open_backend(Settings(models="magic"), bundle)
    with pytest.raises(BackendUnavailableError, match=r"no device 'quantum' here; expected: one of .*cpu"):
        open_backend(Settings(models="onnx:quantum"), bundle)


def test_the_tokens_a_collection_stores_are_small(bundle: Bundle) -> None:
    assert bundle.spec.graph(IMAGE_ENCODER).outputs[1].name == IMAGE_TOKENS
    assert bundle.spec.graph(IMAGE_ENCODER).outputs[1].shape == (bundle.spec.tokens.count, bundle.spec.tokens.dim)
