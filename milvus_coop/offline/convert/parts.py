"""The parts of a bundle: three modules and a record, made from one or two opened checkpoints."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from torch import nn

from milvus_coop.bundle.spec import (
    CE_PREFIX,
    COLLECTION_TOKEN_BYTES,
    CROSS_ENCODER,
    IMAGE_ENCODER,
    IMAGE_TOKEN_SCALES,
    IMAGE_TOKENS,
    MATCH_LOGIT,
    MATCH_PROBABILITY,
    PATCH_MASK,
    PIXELS,
    TEXT_ENCODER,
    BundleSpec,
    GraphSpec,
    ImageSpec,
    Keep,
    TensorSpec,
    TextSpec,
    TokenSpec,
)
from milvus_coop.errors import ConvertError
from milvus_coop.offline.convert.family import CheckpointSource, Matcher, Retriever
from milvus_coop.offline.convert.modules import (
    CheckpointTextEncoder,
    JointImageEncoder,
    PixelCrossEncoder,
    PooledTokens,
    SeparateImageEncoder,
    Sight,
    TokenCrossEncoder,
)

TEXT_BATCH = 64
IMAGE_BATCH = 16
"""Maximum images in one run of the image encoder. A vision transformer at 384 px needs 1 GB of attention for 64 images."""
PAIR_BATCH = 64
PIXEL_PAIR_BATCH = 8
"""Maximum pairs in one run of a cross-encoder that runs the vision tower for each pair."""


@dataclass(frozen=True)
class Parts:
    """The parts of a bundle."""

    be: CheckpointSource
    ce: CheckpointSource
    """The cross-encoder's source. For a joint model it is the same object as `be`."""
    retriever: Retriever
    matcher: Matcher
    keep: Keep

    @property
    def is_joint(self) -> bool:
        """True if one model has both roles."""
        return self.be is self.ce

    @property
    def ce_image(self) -> ImageSpec | None:
        """The image preprocessing of the cross-encoder's own vision tower. None if both roles share one tower."""
        return None if self.is_joint else self.ce.image


def make_parts(be: CheckpointSource, ce: CheckpointSource, *, keep: Keep | None = None, pool_tokens: int | None = None) -> Parts:
    """Check that the sources have their roles, and decide where the image tokens are kept.

    Raises:
        ConvertError: a source lacks its role, or the tokens cannot be pooled as asked or do not fit where they should be kept.
    """
    if be.retriever is None:
        raise ConvertError(
            f"{be.checkpoint.name} ({be.family.name}) only matches", expected="a bi-encoder as well", run="--be MODEL --ce MODEL"
        )
    if ce.matcher is None:
        raise ConvertError(
            f"{ce.checkpoint.name} ({ce.family.name}) only embeds",
            expected="a cross-encoder as well",
            run="--be MODEL --ce MODEL",
        )
    if pool_tokens is not None and keep == "nowhere":
        raise ConvertError("--pool-tokens makes kept tokens fewer, and --keep nowhere keeps none", expected="one of the two")
    matcher = ce.matcher if pool_tokens is None else _pooled(ce, ce.matcher, pool_tokens)
    n_bytes = TokenSpec(matcher.count, matcher.dim).n_bytes
    settled: Keep = keep or ("collection" if n_bytes <= COLLECTION_TOKEN_BYTES else "store")
    if settled == "collection" and n_bytes > COLLECTION_TOKEN_BYTES:
        raise ConvertError(
            f"{matcher.count} tokens of {matcher.dim} are {n_bytes:,} bytes per image",
            expected=f"at most {COLLECTION_TOKEN_BYTES:,} in a collection",
            run="--keep store" + ("" if matcher.grid is None else ", or --pool-tokens"),
        )
    return Parts(be, ce, be.retriever, replace(matcher, score=matcher.score if be is ce else "ce"), settled)


def _pooled(ce: CheckpointSource, matcher: Matcher, side: int) -> Matcher:
    grid = matcher.grid
    if grid is None:
        raise ConvertError(f"the image tokens of {ce.family.name} are no grid of patches", expected="no --pool-tokens")
    if side < 1 or grid.side % side:
        divisors = [n for n in range(1, grid.side) if grid.side % n == 0]
        raise ConvertError(
            f"{grid.side} x {grid.side} patches cannot be pooled to {side} x {side}",
            expected=f"one of {', '.join(map(str, divisors))}",
        )
    count = grid.leading + grid.sets * side * side
    return replace(matcher, count=count, tokens=PooledTokens(matcher.tokens, grid, side), grid=None)


