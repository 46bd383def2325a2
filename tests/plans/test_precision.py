"""The fp16 pass on graphs of a few nodes, where every cast can be named."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from milvus_coop.errors import BundleInvalidError
from milvus_coop.offline.export.graphs import open_session, run_graph
from milvus_coop.serving.plans.materialise import fold_constants
from milvus_coop.serving.plans.precision import to_half
from milvus_coop.types import Array
from tests.plans.rounding import run_rounded

FLOAT = TensorProto.FLOAT
DICE = np.random.default_rng(0)


def graph_of(
    nodes: list[onnx.NodeProto], outputs: list[str], constants: dict[str, Array], shape: tuple[int, ...] = (2, 4)
) -> onnx.ModelProto:
    """A model from `x`, float32 of `shape`, to `outputs`."""
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("x", FLOAT, shape)],
        [helper.make_tensor_value_info(name, FLOAT, None) for name in outputs],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def half_of(model: onnx.ModelProto) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    to_half(copy)
    onnx.shape_inference.infer_shapes(copy, check_type=True, strict_mode=True)
    return copy


def both(model: onnx.ModelProto, x: Array) -> tuple[dict[str, Array], dict[str, Array]]:
    return run_graph(open_session(model), {"x": x}), run_graph(open_session(half_of(model)), {"x": x})


def operators(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


def test_a_normalised_row_of_zeros_stays_zero() -> None:
    """1e-12 is 0 in float16, and 0 / 0 is NaN."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["y"]),
        helper.make_node("ReduceL2", ["y", "axis"], ["length"], keepdims=1),
        helper.make_node("Clip", ["length", "eps"], ["safe"]),
        helper.make_node("Div", ["y", "safe"], ["z"]),
    ]
    constants = {
        "w": DICE.normal(size=(4, 3)).astype(np.float32),
        "axis": np.array([1]),
        "eps": np.array(1e-12, np.float32),
    }
    exact, half = both(graph_of(nodes, ["z"], constants), np.array([[1, 2, 3, 4], [0, 0, 0, 0]], np.float32))
    assert half["z"][1].tolist() == [0, 0, 0]
    assert np.allclose(half["z"], exact["z"], atol=2e-3)


def test_values_beyond_float16_survive_in_float32_layers() -> None:
    """A mask of -1e38 added to float32 scores, and softmax, stay out of float16."""
    nodes = [helper.make_node("Add", ["x", "mask"], ["masked"]), helper.make_node("Softmax", ["masked"], ["z"])]
    model = graph_of(nodes, ["z"], {"mask": np.array([0, -1e38, 0, -1e38], np.float32)})
    assert operators(half_of(model)) == ["Add", "Softmax"]
    exact, half = both(model, DICE.normal(size=(2, 4)).astype(np.float32))
    assert np.array_equal(exact["z"], half["z"])


