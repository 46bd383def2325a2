"""Profiles follow the spec."""

from __future__ import annotations

import dataclasses

import pytest

from milvus_coop.bundle import CROSS_ENCODER, GRAPHS, TEXT_ENCODER
from milvus_coop.bundle.folder import Bundle
from milvus_coop.bundle.spec import BundleSpec
from milvus_coop.errors import BundleInvalidError
from milvus_coop.serving.plans.profiles import profile_of


def changed(spec: BundleSpec, *, max_batch: int, max_length: int) -> BundleSpec:
    graphs = tuple(dataclasses.replace(graph, max_batch=max_batch) for graph in spec.graphs)
    return dataclasses.replace(spec, graphs=graphs, text=dataclasses.replace(spec.text, max_length=max_length))


@pytest.mark.parametrize("graph", GRAPHS)
def test_every_input_has_a_range_inside_the_limits(graph: str, bundle: Bundle) -> None:
    spec = bundle.spec.graph(graph)
    profile = profile_of(bundle.spec, graph)
    assert [entry.name for entry in profile.ranges] == [tensor.name for tensor in spec.inputs]
    for entry, tensor in zip(profile.ranges, spec.inputs, strict=True):
        assert (entry.smallest[0], entry.largest[0]) == (1, spec.max_batch)
        assert 8 <= entry.typical[0] <= spec.max_batch
        for axis, size in enumerate(tensor.shape, start=1):
            sizes = (entry.smallest[axis], entry.typical[axis], entry.largest[axis])
            assert sizes == ((8, 32, bundle.spec.text.max_length) if size == -1 else (size,) * 3)


def test_numbers(bundle: Bundle) -> None:
    spec = changed(bundle.spec, max_batch=256, max_length=64)
    assert str(profile_of(spec, TEXT_ENCODER).ranges[0]) == "input_ids 1x8..256x64, typically 32x32"


def test_the_longest_text_is_what_the_tokenizer_pads_it_to(bundle: Bundle) -> None:
    [ids, _] = profile_of(changed(bundle.spec, max_batch=4, max_length=77), TEXT_ENCODER).ranges
    assert (ids.smallest, ids.typical, ids.largest) == ((1, 8), (4, 32), (4, 77))
    [ids, _] = profile_of(changed(bundle.spec, max_batch=64, max_length=20), TEXT_ENCODER).ranges
    assert (ids.smallest, ids.typical, ids.largest) == ((1, 8), (8, 20), (64, 20))


def test_all_inputs_are_in_its_text(bundle: Bundle) -> None:
    text = str(profile_of(bundle.spec, CROSS_ENCODER))
    assert all(f"{tensor.name} 1" in text for tensor in bundle.spec.graph(CROSS_ENCODER).inputs)


def test_unknown_graph(bundle: Bundle) -> None:
    with pytest.raises(BundleInvalidError, match="no graph 'decoder'"):
        profile_of(bundle.spec, "decoder")
