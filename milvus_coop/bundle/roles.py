"""Checks that a record describes three graphs that fit each other: what one reads, another makes or the preprocessing gives."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from milvus_coop.bundle.spec import (
    CE_PREFIX,
    CROSS_ENCODER,
    GRAPHS,
    IMAGE_ENCODER,
    IMAGE_SIDE,
    IMAGE_TOKEN_SCALES,
    IMAGE_TOKENS,
    MATCH_LOGIT,
    MATCH_PROBABILITY,
    PATCH_MASK,
    PIXELS,
    TEXT_ENCODER,
    BundleSpec,
    TensorSpec,
)
from milvus_coop.errors import BundleInvalidError, quoted

BATCH_BYTES = 2**31
"""Maximum size of one input or output of a graph for the largest batch, in bytes."""

MAX_AXES = 8
MAX_TENSORS = 16

_WORDS = ("input_ids", "attention_mask")
_BYTES = {"float32": 4, "int8": 1, "int32": 4, "int64": 8, "uint8": 1}
Form = tuple[str, tuple[int, ...]]
"""The dtype and the shape of a tensor."""
Forms = Mapping[str, tuple[Form, ...]]
"""The forms that a tensor may have, by its name."""
Faults = Iterator[tuple[str, str]]
"""What was given, and what is expected."""


def check_roles(spec: BundleSpec, source: str) -> None:
    """Check the inputs and outputs of the graphs of a record.

    Raises:
        BundleInvalidError: a graph, an input or an output is missing, has a wrong dtype or shape, or is not known.
    """
    for given, expected in _faults(spec):
        raise BundleInvalidError(f"{source}: {given}", expected=expected)


def _faults(spec: BundleSpec) -> Faults:
    names = [graph.name for graph in spec.graphs]
    if sorted(names) != sorted(GRAPHS):
        yield f"the graphs are {quoted(names)}", ", ".join(GRAPHS)
    for graph in spec.graphs:
        yield from _faults_of_side(f"an input of {graph.name}", graph.inputs, _inputs(spec, graph.name))
        yield from _faults_of_side(f"an output of {graph.name}", graph.outputs, _outputs(spec, graph.name))
        for tensor in (*graph.inputs, *graph.outputs):
            sizes = [spec.text_of(tensor.name).max_length if size == -1 else size for size in tensor.shape]
            if len(sizes) > MAX_AXES or math.prod(sizes) * _BYTES[tensor.dtype] * graph.max_batch > BATCH_BYTES:
                given = f"{tensor.name} of {graph.name} has the shape {quoted(tensor.shape)} and a batch of {graph.max_batch:,}"
                yield given, f"at most {MAX_AXES} axes and {BATCH_BYTES:,} bytes"
    has = {graph.name: {t.name for t in (*graph.inputs, *graph.outputs)} for graph in spec.graphs}
    needed = [(TEXT_ENCODER, {"text_embedding"}), (IMAGE_ENCODER, {"image_embedding"}), (CROSS_ENCODER, {MATCH_PROBABILITY})]
    kept = {IMAGE_TOKENS} if spec.tokens.keep != "nowhere" else set()
    needed += [(IMAGE_ENCODER, kept), (CROSS_ENCODER, kept or {CE_PREFIX + PIXELS})]
    for name, tensors in needed:
        if missing := sorted(tensors - has[name]):
            yield f"{name} has no {missing[0]}", ", ".join(sorted(tensors))
    if not spec.text_side:
        yield f"{CROSS_ENCODER} reads nothing of a text", ", ".join(_WORDS)


def _faults_of_side(what: str, tensors: tuple[TensorSpec, ...], forms: Forms) -> Faults:
    names = [tensor.name for tensor in tensors[:MAX_TENSORS]]
    if len(tensors) > MAX_TENSORS:
        yield f"{what} is one of {len(tensors):,}", f"at most {MAX_TENSORS}"
    for number, tensor in enumerate(tensors):
        if tensor.name not in forms or tensor.name in names[:number]:
            yield f"{what} is {quoted(tensor.name)}", f"each at most once: {', '.join(forms)}"
        if (tensor.dtype, tensor.shape) not in forms[tensor.name]:
            expected = " or ".join(f"{dtype} {list(shape)}" for dtype, shape in forms[tensor.name])
            yield f"{what}, {tensor.name}, is {tensor.dtype} {quoted(list(tensor.shape))}", expected


def _inputs(spec: BundleSpec, graph: str) -> Forms:
    if graph == TEXT_ENCODER:
        return _words(spec, "")
    if graph == IMAGE_ENCODER:
        return {**_pixels(spec, ""), **_pixels(spec, CE_PREFIX)}
    made = {t.name: ((t.dtype, t.shape),) for t in spec.graph(TEXT_ENCODER).outputs}
    words = {**_words(spec, ""), **(_words(spec, CE_PREFIX) if spec.ce_text is not None else {})}
    return {**words, **made, **(_pixels(spec, CE_PREFIX) if spec.tokens.keep == "nowhere" else _tokens(spec, "int8"))}


def _outputs(spec: BundleSpec, graph: str) -> Forms:
    embedding: tuple[Form, ...] = (("float32", (spec.dim,)),)
    if graph == TEXT_ENCODER:
        others = {t.name: ((t.dtype, t.shape),) for t in spec.graph(graph).outputs if t.name not in (*_WORDS, *IMAGE_SIDE)}
        return {**others, "text_embedding": embedding}
    if graph == IMAGE_ENCODER:
        tokens = {} if spec.tokens.keep == "nowhere" else {IMAGE_TOKENS: _tokens(spec, "float32")[IMAGE_TOKENS]}
        return {"image_embedding": embedding, **tokens}
    return {MATCH_PROBABILITY: (("float32", ()),), MATCH_LOGIT: (("float32", ()),)}


def _words(spec: BundleSpec, prefix: str) -> Forms:
    return {prefix + name: (("int64", (-1,)), ("int64", (spec.text_of(prefix + name).max_length,))) for name in _WORDS}


def _pixels(spec: BundleSpec, prefix: str) -> Forms:
    image = spec.image_of(prefix + PIXELS)
    square = (3, image.size, image.size)
    mask: Forms = {} if image.mask_shape is None else {prefix + PATCH_MASK: (("uint8", image.mask_shape),)}
    return {prefix + PIXELS: (("uint8", square), ("float32", square)), **mask}


def _tokens(spec: BundleSpec, dtype: str) -> Forms:
    count, dim = spec.tokens.count, spec.tokens.dim
    return {IMAGE_TOKENS: ((dtype, (count, dim)),), IMAGE_TOKEN_SCALES: (("float32", (count,)),)}
