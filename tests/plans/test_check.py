"""TensorRT takes what this project exports, and nothing else passes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from milvus_coop.bundle import CROSS_ENCODER, IMAGE_ENCODER, TEXT_ENCODER
from milvus_coop.bundle.folder import Bundle
from milvus_coop.bundle.spec import GraphSpec, TensorSpec
from milvus_coop.errors import PlanError
from milvus_coop.serving.plans import check_bundle
from milvus_coop.serving.plans.compiler import Compiler
from milvus_coop.serving.plans.libraries import open_tensorrt_rtx
from milvus_coop.serving.plans.profiles import InputRange, Profile, profile_of
from tests.plans.conftest import Plain

pytestmark = pytest.mark.tensorrt

SMALL = GraphSpec("small", "small.onnx", (TensorSpec("x", "float32", (4,)),), (TensorSpec("z", "float32", (4,)),), max_batch=8)
RANGE = Profile("small", (InputRange("x", (1, 4), (2, 4), (8, 4)),))

Change = Callable[[onnx.ModelProto], None]


def write_small(path: Path, *nodes: onnx.NodeProto, opsets: tuple[str, ...] = ("",), kind: int = TensorProto.FLOAT) -> Path:
    """`x` to `z`, both of shape (batch, 4)."""
    tensors = [helper.make_tensor_value_info(name, kind, ["batch", 4]) for name in "xz"]
    graph = helper.make_graph(list(nodes), "small", tensors[:1], tensors[1:])
    imports = [helper.make_opsetid(domain, 20 if domain == "" else 1) for domain in opsets]
    onnx.save(helper.make_model(graph, opset_imports=imports, ir_version=10), str(path))
    return path


@pytest.mark.usefixtures("rtx")
def test_every_graph_in_both_precisions(bundle: Bundle) -> None:
    told: list[str] = []
    checked = check_bundle(bundle, on_progress=told.append)
    names = [f"{graph.name} {precision}" for precision in ("fp32", "fp16") for graph in bundle.spec.graphs]
    assert told == names
    assert [f"{found.graph} {found.precision}" for found in checked] == names
    assert all(found.layers > 50 and found.plan_bytes > 1_000_000 and found.target == "SM89" for found in checked)
    sizes = {(found.graph, found.precision): found.plan_bytes for found in checked}
    assert sizes[TEXT_ENCODER, "fp16"] < 0.6 * sizes[TEXT_ENCODER, "fp32"]  # so the precision did reach the plan


def test_the_packed_graph_is_rejected(rtx: Compiler, bundle: Bundle) -> None:
    """Why graphs are materialised at all."""
    spec = bundle.spec.graph(IMAGE_ENCODER)
    with pytest.raises(PlanError, match=r"cannot build .*image_encoder.onnx: .*Quantized constant"):
        rtx.compile(bundle.path(spec.file), spec, profile_of(bundle.spec, IMAGE_ENCODER))


def test_a_sound_graph_passes(rtx: Compiler, tmp_path: Path) -> None:
    plan = rtx.compile(write_small(tmp_path / "small.onnx", helper.make_node("Relu", ["x"], ["z"], "step")), SMALL, RANGE)
    assert plan.layers >= 1
    assert plan.content


@pytest.mark.parametrize(
    ("node", "domain"),
    [
        (helper.make_node("Multinomial", ["x"], ["z"], "step"), ""),
        (helper.make_node("Unique", ["x"], ["z"], "step"), ""),
        (helper.make_node("FusedGelu", ["x"], ["z"], "step", domain="com.microsoft"), "com.microsoft"),
    ],
    ids=lambda value: value.op_type if isinstance(value, onnx.NodeProto) else None,
)
def test_an_unknown_operator_is_named(node: onnx.NodeProto, domain: str, rtx: Compiler, tmp_path: Path) -> None:
    source = write_small(tmp_path / "small.onnx", node, opsets=tuple({"", domain}))
    with pytest.raises(PlanError, match=rf"cannot read .*small.onnx: node 'step' \({node.op_type}\)"):
        rtx.compile(source, SMALL, RANGE)


def test_a_result_whose_size_depends_on_the_data(rtx: Compiler, tmp_path: Path) -> None:
    nodes = [helper.make_node("NonZero", ["x"], ["found"], "search"), helper.make_node("Cast", ["found"], ["z"], "cast", to=1)]
    with pytest.raises(PlanError, match=r"small\.onnx"):
        rtx.compile(write_small(tmp_path / "small.onnx", *nodes), SMALL, RANGE)


def test_types_that_do_not_fit_each_other(rtx: Compiler, tmp_path: Path) -> None:
    """A strongly typed network adds no casts of its own."""
    nodes = [
        helper.make_node("Cast", ["x"], ["half"], "cast", to=TensorProto.FLOAT16),
        helper.make_node("Add", ["x", "half"], ["z"], "sum"),
    ]
    with pytest.raises(PlanError, match=r"small\.onnx"):
        rtx.compile(write_small(tmp_path / "small.onnx", *nodes), SMALL, RANGE)


def test_no_graph_at_all(rtx: Compiler, tmp_path: Path) -> None:
    (tmp_path / "noise.onnx").write_bytes(b"\x07\x07\x07")
    for name in ("noise.onnx", "missing.onnx"):
        with pytest.raises(PlanError, match=f"cannot read .*{name}"):
            rtx.compile(tmp_path / name, SMALL, RANGE)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"dtype": "int64"},
            r"has x: float32 of shape \(any, 4\); expected: x: int64 of shape \(any, 4\), as the bundle says of small",
        ),
        ({"name": "y"}, "expected: y: float32"),
        ({"shape": (5,)}, r"expected: x: float32 of shape \(any, 5\)"),
    ],
)
def test_inputs_other_than_the_spec_says(change: dict[str, object], message: str, rtx: Compiler, tmp_path: Path) -> None:
    source = write_small(tmp_path / "small.onnx", helper.make_node("Relu", ["x"], ["z"], "step"))
    wrong = dataclasses.replace(SMALL, inputs=(dataclasses.replace(SMALL.inputs[0], **change),))  # type: ignore[arg-type]
    with pytest.raises(PlanError, match=message):
        rtx.compile(source, wrong, RANGE)


def test_a_type_that_numpy_lacks(rtx: Compiler, tmp_path: Path) -> None:
    source = write_small(tmp_path / "small.onnx", helper.make_node("Relu", ["x"], ["z"], "step"), kind=TensorProto.BFLOAT16)
    with pytest.raises(PlanError, match=r"has x: bf16 of shape .*; expected: x: float32 of shape"):
        rtx.compile(source, SMALL, RANGE)


def test_fewer_outputs_than_the_spec_says(rtx: Compiler, tmp_path: Path) -> None:
    source = write_small(tmp_path / "small.onnx", helper.make_node("Relu", ["x"], ["z"], "step"))
    more = dataclasses.replace(SMALL, outputs=(*SMALL.outputs, TensorSpec("w", "float32", (4,))))
    with pytest.raises(PlanError, match="has 2 inputs and outputs; expected: 3"):
        rtx.compile(source, more, RANGE)


def test_a_profile_that_misses_an_input(rtx: Compiler, bundle: Bundle, plain: Plain) -> None:
    profile = profile_of(bundle.spec, CROSS_ENCODER)
    short = dataclasses.replace(profile, ranges=profile.ranges[1:])
    with pytest.raises(PlanError, match=r"cannot build .*text_embedding"):
        rtx.compile(plain(CROSS_ENCODER, "fp32"), bundle.spec.graph(CROSS_ENCODER), short)


@pytest.mark.usefixtures("rtx")
def test_unknown_target() -> None:
    with pytest.raises(PlanError, match="no compute capability 'SM12'; expected: one of SM75, "):
        open_tensorrt_rtx("SM12")
