"""Every configuration that can be generated, read by Triton's own schema."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any, get_args

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from milvus_coop.bundle import GRAPHS, Bundle, load_bundle
from milvus_coop.bundle.spec import CROSS_ENCODER, BundleSpec, Dtype, GraphSpec
from milvus_coop.bundle.wire import wire_of
from milvus_coop.serving.triton.config import DATA_TYPES, PLATFORMS, Platform, Tuning, model_config
from tests.unit import regenerate_triton_models
from tests.unit.regenerate_triton_models import FOLDER

TUNINGS = [
    Tuning(threads=3),
    Tuning(threads=3, gpu=True),
    Tuning(threads=3, cuda_graphs=True, plans_by_capability={"8.9": "sm89.plan", "10.0": "sm100.plan"}),
]


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return load_bundle("coop-small")


@pytest.fixture(scope="module")
def spec(bundle: Bundle) -> BundleSpec:
    return bundle.spec


def parse(text: str) -> Any:
    return text_format.Parse(text, model_config_pb2.ModelConfig())


def parameters(config: Any) -> dict[str, str]:
    return {key: value.string_value for key, value in config.parameters.items()}


@pytest.mark.parametrize("platform", PLATFORMS)
@pytest.mark.parametrize("name", GRAPHS)
def test_names_shapes_and_limits_are_those_of_the_spec(spec: BundleSpec, platform: Platform, name: str) -> None:
    graph, options = spec.graph(name), Tuning(gpu=True)
    config = parse(model_config(spec, graph, platform, options))
    assert (config.name, config.max_batch_size) == (graph.name, graph.max_batch)
    assert (config.platform, config.backend) == {
        "tensorrt": ("tensorrt_plan", ""),
        "onnxruntime": ("", "onnxruntime"),
        "python": ("", "python"),
    }[platform]
    wire = wire_of(graph)
    assert (wire is None) == (name != CROSS_ENCODER)
    for tensors, written in ((wire.inputs if wire else graph.inputs, config.input), (graph.outputs, config.output)):
        assert [t.name for t in written] == [t.name for t in tensors]
        for spec_tensor, tensor in zip(tensors, written, strict=True):
            assert model_config_pb2.DataType.Name(tensor.data_type) == DATA_TYPES[spec_tensor.dtype]
            if spec_tensor.shape:
                assert tuple(tensor.dims) == spec_tensor.shape
                assert not tensor.HasField("reshape")
            else:  # a scalar per item: one value on the wire, none in the graph
                assert tuple(tensor.dims) == (1,)
                assert tensor.HasField("reshape") == (platform != "python")
                assert not tensor.reshape.shape
    assert {t.name for t in config.input if t.allow_ragged_batch} == (wire.is_spread if wire else set())
    added = {
        name: source for batch in config.batch_input for name, source in zip(batch.target_name, batch.source_input, strict=True)
    }
    assert added == (wire.batch_inputs if wire and platform != "python" else {})
    assert parameters(config)["fingerprint"] == spec.fingerprint
    assert parameters(config)["bundle"] == spec.label


@pytest.mark.parametrize("platform", PLATFORMS)
@pytest.mark.parametrize("options", TUNINGS, ids=str)
def test_instances_and_accelerators(spec: BundleSpec, platform: Platform, options: Tuning) -> None:
    graph = spec.graph("cross_encoder")
    config = parse(model_config(spec, graph, platform, options))
    (group,) = config.instance_group
    on_gpu = platform == "tensorrt" or (platform == "onnxruntime" and options.gpu)
    assert (group.count, group.kind) == (2, group.KIND_GPU if on_gpu else group.KIND_CPU)
    assert list(group.profile) == (["0"] if platform == "tensorrt" else [])
    assert config.optimization.cuda.graphs == (platform == "tensorrt" and options.cuda_graphs)
    assert dict(config.cc_model_filenames) == (options.plans_by_capability if platform == "tensorrt" else {})
    accelerators = [a.name for a in config.optimization.execution_accelerators.gpu_execution_accelerator]
    assert accelerators == (["tensorrt"] if platform == "onnxruntime" and options.gpu else [])
    threads = {"python": "threads", "onnxruntime": "intra_op_thread_count"}.get(platform, "")
    assert parameters(config).get(threads) == (None if on_gpu else "3")
    assert parameters(config).get("graph") == (graph.file if platform == "python" else None)


@pytest.mark.parametrize("platform", PLATFORMS)
def test_a_full_queue_refuses_at_once(spec: BundleSpec, platform: Platform) -> None:
    config = parse(
        model_config(spec, spec.graph("cross_encoder"), platform, Tuning(queue_delay_us=7, queue_size=3, queue_timeout_us=11))
    )
    policy = config.dynamic_batching.default_queue_policy
    assert config.dynamic_batching.max_queue_delay_microseconds == 7
    assert (policy.max_queue_size, policy.default_timeout_microseconds) == (3, 11)
    assert policy.timeout_action == policy.REJECT
    assert policy.allow_timeout_override
    encoder = parse(model_config(spec, spec.graph("text_encoder"), platform, Tuning(queue_size=3))).dynamic_batching
    assert encoder.default_queue_policy.max_queue_size == 3
    assert encoder.default_queue_policy.default_timeout_microseconds == 0  # no query without it: the client's deadline rules
    alone = parse(model_config(spec, spec.graph("cross_encoder"), platform, Tuning(queue_delay_us=None)))
    assert not alone.HasField("dynamic_batching")


@pytest.mark.parametrize("name", GRAPHS)
def test_the_warm_up_is_a_request_that_fits(spec: BundleSpec, name: str) -> None:
    graph = spec.graph(name)
    (warm_up,) = parse(model_config(spec, graph, "python", Tuning())).model_warmup
    assert warm_up.batch_size == 1
    assert set(warm_up.inputs) == {t.name for t in graph.inputs}
    wire = wire_of(graph)
    for tensor in wire.inputs if wire else graph.inputs:
        written = warm_up.inputs[tensor.name]
        assert written.zero_data
        assert model_config_pb2.DataType.Name(written.data_type) == DATA_TYPES[tensor.dtype]
        length = {"text_embedding": spec.dim, "text_tokens": 8 * 96}.get(tensor.name, 8) if wire else 8
        assert tuple(written.dims) == tuple(length if n == -1 else n for n in tensor.shape)


@pytest.mark.parametrize("name", GRAPHS)
@pytest.mark.parametrize("max_length", [64, 77])
def test_the_accelerator_knows_every_shape_that_can_come(spec: BundleSpec, name: str, max_length: int) -> None:
    """ONNX Runtime wants all dynamic inputs in all three profiles; a text is padded to 8, up to the bundle's length."""
    longer = dataclasses.replace(spec, text=dataclasses.replace(spec.text, max_length=max_length))
    graph = spec.graph(name)
    config = parse(model_config(longer, graph, "onnxruntime", Tuning(gpu=True)))
    (accelerator,) = config.optimization.execution_accelerators.gpu_execution_accelerator
    shapes = {kind: dict(_shapes(accelerator.parameters[f"trt_profile_{kind}_shapes"])) for kind in ("min", "opt", "max")}
    wire = wire_of(graph)
    served = wire.served if wire else graph
    for tensor in served.inputs:
        if wire is None or (tensor.name not in wire.is_spread and tensor.name not in wire.batch_inputs):
            assert shapes["min"][tensor.name] == (1, *(8 if n == -1 else n for n in tensor.shape))
            assert shapes["max"][tensor.name] == (graph.max_batch, *(max_length if n == -1 else n for n in tensor.shape))
        sizes = [shapes[kind][tensor.name] for kind in ("min", "opt", "max")]
        assert all(low <= typical <= high for low, typical, high in zip(*sizes, strict=True))
    assert all(set(named) == {t.name for t in served.inputs} for named in shapes.values())
    if wire:
        assert (shapes["min"]["text_tokens"], shapes["max"]["text_tokens"]) == ((8 * 96,), (256 * max_length * 96,))
        assert (shapes["min"]["pair_begins"], shapes["max"]["pair_begins"]) == ((2,), (257,))


