"""Plain graphs say what the packed ones say: exactly in fp32, closely in fp16. On the pictures and captions of examples/."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import get_args

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from milvus_coop.bundle import CROSS_ENCODER, GRAPHS, IMAGE_ENCODER, TEXT_ENCODER
from milvus_coop.bundle.folder import RECORD, Bundle, load_bundle
from milvus_coop.errors import BundleInvalidError
from milvus_coop.offline.export.graphs import open_session, run_graph
from milvus_coop.offline.export.parity import difference
from milvus_coop.serving.plans.materialise import GraphPrecision, materialise
from tests.plans.conftest import Plain, Samples, feeds_of, make_pairs
from tests.plans.rounding import run_rounded

SAME = 1e-5
"""Constants are folded in another order of operations: one float32 rounding, carried through six layers."""


@pytest.mark.parametrize("graph", GRAPHS)
def test_plain_fp32_is_the_packed_graph(graph: str, plain: Plain, samples: Samples) -> None:
    outputs = run_graph(open_session(plain(graph, "fp32")), feeds_of(samples, graph))
    for name, expected in samples.outputs[graph].items():
        scale = max(1.0, float(np.abs(expected).max()))
        assert difference(expected, outputs[name]).largest <= SAME * scale, name


@pytest.mark.parametrize("graph", [TEXT_ENCODER, IMAGE_ENCODER])
def test_fp16_embeddings_and_tokens(graph: str, plain: Plain, samples: Samples) -> None:
    """Measured on coop-small: cosines of 0.99995 (embeddings) and 0.9999 (tokens), largest difference 2.1 % of the largest value.

    float16 has 11 bits, 0.0005 per rounding, and the backbone rounds some 50 times in a row.
    """
    outputs = run_rounded(plain(graph, "fp16"), feeds_of(samples, graph))
    for name, expected in samples.outputs[graph].items():
        assert outputs[name].dtype == np.float32
        found = difference(expected, outputs[name])
        assert found.smallest_cosine > 0.9995, name
        assert found.largest < 0.03 * np.abs(expected).max(), name


def test_fp16_probabilities(plain: Plain, samples: Samples) -> None:
    """Measured on coop-small: 0.0002."""
    outputs = run_rounded(plain(CROSS_ENCODER, "fp16"), samples.pairs)
    assert difference(samples.outputs[CROSS_ENCODER]["match_probability"], outputs["match_probability"]).largest < 0.005


def test_fp16_from_text_and_picture_to_ranking(bundle: Bundle, plain: Plain, samples: Samples) -> None:
    """All three graphs in fp16, one after the other. Measured on coop-small: 0.013 at worst, 0.00001 on average."""
    half = {graph: run_rounded(plain(graph, "fp16"), feeds_of(samples, graph)) for graph in (TEXT_ENCODER, IMAGE_ENCODER)}
    pairs = make_pairs(bundle, samples.texts, half)
    actual = run_rounded(plain(CROSS_ENCODER, "fp16"), pairs)["match_probability"]
    expected = samples.outputs[CROSS_ENCODER]["match_probability"]
    assert np.abs(actual - expected).max() < 0.05
    assert np.abs(actual - expected).mean() < 0.001
    best = [scores.reshape(len(samples.texts["input_ids"]), -1).argmax(1) for scores in (actual, expected)]
    assert (best[0] == best[1]).mean() >= 0.95


@pytest.mark.parametrize("precision", get_args(GraphPrecision))
@pytest.mark.parametrize("graph", GRAPHS)
def test_inputs_and_outputs_are_those_of_the_spec(graph: str, precision: GraphPrecision, bundle: Bundle, plain: Plain) -> None:
    model = onnx.load(str(plain(graph, precision)))
    onnx.checker.check_model(model, full_check=True)
    spec = bundle.spec.graph(graph)
    for tensors, values in ((spec.inputs, model.graph.input), (spec.outputs, model.graph.output)):
        assert [t.name for t in tensors] == [v.name for v in values]
        kinds = [onnx.helper.tensor_dtype_to_np_dtype(v.type.tensor_type.elem_type) for v in values]
        assert [t.dtype for t in tensors] == [str(kind) for kind in kinds]


def test_nothing_that_depends_on_constants_alone_is_left(plain: Plain) -> None:
    for graph in GRAPHS:
        model = onnx.load(str(plain(graph, "fp32")))
        constants = {tensor.name for tensor in model.graph.initializer}
        assert not [node.name for node in model.graph.node if constants.issuperset(node.input)]
        assert TensorProto.INT8 not in {tensor.data_type for tensor in model.graph.initializer}
        assert constants <= {name for node in model.graph.node for name in node.input}


def test_fp16_halves_the_text_encoder(plain: Plain) -> None:
    """All but the heads, which are Gemm layers and stay fp32 (see `export.precision.HEAVY`)."""
    full, half = (plain(TEXT_ENCODER, precision) for precision in ("fp32", "fp16"))
    graph = onnx.load(str(full)).graph
    of_heads = {name for node in graph.node if node.op_type == "Gemm" for name in node.input}
    heads = sum(len(tensor.raw_data) for tensor in graph.initializer if tensor.name in of_heads)
    assert half.stat().st_size - heads < 0.55 * (full.stat().st_size - heads)


def test_the_same_bundle_gives_the_same_file(bundle: Bundle, plain: Plain, tmp_path: Path) -> None:
    """A plan is built again when its source differs."""
    again = materialise(bundle, CROSS_ENCODER, tmp_path / "model.onnx", "fp16")
    assert again.read_bytes() == plain(CROSS_ENCODER, "fp16").read_bytes()


def test_large_weights_go_beside_the_graph(bundle: Bundle, tmp_path: Path, samples: Samples) -> None:
    path = materialise(bundle, CROSS_ENCODER, tmp_path / "new" / "model.onnx", inline_bytes=1000)
    assert (path.parent / "model.onnx.data").stat().st_size > 50_000
    assert path.stat().st_size < 50_000
    expected = samples.outputs[CROSS_ENCODER]["match_probability"]
    assert np.allclose(run_graph(open_session(path), samples.pairs)["match_probability"], expected, atol=SAME)
    materialise(bundle, CROSS_ENCODER, path)
    assert not (path.parent / "model.onnx.data").exists()


def _copy(bundle: Bundle, folder: Path) -> Path:
    for name in [*bundle.spec.files, RECORD]:
        shutil.copyfile(bundle.path(name), folder / name)
    return folder


def test_a_bundle_of_hard_links(bundle: Bundle, tmp_path: Path) -> None:
    """This is how uv installs packages; onnx's own reader takes it for an attack."""
    for name in [*bundle.spec.files, RECORD]:
        shutil.copyfile(bundle.path(name), tmp_path / f"first-{name}")
        os.link(tmp_path / f"first-{name}", tmp_path / name)
    assert materialise(load_bundle(tmp_path), CROSS_ENCODER, tmp_path / "plain.onnx").is_file()


def test_a_broken_graph(bundle: Bundle, tmp_path: Path) -> None:
    file = bundle.spec.graph(CROSS_ENCODER).file
    folder = _copy(bundle, tmp_path)
    opened = load_bundle(folder)  # which would find the damage
    (folder / file).write_bytes(b"\x07" * bundle.spec.files[file].n_bytes)
    with pytest.raises(BundleInvalidError, match=f"{file} is not a readable ONNX graph"):
        materialise(opened, CROSS_ENCODER, tmp_path / "plain.onnx")


def test_weights_outside_the_bundle(bundle: Bundle, tmp_path: Path) -> None:
    file = bundle.spec.graph(TEXT_ENCODER).file
    folder = _copy(bundle, tmp_path)
    opened = load_bundle(folder)  # which would find the change
    content = (folder / file).read_bytes()
    (folder / file).write_bytes(content.replace(b"weights.bin", b"../../shado"))
    with pytest.raises(BundleInvalidError, match=r"'\.\./\.\./shado', which is not a file of the bundle"):
        materialise(opened, TEXT_ENCODER, tmp_path / "plain.onnx")
