"""Comparison of a converted bundle with its checkpoint: the graphs against the model's forward pass, on real images and texts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import numpy as np
import torch
from PIL.Image import Image
from torch import Tensor

from milvus_coop.bundle.folder import Bundle
from milvus_coop.bundle.spec import (
    CE_PREFIX,
    IMAGE_ENCODER,
    IMAGE_TOKENS,
    MATCH_PROBABILITY,
    PATCH_MASK,
    PIXELS,
)
from milvus_coop.errors import ConvertError
from milvus_coop.models.backends.onnx import OnnxBackend
from milvus_coop.models.open import open_encoder
from milvus_coop.models.preprocess.images import normalise
from milvus_coop.models.reranker import Reranker
from milvus_coop.models.tokens import quantise
from milvus_coop.offline.convert.family import CheckpointSource
from milvus_coop.offline.convert.graphs import GraphPrecision
from milvus_coop.offline.convert.modules import verdict
from milvus_coop.offline.convert.parts import Parts
from milvus_coop.offline.export.parity import Difference, difference
from milvus_coop.types import Array

Result = TypeVar("Result")

WITH_TOKENS = "match_probability with stored tokens"
"""The output whose difference includes the effect of storing tokens as int8."""
LEAST_COSINE: dict[GraphPrecision, float] = {"fp32": 0.99999, "fp16": 0.999, "int8": 0.95}
"""Minimum cosine between graph and checkpoint, for embeddings and for image tokens."""
LARGEST_DIFFERENCE: dict[GraphPrecision, float] = {"fp32": 1e-3, "fp16": 2e-2, "int8": 0.1}
"""Maximum difference of probabilities."""
NOTEWORTHY = 0.05
"""Users are warned of a difference of probabilities through int8 tokens that is above this."""


@dataclass(frozen=True)
class Samples:
    """Images and texts. Pair i is image i and text i."""

    images: Sequence[Image]
    texts: Sequence[str]


def measure(bundle: Bundle, parts: Parts, samples: Samples) -> dict[str, Difference]:
    """Run the bundle in process and the checkpoints in PyTorch, and compare every output by name.

    Image tokens are compared in units of their largest value. `match_probability` compares graph and PyTorch on the same tokens;
    `WITH_TOKENS` compares with the model's own forward pass from pixels.
    """
    backend = OnnxBackend(bundle)
    encoder, run = open_encoder(bundle, backend), partial(_run_alone, backend)
    decoded = [encoder.decode(image) for image in samples.images]
    pixels = {**encoder.pixels(decoded), **encoder.ce_pixels(decoded)}
    words = encoder.tokenise(samples.texts)
    seen = run(lambda: backend.run(IMAGE_ENCODER, encoder.pixels(decoded)))
    read = run(lambda: encoder.encode_texts(samples.texts))
    own = _reference(parts.be, _inputs(parts.be, {**pixels, **words}, ""))
    found = {
        "image_embedding": difference(own["image_embedding"], seen["image_embedding"]),
        "text_embedding": difference(own["text_embedding"], read.embeddings),
    }
    inputs = _inputs(parts.ce, {**pixels, **words}, "" if parts.is_joint else CE_PREFIX)
    theirs = own if parts.is_joint else _reference(parts.ce, inputs)
    if parts.keep == "nowhere":
        probability = run(lambda: Reranker(backend).score_pairs(read.text_side, encoder.ce_pixels(decoded)).probability)
        return found | {MATCH_PROBABILITY: difference(theirs[MATCH_PROBABILITY], probability)}
    tokens, scales = quantise(seen[IMAGE_TOKENS])
    probability = run(lambda: Reranker(backend).score(read.text_side, tokens, scales))
    exact, matched = _by_parts(parts, inputs, tokens, scales)
    largest = float(np.abs(exact).max()) or 1.0
    return found | {
        IMAGE_TOKENS: difference(exact / largest, seen[IMAGE_TOKENS] / largest),
        MATCH_PROBABILITY: difference(matched, probability),
        WITH_TOKENS: difference(theirs[MATCH_PROBABILITY], probability),
    }


def _run_alone(backend: OnnxBackend, run: Callable[[], Result]) -> Result:
    """Run one graph and free its memory, so that at most one is loaded."""
    try:
        return run()
    finally:
        backend.close()


def refuse(differences: Mapping[str, Difference], precision: GraphPrecision) -> None:
    """Refuse a bundle that differs from the model.

    Raises:
        ConvertError: an output differs by more than the precision explains, or is not a number.
    """
    run = "--precision fp32" if precision != "fp32" else ""
    for name, found in differences.items():
        if name == MATCH_PROBABILITY and not found.largest <= LARGEST_DIFFERENCE[precision]:  # also NaN
            limit = f"at most {LARGEST_DIFFERENCE[precision]:g}"
            raise ConvertError(f"the graphs' {name} differs from the checkpoint's by {found.largest:.2g}", expected=limit, run=run)
        if name not in (MATCH_PROBABILITY, WITH_TOKENS) and not found.smallest_cosine >= LEAST_COSINE[precision]:
            limit = f"at least {LEAST_COSINE[precision]:g}"
            cosine = f"has a cosine of {found.smallest_cosine:.5f} with the checkpoint's"
            raise ConvertError(f"the graphs' {name} {cosine}", expected=limit, run=run)


def _inputs(source: CheckpointSource, arrays: Mapping[str, Array], prefix: str) -> dict[str, Tensor]:
    """The inputs of a model under its own names. An input with the prefix takes precedence over one that both models share."""
    mine = (PIXELS, *(() if source.image.mask_shape is None else (PATCH_MASK,)), "input_ids", "attention_mask")
    names = [name for name in mine if {prefix + name, name} & set(arrays)]
    found = {name: arrays[prefix + name if prefix + name in arrays else name] for name in names}
    found[PIXELS] = normalise(found[PIXELS], source.image)
    return {name: torch.from_numpy(array) for name, array in found.items()}


@torch.no_grad()
def _reference(source: CheckpointSource, inputs: Mapping[str, Tensor]) -> dict[str, Array]:
    """The checkpoint's own forward pass."""
    return {name: value.numpy() for name, value in source.reference(inputs).items()}


@torch.no_grad()
def _by_parts(parts: Parts, inputs: Mapping[str, Tensor], tokens: Array, scales: Array) -> tuple[Array, Array]:
    """The cross-encoder's half in PyTorch: image tokens from pixels, and probabilities from the stored tokens."""
    mask = [inputs[PATCH_MASK].float()] if PATCH_MASK in inputs else []
    exact = parts.matcher.tokens(parts.ce.vision(inputs[PIXELS], *mask))
    stored = torch.from_numpy(tokens.astype(np.float32) * scales.astype(np.float32)[..., None])
    probability, _ = verdict(parts.matcher.match(inputs["input_ids"], inputs["attention_mask"], stored))
    return exact.numpy(), probability.numpy()
