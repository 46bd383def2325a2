"""Image tokens as they are stored: int8 values with one float16 scale per token, in a file or as base64 in a VARCHAR.

Symmetric quantisation per token: scale = max|row| / 127, q = round(row / scale); a zero row has scale 0.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence

import numpy as np

from milvus_coop.bundle.spec import IMAGE_TOKENS, TokenSpec
from milvus_coop.errors import TokensError
from milvus_coop.types import Array

MAX_FLOAT16 = float(np.finfo(np.float16).max)


def quantise(tokens: Array) -> tuple[Array, Array]:
    """Quantise image tokens.

    Args:
        tokens: float32 array of shape (..., count, dim).

    Returns:
        int8 array of the same shape, and float16 scales of shape (..., count); `values * scales[..., None]` restores the tokens
        with an error of at most half a scale.
    """
    scales = np.minimum(np.abs(tokens).max(axis=-1) / 127.0, MAX_FLOAT16).astype(np.float16)
    divisor = np.where(scales > 0, scales.astype(np.float32), 1.0)[..., None]
    values = np.clip(np.rint(tokens / divisor), -127, 127)
    return np.where(scales[..., None] > 0, values, 0).astype(np.int8), scales


def to_bytes(values: Array, scales: Array) -> list[bytes]:
    """The bytes of each image, as in a token file: `count * dim` int8 values, then `count` little-endian float16 scales.

    Args:
        values: int8 array of shape (n, count, dim).
        scales: float16 array of shape (n, count).
    """
    little = scales.astype("<f2")
    return [v.tobytes() + s.tobytes() for v, s in zip(values, little, strict=True)]


def pack(values: Array, scales: Array) -> list[str]:
    """The bytes of `to_bytes` as base64, one string per image."""
    return [base64.b64encode(raw).decode("ascii") for raw in to_bytes(values, scales)]


def decode(string: str, spec: TokenSpec) -> bytes:
    """The bytes of one token string.

    Raises:
        TokensError: the string is not base64, or does not have the bundle's number of bytes.
    """
    try:
        raw = base64.b64decode(string, validate=True)
    except (binascii.Error, ValueError) as exc:
        raise TokensError("a token string is not base64", expected=f"the value of an `{IMAGE_TOKENS}` field") from exc
    if len(raw) != spec.n_bytes:
        raise TokensError(f"a token string holds {len(raw)} bytes", expected=f"{spec.n_bytes} bytes")
    return raw


def arrange(raws: Sequence[bytes], spec: TokenSpec) -> tuple[Array, Array]:
    """The arrays of n images from their bytes.

    Args:
        raws: the bytes of each image, from `decode` or from a token file.
        spec: count and dim of the bundle's tokens.

    Returns:
        int8 array of shape (n, count, dim) and float32 scales of shape (n, count).
    """
    rows = np.frombuffer(b"".join(raws), dtype=np.uint8).reshape(len(raws), spec.n_bytes)
    n_values = spec.count * spec.dim
    values = rows[:, :n_values].view(np.int8).reshape(len(raws), spec.count, spec.dim)
    return values, np.ascontiguousarray(rows[:, n_values:]).view("<f2").astype(np.float32)
