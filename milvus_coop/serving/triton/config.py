"""The config.pbtxt of one model. Names, dtypes, dims and batch limits come from the bundle's spec.

The fields are those of Triton's `model_config.proto`, as tritonclient has it. Triton's documentation explains them under "Model
Configuration", "Batchers" and "Optimization".
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any, Literal, get_args

from milvus_coop.bundle.spec import CROSS_ENCODER, BundleSpec, GraphSpec, TensorSpec
from milvus_coop.bundle.wire import Wire, wire_of
from milvus_coop.errors import MissingPackageError
from milvus_coop.serving.plans.profiles import served_profile

Platform = Literal["tensorrt", "onnxruntime", "python"]
PLATFORMS: tuple[Platform, ...] = get_args(Platform)
Fields = dict[str, Any]
"""The fields of a protobuf message, by name."""

DATA_TYPES = {
    "int64": "TYPE_INT64",
    "int32": "TYPE_INT32",
    "float32": "TYPE_FP32",
    "float16": "TYPE_FP16",
    "uint8": "TYPE_UINT8",
    "int8": "TYPE_INT8",
}
HEADING = "# Written by `milvus-coop triton export`; change the bundle or the options, not this file.\n"
PLAN_CACHE = "/var/cache/milvus-coop/tensorrt"
"""Folder in which Triton's ONNX Runtime backend keeps the engines that its TensorRT accelerator builds. Mount a volume there."""
WARM_UP_LENGTH = 8
"""Length of dynamic axes in the warm-up request."""


@dataclass(frozen=True, slots=True)
class Tuning:
    """Options for operators. By default, requests fail fast, so that a search can degrade to the BE order in time.

    Measured with benchmarks/serving.py.
    """

    instances: int = 2
    """Number of instances per model. With one instance, Triton's dynamic batcher sometimes misses the moment when the instance
    becomes free, and the request waits for 500 ms: one request in 15 on a busy machine. With two instances this never happened."""
    threads: int = 1
    """Number of intra-op threads per instance on a CPU. One was best when instances and clients share the cores."""
    gpu: bool = False
    """Run the `onnxruntime` platform on GPUs, with the TensorRT accelerator. (`tensorrt` is always on GPUs, `python` never.)"""
    queue_delay_us: int | None = 0
    """Time that a request may wait for others to form a batch. Even with 0, requests that arrive while all instances are busy are
    joined. Waiting 500 us cost a single client 40 % of its rate, and gained 16 clients 7 %. None: no batching and no queue."""
    queue_size: int = 128
    """Maximum number of waiting requests; more are refused at once."""
    queue_timeout_us: int = 2_000_000
    """Time limit for pairs in the queue. Later they are refused, and the search degrades. Texts and images wait as long as their
    client waits, because a search is not possible without them. Triton does not run requests that a client gave up, because it
    notices that the gRPC call was cancelled."""
    cuda_graphs: bool = False
    plans_by_capability: Mapping[str, str] = field(default_factory=dict)
    """Plan file (`model-sm89.plan`) by compute capability (`8.9`), for machines with different GPUs."""


def model_config(spec: BundleSpec, graph: GraphSpec, platform: Platform, tuning: Tuning) -> str:
    """The text of `<graph>/config.pbtxt`.

    Raises:
        MissingPackageError: tritonclient, which has the schema, is not installed.
    """
    try:
        from google.protobuf import json_format, text_format
        from tritonclient.grpc import model_config_pb2
    except ModuleNotFoundError as exc:
        raise MissingPackageError("tritonclient is not installed", run="pip install 'milvus-coop[triton]'") from exc
    wire = wire_of(graph)
    inputs = graph.inputs if wire is None else wire.inputs
    fields: Fields = {
        "name": graph.name,
        **({"platform": "tensorrt_plan"} if platform == "tensorrt" else {"backend": platform}),
        "max_batch_size": graph.max_batch,
        "version_policy": {"specific": {"versions": [spec.served_version]}},
        "input": [_tensor(tensor, platform, is_ragged=wire is not None and tensor.name in wire.is_spread) for tensor in inputs],
        "batch_input": [] if wire is None or platform == "python" else _batch_inputs(wire),
        "output": [_tensor(tensor, platform) for tensor in graph.outputs],
        "instance_group": [_instances(platform, tuning)],
        "dynamic_batching": _batching(graph, tuning),
        "model_warmup": [_warm_up(graph, wire)],
        "parameters": {key: {"string_value": value} for key, value in _parameters(spec, graph, platform, tuning).items()},
        "optimization": _optimization(spec, graph, platform, tuning),
        "cc_model_filenames": tuning.plans_by_capability if platform == "tensorrt" else {},
    }
    config = json_format.ParseDict(fields, model_config_pb2.ModelConfig())
    return HEADING + str(text_format.MessageToString(config, as_utf8=True, use_short_repeated_primitives=True))


