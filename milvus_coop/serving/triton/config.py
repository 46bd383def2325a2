"""The config.pbtxt of one model. Names, dtypes, dims and batch limits come from the bundle's spec.

The fields are those of Triton's `model_config.proto`; its documentation explains them under "Model Configuration", "Batchers" and
"Optimization".
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Literal, get_args

from milvus_coop.bundle.spec import CROSS_ENCODER, BundleSpec, GraphSpec, TensorSpec
from milvus_coop.serving.plans.profiles import profile_of

Platform = Literal["tensorrt", "onnxruntime", "python"]
PLATFORMS: tuple[Platform, ...] = get_args(Platform)

DATA_TYPES = {"int64": "TYPE_INT64", "int32": "TYPE_INT32", "float32": "TYPE_FP32", "uint8": "TYPE_UINT8", "int8": "TYPE_INT8"}
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
    """The text of `<graph>/config.pbtxt`."""
    blocks = [
        f'name: "{graph.name}"',
        f'platform: "{_TRITON_PLATFORM[platform]}"' if platform == "tensorrt" else f'backend: "{platform}"',
        f"max_batch_size: {graph.max_batch}",
        *(_tensor("input", tensor, platform) for tensor in graph.inputs),
        *(_tensor("output", tensor, platform) for tensor in graph.outputs),
        _instances(platform, tuning),
        *_batching(graph, tuning),
        _warm_up(graph),
        *_parameters(spec, graph, platform, tuning),
        *_optimization(spec, graph, platform, tuning),
        *_plan_files(platform, tuning),
    ]
    return "# Written by `milvus-coop triton export`; change the bundle or the options, not this file.\n" + "\n".join(blocks) + "\n"


_TRITON_PLATFORM = {"tensorrt": "tensorrt_plan"}


def _tensor(role: str, tensor: TensorSpec, platform: Platform) -> str:
    # Triton has no tensors without dims, so a scalar per item is sent as one value. Its Python backend ignores `reshape`.
    dims = tensor.shape or (1,)
    reshape = "" if tensor.shape or platform == "python" else "  reshape { shape: [ ] }\n"
    values = ", ".join(map(str, dims))
    return f'{role} {{\n  name: "{tensor.name}"\n  data_type: {DATA_TYPES[tensor.dtype]}\n  dims: [ {values} ]\n{reshape}}}'


def _instances(platform: Platform, tuning: Tuning) -> str:
    on_gpu = platform == "tensorrt" or (platform == "onnxruntime" and tuning.gpu)
    profile = '\n  profile: [ "0" ]' if platform == "tensorrt" else ""
    return f"instance_group {{\n  count: {tuning.instances}\n  kind: {'KIND_GPU' if on_gpu else 'KIND_CPU'}{profile}\n}}"


def _batching(graph: GraphSpec, tuning: Tuning) -> Iterator[str]:
    timeout_us = tuning.queue_timeout_us if graph.name == CROSS_ENCODER else 0  # 0: none
    if tuning.queue_delay_us is not None:
        yield f"""dynamic_batching {{
  max_queue_delay_microseconds: {tuning.queue_delay_us}
  default_queue_policy {{
    timeout_action: REJECT
    default_timeout_microseconds: {timeout_us}
    allow_timeout_override: true
    max_queue_size: {tuning.queue_size}
  }}
}}"""


def _warm_up(graph: GraphSpec) -> str:
    inputs = "\n".join(
        f"""  inputs {{
    key: "{tensor.name}"
    value {{
      data_type: {DATA_TYPES[tensor.dtype]}
      dims: [ {", ".join(str(WARM_UP_LENGTH if n == -1 else n) for n in tensor.shape)} ]
      zero_data: true
    }}
  }}"""
        for tensor in graph.inputs
    )
    return f'model_warmup {{\n  name: "zeros"\n  batch_size: 1\n{inputs}\n}}'


def _parameters(spec: BundleSpec, graph: GraphSpec, platform: Platform, tuning: Tuning) -> Iterator[str]:
    values = {"bundle": spec.label, "fingerprint": spec.fingerprint}
    if platform == "python":
        values |= {"graph": graph.file, "threads": str(tuning.threads)}
    elif platform == "onnxruntime" and not tuning.gpu:
        values["intra_op_thread_count"] = str(tuning.threads)
    for key, value in values.items():
        yield f'parameters {{\n  key: "{key}"\n  value {{ string_value: "{value}" }}\n}}'


def _optimization(spec: BundleSpec, graph: GraphSpec, platform: Platform, tuning: Tuning) -> Iterator[str]:
    if platform == "tensorrt" and tuning.cuda_graphs:
        yield "optimization {\n  cuda { graphs: true }\n}"
    if platform == "onnxruntime" and tuning.gpu:
        options = {
            "trt_engine_cache_enable": "true",
            "trt_engine_cache_path": PLAN_CACHE,
            "trt_engine_cache_prefix": graph.name,
            "trt_timing_cache_enable": "true",
            "trt_timing_cache_path": PLAN_CACHE,
            **{f"trt_profile_{name}_shapes": value for name, value in _profile_shapes(spec, graph).items()},
        }
        lines = "\n".join(f'      parameters {{ key: "{key}" value: "{value}" }}' for key, value in options.items())
        accelerator = f'    gpu_execution_accelerator {{\n      name: "tensorrt"\n{lines}\n    }}'
        yield f"optimization {{\n  execution_accelerators {{\n{accelerator}\n  }}\n}}"


def _profile_shapes(spec: BundleSpec, graph: GraphSpec) -> dict[str, str]:
    """`min`, `opt` and `max` shapes of all inputs in the accelerator's notation: `input_ids:1x8,attention_mask:1x8`."""
    ranges = profile_of(spec, graph.name).ranges
    kinds = {"min": attrgetter("smallest"), "opt": attrgetter("typical"), "max": attrgetter("largest")}
    return {kind: ",".join(f"{r.name}:{'x'.join(map(str, shape(r)))}" for r in ranges) for kind, shape in kinds.items()}


def _plan_files(platform: Platform, tuning: Tuning) -> Iterator[str]:
    if platform == "tensorrt":
        for capability, file in tuning.plans_by_capability.items():
            yield f'cc_model_filenames {{\n  key: "{capability}"\n  value: "{file}"\n}}'
