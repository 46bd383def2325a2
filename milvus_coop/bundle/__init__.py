"""Bundles: a bundle is a folder with everything needed to run a model, and a frozen record that describes it."""

from __future__ import annotations

from milvus_coop.bundle.folder import Bundle, load_bundle, shipped_bundles, write_record
from milvus_coop.bundle.spec import (
    CROSS_ENCODER,
    GRAPHS,
    IMAGE_ENCODER,
    IMAGE_TOKEN_SCALES,
    IMAGE_TOKENS,
    TEXT_ENCODER,
    BundleSpec,
    GraphSpec,
    ImageSpec,
    TensorSpec,
    TextSpec,
    TokenSpec,
)

__all__ = [
    "CROSS_ENCODER",
    "GRAPHS",
    "IMAGE_ENCODER",
    "IMAGE_TOKENS",
    "IMAGE_TOKEN_SCALES",
    "TEXT_ENCODER",
    "Bundle",
    "BundleSpec",
    "GraphSpec",
    "ImageSpec",
    "TensorSpec",
    "TextSpec",
    "TokenSpec",
    "load_bundle",
    "shipped_bundles",
    "write_record",
]
