"""The record of a bundle that is made from runs: sizes, tensors, lineage."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from milvus_coop.bundle import BundleSpec, GraphSpec, TensorSpec, TokenSpec
from milvus_coop.bundle.spec import COLLECTION_TOKEN_BYTES, CROSS_ENCODER, IMAGE_ENCODER, TEXT_ENCODER, TextSpec
from milvus_coop.errors import TrainingError
from milvus_coop.offline.training.networks.one_stream import OneStream
from milvus_coop.offline.training.run.folder import RunFolder

_MAX_BATCH = {TEXT_ENCODER: 64, IMAGE_ENCODER: 64, CROSS_ENCODER: 256}


def lineage_of(run: str | Path, cross_encoder: str | Path | None) -> dict[str, Any]:
    """The origin of the bundle: each run's configuration, data and git revision."""
    runs = {"run": run} if cross_encoder is None else {"bi_encoder": run, "cross_encoder": cross_encoder}
    return {role: {"name": Path(path).name, **RunFolder(Path(path)).record()} for role, path in runs.items()}


def make_spec(
    name: str, version: str, retriever: OneStream, matcher: OneStream, licence: str, lineage: dict[str, Any]
) -> BundleSpec:
    """The bundle's record, without its files.

    Raises:
        TrainingError: an image's tokens do not fit into a VARCHAR.
    """
    sizes, other = retriever.config, matcher.config
    tokens = TokenSpec(other.tokens, other.token_dim)
    if tokens.n_bytes > COLLECTION_TOKEN_BYTES:
        raise TrainingError(
            f"{other.tokens} tokens of {other.token_dim} are {tokens.n_bytes:,} bytes per image",
            expected=f"at most {COLLECTION_TOKEN_BYTES:,}: a VARCHAR of Milvus",
            run="train with --tokens 32",
        )
    length = min(sizes.max_length, other.max_length)
    return BundleSpec(
        name=name,
        version=version,
        kind="joint" if matcher is retriever else "separate",
        dim=sizes.dim,
        image=sizes.vision.image,
        text=TextSpec(max_length=length, pad_id=sizes.pad_id),
        tokens=tokens,
        graphs=_graph_specs(sizes.dim, tokens, sizes.vision.image.size),
        licence=licence,
        lineage=lineage,
    )


def _graph_specs(dim: int, tokens: TokenSpec, size: int) -> tuple[GraphSpec, ...]:
    ids = (TensorSpec("input_ids", "int64", (-1,)), TensorSpec("attention_mask", "int64", (-1,)))
    stored = (
        TensorSpec("image_tokens", "int8", (tokens.count, tokens.dim)),
        TensorSpec("image_token_scales", "float32", (tokens.count,)),
    )
    encoded = (TensorSpec("image_embedding", "float32", (dim,)), TensorSpec("image_tokens", "float32", (tokens.count, tokens.dim)))
    ends = {
        TEXT_ENCODER: (ids, (TensorSpec("text_embedding", "float32", (dim,)),)),
        IMAGE_ENCODER: ((TensorSpec("pixel_values", "uint8", (3, size, size)),), encoded),
        CROSS_ENCODER: ((*ids, *stored), (TensorSpec("match_probability", "float32", ()),)),
    }
    return tuple(GraphSpec(name, f"{name}.onnx", *sides, _MAX_BATCH[name]) for name, sides in ends.items())
