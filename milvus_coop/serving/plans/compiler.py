"""A TensorRT library and the GPU that it compiles for. TensorRT and TensorRT-RTX share an interface, so this code serves both.

TensorRT itself builds plans for the GPU that it runs on, and Triton serves them. TensorRT-RTX, which pip installs in seconds, can
compile for a GPU that this machine does not have. That is enough to check whether a graph can be compiled.
"""

from __future__ import annotations

import functools
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from milvus_coop.bundle.spec import GraphSpec
from milvus_coop.errors import PlanError
from milvus_coop.serving.plans.profiles import Profile


@dataclass(frozen=True, slots=True)
class Plan:
    """A compiled graph."""

    content: bytes
    layers: int
    """Number of layers of the network before TensorRT fuses them."""
    parse_s: float
    build_s: float


@dataclass(frozen=True, slots=True)
class Compiler:
    """Compiles graphs. `libraries.open_tensorrt` and `libraries.open_tensorrt_rtx` make a compiler."""

    trt: Any
    """The module `tensorrt` or `tensorrt_rtx`."""
    gpu: str
    """Name of the GPU that the plans are for."""
    compute_capability: str
    """Compute capability of the GPU, for example `8.9`; with `target`, the name of the target."""
    target: Any = None
    """A member of `tensorrt_rtx.ComputeCapability`; None means the GPU of this machine."""

    @property
    def version(self) -> str:
        """Name and version of the library, for example `tensorrt 11.4.0.106`."""
        return f"{self.trt.__name__} {self.trt.__version__}"

    def compile(self, source: Path, graph: GraphSpec, profile: Profile, *, timing_cache: Path | None = None) -> Plan:
        """Parse and build one ONNX file as a strongly typed network.

        Args:
            source: a plain graph (`milvus_coop.serving.plans.materialise`). Its element types decide the precision.
            graph: the spec of its inputs and outputs.
            profile: the shapes to serve.
            timing_cache: a file of kernel timings, which makes the next build faster. It is read if it exists, and written.

        Raises:
            PlanError: TensorRT cannot read the file (the message names the node) or cannot build it, or its inputs and outputs do
                not match the spec.
        """
        log = _log_of(self.trt)
        log.errors.clear()
        try:
            builder = self.trt.Builder(log)
        except (TypeError, RuntimeError) as exc:  # TypeError: its factory returned nothing
            raise PlanError(f"{self.version} does not start: {log.text()}") from exc
        started = time.perf_counter()
        network = _parse(self.trt, log, builder, source)
        parsed = time.perf_counter()
        _check_tensors(self.trt, network, graph, source)
        config = self._configure(builder, profile, timing_cache)
        content = builder.build_serialized_network(network, config)
        if content is None:
            raise PlanError(f"{self.version} cannot build {source}: {log.text()}")
        built = time.perf_counter()
        if timing_cache:
            timing_cache.write_bytes(bytes(config.get_timing_cache().serialize()))
        return Plan(bytes(content), network.num_layers, parsed - started, built - parsed)

    def _configure(self, builder: Any, profile: Profile, timing_cache: Path | None) -> Any:
        config = builder.create_builder_config()
        if self.target is not None:
            config.num_compute_capabilities = 1
            config.set_compute_capability(self.target, 0)
        shapes = builder.create_optimization_profile()
        for entry in profile.ranges:
            shapes.set_shape(entry.name, entry.smallest, entry.typical, entry.largest)
        config.add_optimization_profile(shapes)
        if timing_cache:
            known = timing_cache.read_bytes() if timing_cache.is_file() else b""
            if not config.set_timing_cache(config.create_timing_cache(known), ignore_mismatch=False):
                config.set_timing_cache(config.create_timing_cache(b""), ignore_mismatch=False)  # of another GPU or version
        return config


@functools.cache
def _log_of(trt: Any) -> Any:
    """The only log of a library: TensorRT keeps the first log that a process gives it."""

    class Log(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                self.errors.append(message)

        def text(self) -> str:
            return "; ".join(dict.fromkeys(self.errors)) or "it gave no reason"

    return Log()


def _parse(trt: Any, log: Any, builder: Any, source: Path) -> Any:
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, log)
    if parser.parse_from_file(str(source)):
        return network
    errors = [parser.get_error(i) for i in range(parser.num_errors)]
    raise PlanError(f"{trt.__name__} cannot read {source}: {'; '.join(map(_reason, errors)) or log.text()}")


def _reason(error: Any) -> str:
    """One error of the parser on one line. Node and code are added, because the description may be just `false`."""
    node = f"node '{error.node_name()}' ({error.node_operator()}): " if error.node_operator() else ""
    return f"{node}{error.code().name}, {' '.join(error.desc().split())}"


def _check_tensors(trt: Any, network: Any, graph: GraphSpec, source: Path) -> None:
    """Compare the network's inputs and outputs with the spec, on which Triton's config and the client rely."""
    inputs = [network.get_input(i) for i in range(network.num_inputs)]
    outputs = [network.get_output(i) for i in range(network.num_outputs)]
    found = [_describe(t.name, _type_name(trt, t.dtype), tuple(t.shape)) for t in (*inputs, *outputs)]
    expected = [_describe(t.name, t.dtype, (-1, *t.shape)) for t in (*graph.inputs, *graph.outputs)]
    if different := [pair for pair in zip(found, expected, strict=False) if pair[0] != pair[1]]:
        raise PlanError(f"{source} has {different[0][0]}", expected=f"{different[0][1]}, as the bundle says of {graph.name}")
    if len(found) != len(expected):
        raise PlanError(
            f"{source} has {len(found)} inputs and outputs", expected=f"{len(expected)}, as the bundle says of {graph.name}"
        )


def _type_name(trt: Any, dtype: Any) -> str:
    try:
        return str(trt.nptype(dtype).__name__)
    except TypeError:  # numpy has no bfloat16
        return str(dtype.name).lower()


def _describe(name: str, dtype: str, shape: tuple[int, ...]) -> str:
    return f"{name}: {dtype} of shape ({', '.join('any' if n == -1 else str(n) for n in shape)})"
