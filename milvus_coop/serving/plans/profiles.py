"""The shapes that a plan must serve: TensorRT's optimisation profile, made from the bundle's spec."""

from __future__ import annotations

from dataclasses import dataclass

from milvus_coop.bundle.spec import BundleSpec, TensorSpec
from milvus_coop.bundle.wire import wire_of
from milvus_coop.models.preprocess.texts import padded_length

Shape = tuple[int, ...]

TYPICAL_LENGTH = 32
"""Padded length of a typical text in tokens. TensorRT chooses its kernels for this length."""

TYPICAL_BATCH = 8
"""Minimum batch size to tune for: a few queries that Triton's dynamic batcher joined."""


@dataclass(frozen=True, slots=True)
class InputRange:
    """Minimum, typical and maximum shape of one graph input, with the batch axis."""

    name: str
    smallest: Shape
    typical: Shape
    largest: Shape

    def __str__(self) -> str:
        """The range as a text, such as `input_ids 1x8..64x64, typically 8x32`."""
        smallest, typical, largest = ("x".join(map(str, shape)) for shape in (self.smallest, self.typical, self.largest))
        return f"{self.name} {smallest}..{largest}, typically {typical}"


@dataclass(frozen=True, slots=True)
class Profile:
    """One range per input of a graph."""

    graph: str
    ranges: tuple[InputRange, ...]

    def __str__(self) -> str:
        """All ranges, in the order of the graph's inputs."""
        return "; ".join(map(str, self.ranges))


def served_profile(spec: BundleSpec, graph: str) -> Profile:
    """The profile of one graph with the inputs of joined requests (`milvus_coop.bundle.wire.served_graph`).

    Raises:
        BundleInvalidError: the bundle has no such graph.
    """
    profile, found = profile_of(spec, graph), spec.graph(graph)
    wire = wire_of(found)
    if wire is None:
        return profile
    ranges = {entry.name: entry for entry in profile.ranges}
    for one in wire.spread:
        text = spec.text_of(one.tensor.name)
        smallest, typical, largest = (one.size(padded_length(n, text)) for n in (1, TYPICAL_LENGTH, text.max_length))
        # A typical run is one request with one text.
        ranges[one.tensor.name] = InputRange(one.tensor.name, (smallest,), (typical,), (largest * found.max_batch,))
    begins = {name: InputRange(name, (2,), (2,), (found.max_batch + 1,)) for name in wire.batch_inputs}
    return Profile(graph, tuple((ranges | begins).values()))


def profile_of(spec: BundleSpec, graph: str) -> Profile:
    """The profile of one graph.

    Batch sizes go from 1 to the graph's maximum, and the plan is tuned for an eighth of the maximum (8 for an encoder, 32 pairs for
    the shipped cross-encoder). Dynamic axes are text lengths: the tokenizer pads texts to multiples of 8 or to the text length.

    Raises:
        BundleInvalidError: the bundle has no such graph.
    """
    found = spec.graph(graph)
    batch = min(found.max_batch, max(TYPICAL_BATCH, found.max_batch // 8))

    def shaped(tensor: TensorSpec, rows: int, length: int) -> Shape:
        padded = padded_length(length, spec.text_of(tensor.name))
        return (rows, *(padded if n == -1 else n for n in tensor.shape))

    return Profile(
        graph,
        tuple(
            InputRange(
                tensor.name,
                smallest=shaped(tensor, 1, 1),
                typical=shaped(tensor, batch, TYPICAL_LENGTH),
                largest=shaped(tensor, found.max_batch, spec.text_of(tensor.name).max_length),
            )
            for tensor in found.inputs
        ),
    )
