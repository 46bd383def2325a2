"""A tiny bundle record and rows for it, for the store's contract tests."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from milvus_coop.bundle.spec import BundleSpec, GraphSpec, ImageSpec, TensorSpec, TextSpec, TokenSpec
from milvus_coop.types import Array, Row, StoredTokens

DIM = 8
TEXT_SIDE = (
    TensorSpec("text_embedding", "float32", (DIM,)),
    TensorSpec("text_tokens", "float32", (-1, 6)),
    TensorSpec("attention_mask", "int64", (-1,)),
)
SPEC = BundleSpec(
    name="tiny",
    version="1",
    kind="joint",
    dim=DIM,
    image=ImageSpec(size=32, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)),
    text=TextSpec(max_length=8),
    tokens=TokenSpec(count=4, dim=6),
    graphs=(
        GraphSpec("text_encoder", "text_encoder.onnx", (), TEXT_SIDE[:2]),
        GraphSpec("cross_encoder", "cross_encoder.onnx", TEXT_SIDE, ()),
    ),
)
OTHER_SPEC = replace(SPEC, name="other", tokens=TokenSpec(count=5, dim=6))


def unit_vectors(n: int, seed: int = 0) -> Array:
    """float32 array of shape (n, DIM), unit rows."""
    vectors = np.random.default_rng(seed).standard_normal((n, DIM)).astype(np.float32)
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))


def make_row(i: int, embedding: Array, *, metadata: Mapping[str, Any] | None = None, **changes: Any) -> Row:
    """Row number i: everything but its embedding follows from i."""
    uri = f"file:///pictures/{i}.png"
    return replace(
        Row(
            id=hashlib.sha256(uri.encode()).hexdigest(),
            uri=uri,
            digest=f"digest-{i}",
            size=1000 + i,
            mtime_ns=1_700_000_000_000_000_000 + i,
            embedding=embedding,
            content=StoredTokens(base64.b64encode(i.to_bytes(SPEC.tokens.n_bytes, "little")).decode()),
            metadata=metadata or {},
        ),
        **changes,
    )


def make_rows(n: int, seed: int = 0) -> list[Row]:
    """`n` rows with random embeddings; their ids are in no order."""
    return [make_row(i, vector) for i, vector in enumerate(unit_vectors(n, seed))]
