"""How far a converted bundle is from the checkpoint: graphs against the model's own forward pass, on real pictures and texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL.Image import Image

from milvus_coop.backends.onnx import OnnxBackend
from milvus_coop.bundle.folder import Bundle
from milvus_coop.bundle.spec import (
    CE_PREFIX,
    IMAGE_ENCODER,
    IMAGE_TOKENS,
    MATCH_PROBABILITY,
    PATCH_MASK,
    PIXELS,
)
from milvus_coop.convert.family import Source
from milvus_coop.convert.graphs import GraphPrecision
from milvus_coop.convert.parts import Parts
from milvus_coop.errors import ConvertError
from milvus_coop.export.parity import Difference, difference
from milvus_coop.models import open_encoder
from milvus_coop.preprocess.images import normalise
from milvus_coop.reranker import Reranker
from milvus_coop.types import Array

WITH_TOKENS = "match_probability with stored tokens"
"""What storing tokens as int8 adds to the difference."""
LEAST_COSINE: dict[GraphPrecision, float] = {"fp32": 0.99999, "fp16": 0.999, "int8": 0.95}
"""Between embeddings, and between image tokens, of graph and checkpoint."""
LARGEST_DIFFERENCE: dict[GraphPrecision, float] = {"fp32": 1e-3, "fp16": 2e-2, "int8": 0.1}
"""Of probabilities."""
NOTEWORTHY = 0.05
"""A difference of probabilities by int8 tokens that users should hear of."""


@dataclass(frozen=True)
class Samples:
    """Pictures and texts; pair i is picture i and text i."""

    pictures: Sequence[Image]
    texts: Sequence[str]


def measure(bundle: Bundle, parts: Parts, samples: Samples) -> dict[str, Difference]:
    """Run the bundle in process and the checkpoints in PyTorch, and compare every output by name.

    Image tokens are compared in units of their largest value. `match_probability` compares graph and PyTorch on the same tokens;
    `WITH_TOKENS` compares with the model's own forward pass from pixels.
    """
    backend = OnnxBackend(bundle)
    try:
        encoder = open_encoder(bundle, backend)
        pictures = [encoder.decode(picture) for picture in samples.pictures]
        pixels = {**encoder.pixels(pictures), **encoder.ce_pixels(pictures)}
        texts = encoder.encode_texts(samples.texts)
        images = encoder.encode_pixels(pixels)
        words = encoder.tokenise(samples.texts)
        own = _reference(parts.be, pixels, words, "")
        found = {
            "image_embedding": difference(own["image_embedding"], images.embeddings),
            "text_embedding": difference(own["text_embedding"], texts.embeddings),
        }
        theirs = own if parts.is_joint else _reference(parts.ce, pixels, words, CE_PREFIX)
        probability = Reranker(backend).score_pairs(texts.text_side, images.image_side).probability
        if parts.keep == "image":
            return found | {MATCH_PROBABILITY: difference(theirs[MATCH_PROBABILITY], probability)}
        tokens, matched = _by_parts(parts, pixels, words, images.tokens, images.scales)
        graph_tokens = backend.run(IMAGE_ENCODER, pixels)[IMAGE_TOKENS]
        largest = float(np.abs(tokens).max()) or 1.0
        return found | {
            IMAGE_TOKENS: difference(tokens / largest, graph_tokens / largest),
            MATCH_PROBABILITY: difference(matched, probability),
            WITH_TOKENS: difference(theirs[MATCH_PROBABILITY], probability),
        }
    finally:
        backend.close()


def refuse(differences: Mapping[str, Difference], precision: GraphPrecision) -> None:
    """Refuse a bundle that is not the model.

    Raises:
        ConvertError: an output differs by more than the precision explains, or is no number.
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


def _reference(source: Source, pixels: Mapping[str, Array], words: Mapping[str, Array], prefix: str) -> dict[str, Array]:
    """The checkpoint's own forward pass; where both roles share an input, it has no prefix."""

    def pick(name: str, arrays: Mapping[str, Array]) -> Array | None:
        return arrays.get(prefix + name, arrays.get(name))

    inputs = {PIXELS: normalise(_present(pick(PIXELS, pixels)), source.image)}
    inputs |= {name: _present(pick(name, words)) for name in ("input_ids", "attention_mask")}
    if (mask := pick(PATCH_MASK, pixels)) is not None:
        inputs[PATCH_MASK] = mask
    with torch.no_grad():
        outputs = source.reference({name: torch.from_numpy(array) for name, array in inputs.items()})
    return {name: value.numpy() for name, value in outputs.items()}


def _by_parts(
    parts: Parts, pixels: Mapping[str, Array], words: Mapping[str, Array], tokens: Array, scales: Array
) -> tuple[Array, Array]:
    """The cross-encoder's half in PyTorch: image tokens from pixels, and probabilities from the stored tokens."""
    prefix = "" if parts.is_joint else CE_PREFIX
    sight = [torch.from_numpy(normalise(pixels[prefix + PIXELS], parts.ce.image))]
    if prefix + PATCH_MASK in pixels:
        sight.append(torch.from_numpy(pixels[prefix + PATCH_MASK]).float())
    texts = [torch.from_numpy(words.get(CE_PREFIX + name, words[name])) for name in ("input_ids", "attention_mask")]
    with torch.no_grad():
        exact = parts.matcher.tokens(parts.ce.vision(*sight))
        stored = torch.from_numpy(tokens.astype(np.float32) * scales.astype(np.float32)[..., None])
        logits = parts.matcher.match(*texts, stored)
    return exact.numpy(), torch.sigmoid(logits[:, 1] - logits[:, 0]).numpy()


def _present(array: Array | None) -> Array:
    if array is None:
        raise ValueError("an input is missing")
    return array