def _tensor(tensor: TensorSpec, platform: Platform, *, is_ragged: bool = False) -> Fields:
    facts: Fields = {"name": tensor.name, "data_type": DATA_TYPES[tensor.dtype], "dims": list(tensor.shape or (1,))}
    if is_ragged:
        facts["allow_ragged_batch"] = True
    # Triton has no tensors without dims, so a scalar per item is sent as one value. Its Python backend ignores `reshape`.
    return facts if tensor.shape or platform == "python" else {**facts, "reshape": {"shape": []}}


def _batch_inputs(wire: Wire) -> list[Fields]:
    """The inputs that Triton's own backends add. In its Python backend, the model adds them."""
    kind = "BATCH_ACCUMULATED_ELEMENT_COUNT_WITH_ZERO"
    return [
        {"kind": kind, "target_name": [name], "data_type": "TYPE_INT32", "source_input": [source]}
        for name, source in wire.batch_inputs.items()
    ]


def _instances(platform: Platform, tuning: Tuning) -> Fields:
    on_gpu = platform == "tensorrt" or (platform == "onnxruntime" and tuning.gpu)
    facts: Fields = {"count": tuning.instances, "kind": "KIND_GPU" if on_gpu else "KIND_CPU"}
    return {**facts, "profile": ["0"]} if platform == "tensorrt" else facts


def _batching(graph: GraphSpec, tuning: Tuning) -> Fields | None:
    if tuning.queue_delay_us is None:
        return None
    queue = {
        "timeout_action": "REJECT",
        "default_timeout_microseconds": tuning.queue_timeout_us if graph.name == CROSS_ENCODER else 0,  # 0: none
        "allow_timeout_override": True,
        "max_queue_size": tuning.queue_size,
    }
    return {"max_queue_delay_microseconds": tuning.queue_delay_us, "default_queue_policy": queue}


def _warm_up(graph: GraphSpec, wire: Wire | None) -> Fields:
    sizes = {} if wire is None else {one.tensor.name: one.size(WARM_UP_LENGTH) for one in wire.spread}
    inputs = {
        tensor.name: {
            "data_type": DATA_TYPES[tensor.dtype],
            "dims": [sizes.get(tensor.name, WARM_UP_LENGTH) if n == -1 else n for n in tensor.shape],
            "zero_data": True,
        }
        for tensor in (graph.inputs if wire is None else wire.inputs)
    }
    return {"name": "zeros", "batch_size": 1, "inputs": inputs}


def _parameters(spec: BundleSpec, graph: GraphSpec, platform: Platform, tuning: Tuning) -> dict[str, str]:
    values = {"bundle": spec.label, "fingerprint": spec.fingerprint}
    if platform == "python":
        values |= {"graph": graph.file, "threads": str(tuning.threads)}
        if wire := wire_of(graph):
            values["begins"] = json.dumps(wire.batch_inputs)
    elif platform == "onnxruntime" and not tuning.gpu:
        values["intra_op_thread_count"] = str(tuning.threads)
    return values


def _optimization(spec: BundleSpec, graph: GraphSpec, platform: Platform, tuning: Tuning) -> Fields | None:
    if platform == "tensorrt" and tuning.cuda_graphs:
        return {"cuda": {"graphs": True}}
    if platform == "onnxruntime" and tuning.gpu:
        options = {
            "trt_engine_cache_enable": "true",
            "trt_engine_cache_path": PLAN_CACHE,
            "trt_engine_cache_prefix": graph.name,
            "trt_timing_cache_enable": "true",
            "trt_timing_cache_path": PLAN_CACHE,
            **{f"trt_profile_{name}_shapes": value for name, value in _profile_shapes(spec, graph).items()},
        }
        return {"execution_accelerators": {"gpu_execution_accelerator": [{"name": "tensorrt", "parameters": options}]}}
    return None


def _profile_shapes(spec: BundleSpec, graph: GraphSpec) -> dict[str, str]:
    """`min`, `opt` and `max` shapes of all inputs in the accelerator's notation: `input_ids:1x8,attention_mask:1x8`."""
    ranges = served_profile(spec, graph.name).ranges
    kinds = {"min": attrgetter("smallest"), "opt": attrgetter("typical"), "max": attrgetter("largest")}
    return {kind: ",".join(f"{r.name}:{'x'.join(map(str, shape(r)))}" for r in ranges) for kind, shape in kinds.items()}
