"""The text side of a request travels once, and requests that Triton joined are put together again.

Triton's own backends are imitated: what they do with ragged inputs and batch inputs is said in Triton's documentation under "Ragged
Batching". tests/integration sends real requests to the Python backend.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import onnxruntime
import pytest

from milvus_coop.bundle import CROSS_ENCODER, IMAGE_TOKEN_SCALES, IMAGE_TOKENS, TEXT_ENCODER, load_bundle
from milvus_coop.bundle.folder import Bundle
from milvus_coop.bundle.spec import TensorSpec
from milvus_coop.bundle.wire import Wire, wire_of
from milvus_coop.models.backends.onnx import OnnxBackend
from milvus_coop.serving.triton import export_repository
from milvus_coop.types import Array

LENGTH = 16
Pairs = dict[str, Array]


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return load_bundle("coop-small")


@pytest.fixture(scope="module")
def wire(bundle: Bundle) -> Wire:
    found = wire_of(bundle.spec.graph(CROSS_ENCODER))
    assert found is not None
    return found


@pytest.fixture(scope="module")
def backend(bundle: Bundle) -> OnnxBackend:
    return OnnxBackend(bundle, threads=1)


@pytest.fixture(scope="module")
def served(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> onnxruntime.InferenceSession:
    """The graph that the platform `onnxruntime` runs."""
    out = export_repository(bundle, tmp_path_factory.mktemp("served") / "models", "onnxruntime")
    return onnxruntime.InferenceSession(
        str(out / CROSS_ENCODER / str(bundle.spec.served_version) / "model.onnx"), providers=["CPUExecutionProvider"]
    )


def make(backend: OnnxBackend, n_texts: int, n_images: int, seed: int = 0) -> Pairs:
    """Random texts and images."""
    rng = np.random.default_rng(seed)
    tokens = backend.spec.tokens
    ids = rng.integers(5, 500, (n_texts, LENGTH))
    mask = (np.arange(LENGTH) < rng.integers(3, LENGTH + 1, (n_texts, 1))).astype(np.int64)
    texts = backend.run(TEXT_ENCODER, {"input_ids": ids, "attention_mask": mask}) | {"attention_mask": mask}
    return {
        **{name: texts[name] for name in backend.spec.text_side},
        IMAGE_TOKENS: rng.integers(-127, 128, (n_images, tokens.count, tokens.dim), dtype=np.int8),
        IMAGE_TOKEN_SCALES: (rng.random((n_images, tokens.count)) / 64).astype(np.float16).astype(np.float32),
    }


def size(pairs: Pairs) -> int:
    return max(map(len, pairs.values()))


def join(wire: Wire, requests: Sequence[Pairs]) -> Pairs:
    """What Triton's backends give a graph: inputs joined along the batch, ragged ones as one row, and where each request begins."""
    packed = [wire.pack(pairs, size(pairs)) for pairs in requests]
    for one, pairs in zip(packed, requests, strict=True):
        assert {len(array) for array in one.values()} == {size(pairs)}  # Triton wants equal batches
        assert [(name, str(array.dtype)) for name, array in one.items()] == [(t.name, t.dtype) for t in wire.inputs]
    joined = {}
    for tensor in wire.inputs:
        arrays = [one[tensor.name] for one in packed]
        joined[tensor.name] = np.concatenate([a.reshape(-1) if tensor.name in wire.is_spread else a for a in arrays])
    for name, source in wire.batch_inputs.items():
        joined[name] = np.cumsum([0, *(one[source].size for one in packed)]).astype(np.int32)
    return joined


@pytest.mark.parametrize(
    "shapes",
    [
        [(1, 1)],
        [(1, 64)],
        [(50, 1)],
        [(7, 7)],
        [(1, 64), (1, 1), (3, 3), (5, 1), (1, 50), (2, 2), (1, 3)],
        [(1, n) for n in range(1, 21)],
        [(1, 1)] * 256,
        [(1, 256)],
    ],
    ids=str,
)
def test_joined_requests_have_the_scores_of_single_ones(
    backend: OnnxBackend, served: onnxruntime.InferenceSession, wire: Wire, shapes: list[tuple[int, int]]
) -> None:
    requests = [make(backend, *shape, seed=i) for i, shape in enumerate(shapes)]
    found = served.run(["match_probability"], join(wire, requests))[0]
    expected = np.concatenate([backend.run(CROSS_ENCODER, pairs)["match_probability"] for pairs in requests])
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_single_row_counts_for_all(backend: OnnxBackend) -> None:
    one = make(backend, 1, 300)
    repeated = {name: np.repeat(array, 300, axis=0) if len(array) == 1 else array for name, array in one.items()}
    found, expected = (backend.run(CROSS_ENCODER, pairs)["match_probability"] for pairs in (one, repeated))
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(("n", "most"), [(50, 2_700), (64, 2_620), (256, 2_510)])
def test_bytes_per_candidate(backend: OnnxBackend, wire: Wire, n: int, most: int) -> None:
    """The floor is 2,450 bytes: 25 tokens of 96 bytes, and 25 scales."""
    spec, pairs = backend.spec, make(backend, 1, n)
    floor = spec.tokens.n_bytes
    text = sum(array.nbytes for name, array in pairs.items() if name in wire.is_spread)
    sent = sum(array.nbytes for array in wire.pack(pairs, n).values())
    assert n * (floor + LENGTH) + text <= sent <= n * most


@pytest.mark.parametrize("n", [1, 2, 3, 5, 64, 255])
@pytest.mark.parametrize("shape", [(1,), (2,), (3,), (4,), (772,), (-1, 1), (-1, 96)], ids=str)
def test_texts_of_any_size(wire: Wire, shape: tuple[int, ...], n: int) -> None:
    """Also those that are smaller than the number of pairs."""
    tensor = TensorSpec("text_embedding", "float32", shape)
    graph = dataclasses.replace(wire.graph, inputs=(tensor, *wire.graph.inputs[2:]))
    found = wire_of(graph)
    assert found is not None
    [spread] = found.spread
    array = np.arange(1, spread.size(LENGTH) + 1, dtype=np.float32).reshape(1, *(LENGTH if n == -1 else n for n in shape))
    others = {t.name: np.zeros((1, *(LENGTH if n == -1 else n for n in t.shape)), t.dtype) for t in graph.inputs[1:]}
    sent = found.pack({tensor.name: array, **others}, n)[tensor.name]
    assert sent.size % spread.block == 0
    np.testing.assert_array_equal(sent.reshape(-1)[: array.size], array.reshape(-1))
    is_shared = sent.size < n * array.size
    assert is_shared == (sent.shape[1] < array.size)
    if not is_shared:
        np.testing.assert_array_equal(sent, np.repeat(array.reshape(1, -1), n, axis=0))


def test_graphs_that_read_only_words_are_served_as_they_are(wire: Wire) -> None:
    words = tuple(TensorSpec(name, "int64", (-1,)) for name in ("input_ids", "attention_mask"))
    assert wire_of(dataclasses.replace(wire.graph, inputs=(*words, *wire.graph.inputs[3:]))) is None
