"""What a row keeps of an encoded text gives the cross-encoder the same scores, and damaged states are made again from the text."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from milvus_coop.bundle.spec import CROSS_ENCODER, TEXT_ENCODER, BundleSpec, GraphSpec, TensorSpec
from milvus_coop.bundle.text_states import StateSpec, reads_text_encoder, state_bytes, text_states
from milvus_coop.config import Settings
from milvus_coop.models.backends import Backend
from milvus_coop.models.encoder import EncodedImages
from milvus_coop.models.open import Models, open_models
from milvus_coop.models.text_states import pack_states, unpack_states
from milvus_coop.search.contents import TextReader, content_reader
from milvus_coop.types import Array, StoredText
from tests.toy_bundle import make_bundle

IMAGES = sorted((Path(__file__).parents[2] / "examples/images").glob("*.jpg"))[:30]
TEXTS = [f"a photo of a {path.stem.replace('_', ' ')}" for path in IMAGES]
TEXTS += ["a boat", "two dogs playing on a sandy beach", "an old stone bridge over a small river in autumn", "red " * 80]
MASK = TensorSpec("attention_mask", "int64", (-1,))


class Counting:
    """A backend that counts the rows of each graph."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self.spec = backend.spec
        self.rows: dict[str, int] = {}
        self.load, self.close = backend.load, backend.close

    def run(self, graph: str, inputs: Mapping[str, Array], *, timeout_s: float | None = None) -> dict[str, Array]:
        self.rows[graph] = self.rows.get(graph, 0) + len(next(iter(inputs.values())))
        return self._backend.run(graph, inputs, timeout_s=timeout_s)


@pytest.fixture(scope="module")
def backend() -> Iterator[Counting]:
    with_small = open_models(Settings())
    yield Counting(with_small.backend)
    with_small.close()


@pytest.fixture(scope="module")
def models(backend: Counting) -> Models:
    return open_models(Settings(), backend)


@pytest.fixture(scope="module")
def stored(models: Models) -> list[StoredText]:
    """The texts, as an ingest stores them one by one: so each is padded to another length than in a batch of all."""
    sides = [models.encoder.encode_texts([text]).text_side for text in TEXTS]
    strings = [pack_states(text_states(models.encoder.spec), side, 1)[0] for side in sides]
    return [StoredText(text, string) for text, string in zip(TEXTS, strings, strict=True)]


@pytest.fixture(scope="module")
def images(models: Models) -> EncodedImages:
    return models.encoder.encode_images([models.encoder.decode(path) for path in IMAGES])


def scores(models: Models, side: Mapping[str, Array], images: EncodedImages) -> Array:
    return models.reranker.score_matrix(side, images.image_side).probability


def test_the_scores_are_those_of_a_fresh_encoding(models: Models, stored: list[StoredText], images: EncodedImages) -> None:
    read = TextReader(models.encoder).read(stored, 10.0)
    assert read.positions == list(range(len(TEXTS)))
    fresh = scores(models, models.encoder.encode_texts(TEXTS).text_side, images)
    found = scores(models, read.side, images)
    # Measured with 69 texts and 60 images: at most 0.0021 with these states, and 0.013 with the embedding as int8.
    np.testing.assert_allclose(found, fresh, atol=0.005)
    np.testing.assert_array_equal(found.argmax(0), fresh.argmax(0))
    for ours, theirs in zip(found.T, fresh.T, strict=True):
        order = np.argsort(-ours, kind="stable")
        assert (np.diff(theirs[order]) < 1e-4).all()  # only texts with nearly equal scores change places


def test_the_text_encoder_does_not_run(models: Models, backend: Counting, stored: list[StoredText]) -> None:
    reader = content_reader(models.encoder, "text", None)
    backend.rows.clear()
    reader.read(stored, 10.0)
    assert backend.rows == {}
    reader.read([StoredText(text) for text in TEXTS], 10.0)
    assert backend.rows == {TEXT_ENCODER: len(TEXTS)}


