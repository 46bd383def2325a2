"""Checks that TensorRT accepts the graphs: TensorRT-RTX parses and compiles them for a GPU that this machine need not have.

The check shows that TensorRT supports every operator, that types and shapes fit, and that inputs and outputs match the spec. It
runs no graph. Its plans are deleted, because Triton cannot load them.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from milvus_coop.bundle.folder import Bundle
from milvus_coop.bundle.spec import BundleSpec, GraphSpec
from milvus_coop.bundle.wire import served_graph
from milvus_coop.errors import PlanError
from milvus_coop.serving.plans.compiler import Compiler
from milvus_coop.serving.plans.libraries import TARGET, open_tensorrt_rtx
from milvus_coop.serving.plans.profiles import served_profile

if TYPE_CHECKING:
    from milvus_coop.serving.plans.materialise import GraphPrecision

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class CheckedGraph:
    """A graph that TensorRT accepts."""

    graph: str
    precision: str
    target: str
    """The compute capability that the graph was compiled for."""
    layers: int
    """Number of layers of TensorRT's network before it fuses them."""
    source_bytes: int
    """Size of the plain ONNX file with its weights, in bytes."""
    plan_bytes: int
    parse_s: float
    build_s: float


def check_bundle(
    bundle: Bundle,
    *,
    precisions: Sequence[GraphPrecision] = ("fp32", "fp16"),
    target: str = TARGET,
    on_progress: Progress | None = None,
) -> tuple[CheckedGraph, ...]:
    """Materialise every graph in every precision and check it (about 8 s in all for coop-small on 2 cores).

    Raises:
        PlanError: TensorRT rejects a graph; or TensorRT-RTX or onnx is not installed.
        BundleInvalidError: a graph is broken.
    """
    compiler = open_tensorrt_rtx(target)
    materialise = _materialiser()
    checked = []
    with tempfile.TemporaryDirectory(prefix="milvus-coop-plans-") as folder:
        for precision in precisions:
            for graph in bundle.spec.graphs:
                source = materialise(bundle, graph.name, Path(folder, precision, f"{graph.name}.onnx"), precision, joined=True)
                checked.append(_check(compiler, bundle.spec, graph, source, precision, on_progress))
                source.unlink()
    return tuple(checked)


def _check(
    compiler: Compiler, spec: BundleSpec, graph: GraphSpec, source: Path, precision: str, on_progress: Progress | None
) -> CheckedGraph:
    if on_progress:
        on_progress(f"{graph.name} {precision}")
    plan = compiler.compile(source, served_graph(graph), served_profile(spec, graph.name))
    size = sum(path.stat().st_size for path in source.parent.glob(f"{source.name}*"))
    return CheckedGraph(
        graph.name, precision, compiler.compute_capability, plan.layers, size, len(plan.content), plan.parse_s, plan.build_s
    )


def _materialiser() -> Callable[..., Path]:
    try:
        from milvus_coop.serving.plans.materialise import materialise
    except ModuleNotFoundError as exc:
        raise PlanError(f"the graphs cannot be written: {exc}", run="pip install onnx") from exc
    return materialise