def make_spec(parts: Parts, name: str, version: str, text: TextSpec, ce_text: TextSpec | None, licence: str) -> BundleSpec:
    """The bundle's record without files, lineage and metrics."""
    kept = parts.keep != "nowhere"
    return BundleSpec(
        name=name,
        version=version,
        kind="joint" if parts.is_joint else "separate",
        dim=parts.retriever.dim,
        image=parts.be.image,
        text=text,
        tokens=TokenSpec(parts.matcher.count if kept else 0, parts.matcher.dim if kept else 0, parts.keep),
        graphs=_graphs(parts, text, ce_text),
        ce_image=parts.ce_image,
        ce_text=ce_text,
        score=parts.matcher.score,
        licence=licence,
    )


def module_makers(parts: Parts) -> dict[str, Callable[[], nn.Module]]:
    """A function for each graph that makes its module. They are made one at a time, so that an exporter's copies do not pile up."""
    tokens = parts.matcher.tokens

    def image_encoder() -> nn.Module:
        if parts.is_joint or parts.keep == "nowhere":
            return JointImageEncoder(Sight(parts.be), parts.retriever, None if parts.keep == "nowhere" else tokens)
        return SeparateImageEncoder(Sight(parts.be), parts.retriever, Sight(parts.ce), tokens)

    def cross_encoder() -> nn.Module:
        if parts.keep == "nowhere":
            return PixelCrossEncoder(Sight(parts.ce), tokens, parts.matcher)
        return TokenCrossEncoder(parts.matcher)

    return {
        TEXT_ENCODER: lambda: CheckpointTextEncoder(parts.retriever),
        IMAGE_ENCODER: image_encoder,
        CROSS_ENCODER: cross_encoder,
    }


def _graphs(parts: Parts, text: TextSpec, ce_text: TextSpec | None) -> tuple[GraphSpec, ...]:
    stored = (
        TensorSpec(IMAGE_TOKENS, "int8", (parts.matcher.count, parts.matcher.dim)),
        TensorSpec(IMAGE_TOKEN_SCALES, "float32", (parts.matcher.count,)),
    )
    ce_words = _words(text, "") if ce_text is None else _words(ce_text, CE_PREFIX)
    ce_pixels = _pixels(parts.ce.image, CE_PREFIX)
    two_towers = not parts.is_joint and parts.keep != "nowhere"
    verdict = (TensorSpec(MATCH_PROBABILITY, "float32", ()), TensorSpec(MATCH_LOGIT, "float32", ()))
    embedding = TensorSpec("image_embedding", "float32", (parts.retriever.dim,))
    tokens = TensorSpec(IMAGE_TOKENS, "float32", (parts.matcher.count, parts.matcher.dim))
    on_pixels = parts.keep == "nowhere"
    return (
        GraphSpec(
            TEXT_ENCODER,
            f"{TEXT_ENCODER}.onnx",
            _words(text, "")[: 2 if parts.retriever.masked else 1],
            (TensorSpec("text_embedding", "float32", (parts.retriever.dim,)),),
            TEXT_BATCH,
        ),
        GraphSpec(
            IMAGE_ENCODER,
            f"{IMAGE_ENCODER}.onnx",
            (*_pixels(parts.be.image, ""), *(ce_pixels if two_towers else ())),
            (embedding,) if on_pixels else (embedding, tokens),
            IMAGE_BATCH,
        ),
        GraphSpec(
            CROSS_ENCODER,
            f"{CROSS_ENCODER}.onnx",
            (*ce_words, *(ce_pixels if on_pixels else stored)),
            verdict,
            PIXEL_PAIR_BATCH if on_pixels else PAIR_BATCH,
        ),
    )


def _words(text: TextSpec, prefix: str) -> tuple[TensorSpec, ...]:
    length = text.max_length if text.pad_to_max else -1
    return tuple(TensorSpec(prefix + name, "int64", (length,)) for name in ("input_ids", "attention_mask"))


def _pixels(image: ImageSpec, prefix: str) -> tuple[TensorSpec, ...]:
    pixels = TensorSpec(prefix + PIXELS, "uint8", (3, image.size, image.size))
    return (pixels,) if image.mask_shape is None else (pixels, TensorSpec(prefix + PATCH_MASK, "uint8", image.mask_shape))