def test_what_leads_to_a_softmax_leaves_float16_at_once() -> None:
    """Scores and their mask: -1e38 would be minus infinity in float16, and a row of it NaN."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["scores"]),
        helper.make_node("Div", ["scores", "root"], ["scaled"]),
        helper.make_node("Add", ["scaled", "mask"], ["masked"]),
        helper.make_node("Softmax", ["masked"], ["z"]),
    ]
    w: Array = DICE.normal(size=(4, 4)).astype(np.float32)
    model = graph_of(nodes, ["z"], {"w": w, "root": np.array(8, np.float32), "mask": np.full(4, -1e38, np.float32)})
    half = half_of(model)
    assert operators(half) == ["Cast", "MatMul", "Cast", "Div", "Add", "Softmax"]
    assert np.isfinite(run_rounded(half, {"x": np.ones((2, 4), np.float32)})["z"]).all()


def test_between_heavy_layers_all_is_half() -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["y"]),
        helper.make_node("Add", ["y", "bias"], ["biased"]),
        helper.make_node("Relu", ["biased"], ["active"]),
        helper.make_node("MatMul", ["active", "w"], ["z"]),
    ]
    w: Array = DICE.normal(size=(4, 4)).astype(np.float32)
    half = half_of(graph_of(nodes, ["z"], {"w": w, "bias": w[0]}))
    assert operators(half) == ["Cast", "MatMul", "Add", "Relu", "MatMul", "Cast"]


def test_rounding_on_a_cpu_is_that_of_float16() -> None:
    """ONNX Runtime alone would compute this graph in float32."""
    half = half_of(graph_of([helper.make_node("MatMul", ["x", "w"], ["z"])], ["z"], {"w": np.eye(4, dtype=np.float32)}))
    x = np.array([[1 / 3, 1e-9, 65_000, 4097], [0, 1, -2, 6e-6]], np.float32)
    assert np.array_equal(run_rounded(half, {"x": x})["z"], x.astype(np.float16))
    x[0, 2] = 70_000
    assert run_rounded(half, {"x": x})["z"][0, 2] == np.inf


def test_constants_of_heavy_layers_are_clipped_to_what_float16_holds() -> None:
    model = graph_of([helper.make_node("MatMul", ["x", "w"], ["z"])], ["z"], {"w": np.full((4, 1), 1e9, np.float32)})
    half = run_graph(open_session(half_of(model)), {"x": np.array([[1, 0, 0, 0]] * 2, np.float32)})
    assert half["z"].tolist() == [[65504.0], [65504.0]]


def test_one_value_in_both_precisions_is_cast_once() -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["y"]),
        helper.make_node("MatMul", ["x", "v"], ["u"]),
        helper.make_node("Softmax", ["y"], ["s"]),
        helper.make_node("ReduceSum", ["y"], ["t"]),
        helper.make_node("Mul", ["s", "t"], ["z"]),
    ]
    constants = {name: DICE.normal(size=(4, 4)).astype(np.float32) for name in "wv"}
    model = graph_of([*nodes, helper.make_node("Relu", ["u"], ["q"])], ["z", "q"], constants)
    half = half_of(model)
    casts = [(node.input[0], node.output[0]) for node in half.graph.node if node.op_type == "Cast"]
    assert casts == [("x", "x.fp16"), ("y", "y.fp32"), ("u", "u.fp32")]
    assert {tensor.data_type for tensor in half.graph.initializer} == {TensorProto.FLOAT16}


def test_an_output_that_is_also_read_inside() -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["y"]),
        helper.make_node("MatMul", ["y", "w"], ["z"]),
        helper.make_node("Softmax", ["y"], ["s"]),
    ]
    model = graph_of(nodes, ["y", "z", "s"], {"w": DICE.normal(size=(4, 4)).astype(np.float32)})
    exact, half = both(model, DICE.normal(size=(2, 4)).astype(np.float32))
    for name, value in exact.items():
        assert np.allclose(half[name], value, atol=0.01), name


def test_a_lookup_table_is_stored_in_half() -> None:
    nodes = [
        helper.make_node("Cast", ["x"], ["ids"], to=TensorProto.INT64),
        helper.make_node("Gather", ["table", "ids"], ["rows"]),
        helper.make_node("LayerNormalization", ["rows", "one", "zero"], ["z"]),
    ]
    constants = {
        "table": DICE.normal(size=(9, 8)).astype(np.float32),
        "one": np.ones(8, np.float32),
        "zero": np.zeros(8, np.float32),
    }
    half = half_of(graph_of(nodes, ["z"], constants))
    assert operators(half) == ["Cast", "Gather", "Cast", "LayerNormalization"]
    assert {t.name: t.data_type for t in half.graph.initializer} == {
        "table.fp16": TensorProto.FLOAT16,
        "one": FLOAT,
        "zero": FLOAT,
    }


def test_control_flow_is_refused() -> None:
    branch = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["inside"])], "branch", [], [helper.make_tensor_value_info("inside", FLOAT, None)]
    )
    flag: Array = np.array([True]).reshape(())
    node = helper.make_node("If", ["flag"], ["z"], "choice", then_branch=branch, else_branch=branch)
    with pytest.raises(BundleInvalidError, match="If node 'choice' is control flow"):
        to_half(graph_of([node], ["z"], {"flag": flag}))


def test_a_type_that_cannot_be_inferred_is_named() -> None:
    with pytest.raises(BundleInvalidError, match="the type that node 'odd' returns"):
        to_half(
            graph_of([helper.make_node("NoSuchOperator", ["x"], ["y"], "odd"), helper.make_node("Relu", ["y"], ["z"])], ["z"], {})
        )


def test_constants_are_folded_through_several_nodes() -> None:
    nodes = [
        helper.make_node("Cast", ["small"], ["wide"], to=FLOAT),
        helper.make_node("Mul", ["wide", "scale"], ["w"]),
        helper.make_node("MatMul", ["x", "w"], ["z"]),
    ]
    constants: dict[str, Array] = {
        "small": DICE.integers(-127, 128, (4, 3)).astype(np.int8),
        "scale": DICE.random((1, 3)).astype(np.float32),
    }
    model = graph_of(nodes, ["z"], constants)
    x = DICE.normal(size=(2, 4)).astype(np.float32)
    before = run_graph(open_session(model), {"x": x})["z"]
    fold_constants(model)
    assert operators(model) == ["MatMul"]
    assert [tensor.name for tensor in model.graph.initializer] == ["w"]
    assert np.allclose(run_graph(open_session(model), {"x": x})["z"], before, atol=1e-6)