def test_damaged_states_are_made_again(models: Models, backend: Counting, stored: list[StoredText], images: EncodedImages) -> None:
    raw = base64.b64decode(stored[0].states)
    infinite = base64.b64encode(np.full(len(raw) // 2, np.inf, "<f2").tobytes()).decode()
    damaged = ["", "no base64", "äöü", base64.b64encode(raw[:-1]).decode(), stored[-1].states, infinite, "A" * 60_000]
    texts = [*(StoredText(TEXTS[0], states) for states in damaged), stored[1]]
    backend.rows.clear()
    read = TextReader(models.encoder).read(texts, 10.0)
    assert backend.rows == {TEXT_ENCODER: len(damaged)}
    assert read.positions == list(range(len(texts)))
    fresh = models.encoder.encode_texts([text.text for text in texts]).text_side
    assert {name: array.shape for name, array in read.side.items()} == {name: array.shape for name, array in fresh.items()}
    np.testing.assert_allclose(scores(models, read.side, images), scores(models, fresh, images), atol=0.005)


def test_they_take_the_bytes_that_the_bundle_says(models: Models, stored: list[StoredText]) -> None:
    states = text_states(models.encoder.spec)
    assert states == (StateSpec("text_embedding", 0, 772), StateSpec("text_tokens", -1, 96))
    lengths = models.encoder.tokenise(TEXTS)["attention_mask"].sum(axis=1).tolist()
    assert max(lengths) == models.encoder.spec.text.max_length
    for text, length in zip(stored, lengths, strict=True):
        assert len(base64.b64decode(text.states)) == state_bytes(states, length) == 2 * 772 + 98 * length


def test_a_cross_encoder_that_reads_ids_needs_none(tmp_path: Path) -> None:
    make_bundle(tmp_path)
    backend = Counting(open_models(Settings(bundle=str(tmp_path))).backend)
    encoder = open_models(Settings(bundle=str(tmp_path)), backend).encoder
    assert not reads_text_encoder(encoder.spec)
    assert text_states(encoder.spec) == ()
    side = encoder.encode_texts(["a red dog", "a cat"]).text_side
    assert pack_states((), side, 2) == ["", ""]
    backend.rows.clear()
    read = TextReader(encoder).read([StoredText("a red dog"), StoredText("a cat", "damaged")], 10.0)
    assert backend.rows == {}
    for name, array in side.items():
        np.testing.assert_array_equal(read.side[name], array)


def spec_of(base: BundleSpec, outputs: Sequence[TensorSpec], *others: TensorSpec) -> BundleSpec:
    """A bundle whose cross-encoder reads these outputs of its text encoder, and others."""
    graphs = (GraphSpec(TEXT_ENCODER, "t", (), tuple(outputs)), GraphSpec(CROSS_ENCODER, "c", (*outputs, *others), ()))
    return replace(base, graphs=graphs)


@pytest.mark.parametrize(
    ("output", "others", "kept"),
    [
        (TensorSpec("x", "float32", (4,)), (), StateSpec("x", 0, 4)),
        (TensorSpec("x", "float32", (3, 4)), (), StateSpec("x", 3, 4)),
        (TensorSpec("x", "float32", (-1, 4)), (MASK,), StateSpec("x", -1, 4)),
        (TensorSpec("x", "float32", (-1, 4)), (), None),  # it would see where the padding was cut off
        (TensorSpec("x", "float32", (4, -1)), (MASK,), None),
        (TensorSpec("x", "float32", (-1,)), (MASK,), None),
        (TensorSpec("x", "float32", (2, 3, 4)), (MASK,), None),
        (TensorSpec("x", "float32", ()), (MASK,), None),
        (TensorSpec("x", "int64", (4,)), (MASK,), None),
        (TensorSpec("x", "float32", (64, 768)), (), None),  # more than a VARCHAR holds
    ],
)
def test_what_can_be_kept(models: Models, output: TensorSpec, others: Sequence[TensorSpec], kept: StateSpec | None) -> None:
    spec = spec_of(models.encoder.spec, [output], *others)
    assert text_states(spec) == (() if kept is None else (kept,))
    assert reads_text_encoder(spec)


def test_rows_and_vectors_come_back() -> None:
    rng = np.random.default_rng(0)
    states = (StateSpec("vector", 0, 5), StateSpec("fixed", 2, 3), StateSpec("tokens", -1, 7))
    side = {
        "vector": rng.standard_normal((2, 5)).astype(np.float32),
        "fixed": rng.standard_normal((2, 2, 3)).astype(np.float32),
        "tokens": rng.standard_normal((2, 8, 7)).astype(np.float32),
        "attention_mask": np.array([[1] * 8, [1] * 3 + [0] * 5]),
    }
    strings = pack_states(states, side, 2)
    mask = side["attention_mask"]
    for order in ([0, 1], [1, 0], [1, 1, 0]):
        found, sound = unpack_states(states, ["", *(strings[row] for row in order)], np.stack([mask[0], *mask[order]]))
        assert sound.tolist() == [False, *(True for _ in order)]
        assert [found[state.name].shape[1:] for state in states] == [(5,), (2, 3), (8, 7)]
        np.testing.assert_allclose(found["vector"][1:], side["vector"][order], rtol=1e-3)
        np.testing.assert_allclose(found["fixed"][1:], side["fixed"][order], atol=0.02)
        np.testing.assert_allclose(found["tokens"][1:], side["tokens"][order] * mask[order][..., None], atol=0.02)
    assert not unpack_states(states, strings[::-1], mask)[1].any()
    # A text encoder may round its tokens to another length, and a stranger's may return numbers beyond float16.
    assert pack_states(states, {**side, "tokens": side["tokens"][:, :4]}, 2) == ["", ""]
    assert pack_states(states, {**side, "vector": np.full((2, 5), 1e6, np.float32)}, 2) == ["", ""]