def _shapes(text: str) -> Iterator[tuple[str, tuple[int, ...]]]:
    for item in text.split(","):
        name, _, shape = item.partition(":")
        yield name, tuple(map(int, shape.split("x")))


def test_any_name_is_written_whole(spec: BundleSpec) -> None:
    name = 'Tom\'s "best" \\ model\n} ü'
    renamed = dataclasses.replace(spec, name=name)
    config = parse(model_config(renamed, renamed.graph("text_encoder"), "python", Tuning()))
    assert parameters(config)["bundle"] == f"{name} {spec.version}"


def test_any_dtype_that_a_spec_can_have(spec: BundleSpec) -> None:
    for dtype in get_args(Dtype):
        tensors = tuple(dataclasses.replace(t, dtype=dtype) for t in spec.graph("image_encoder").inputs)
        graph: GraphSpec = dataclasses.replace(spec.graph("image_encoder"), inputs=tensors)
        config = parse(model_config(spec, graph, "python", Tuning()))
        assert model_config_pb2.DataType.Name(config.input[0].data_type) == DATA_TYPES[dtype]


def test_committed_configurations_are_the_generated_ones(bundle: Bundle) -> None:
    """After a change of the bundle or of the generator: `make triton-models`."""
    committed = {str(p.relative_to(FOLDER)): p.read_text(encoding="utf-8") for p in FOLDER.rglob("*") if p.is_file()}
    committed.pop("README.md")
    assert committed == regenerate_triton_models.generated(bundle)
