"""The states of a text as its row keeps them: one base64 string with the vectors and the quantised rows of the text encoder.

Rows of tokens are int8 with a float16 scale each, as image tokens are, and end with the text. A vector has no other rows that
could average its error out; with int8, it moved match probabilities by up to 0.013, and it is therefore kept as float16.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence

import numpy as np

from milvus_coop.bundle.text_states import MASK, StateSpec, state_bytes
from milvus_coop.models.tokens import quantise, to_bytes
from milvus_coop.types import Array

NONE = ""
"""The string for a text without states."""


def pack_states(states: Sequence[StateSpec], text_side: Mapping[str, Array]) -> list[str]:
    """The strings of n encoded texts.

    Args:
        states: the states of the bundle; if there are none, every string is `NONE`.
        text_side: the cross-encoder's inputs for the texts, arrays of shape (n, ...).

    Returns:
        A string for each text; `NONE` if the number of rows is not that of the tokens, or a value is too large for float16.
    """
    n = len(next(iter(text_side.values())))
    raws = [b""] * n
    sound = np.ones(n, bool)
    lengths = text_side[MASK].sum(axis=1).tolist() if MASK in text_side else [0] * n
    for state in states:
        array = text_side[state.name]
        if state.count < 0 and array.shape[1] != text_side[MASK].shape[1]:
            return [NONE] * n
        with np.errstate(over="ignore"):
            vectors = array.astype("<f2")
        sound &= np.isfinite(vectors).reshape(n, -1).all(axis=1)
        if state.count == 0:
            parts = [vector.tobytes() for vector in vectors]
        else:
            values, scales = quantise(array)
            rows = [state.rows(length) for length in lengths]
            parts = [to_bytes(v[None, :r], s[None, :r])[0] for v, s, r in zip(values, scales, rows, strict=True)]
        raws = [raw + part for raw, part in zip(raws, parts, strict=True)]
    return [base64.b64encode(raw).decode("ascii") if fits else NONE for raw, fits in zip(raws, sound.tolist(), strict=True)]


def unpack_states(states: Sequence[StateSpec], string: str, length: int) -> dict[str, Array] | None:
    """The states of a text of `length` tokens by name: float32 vectors of shape (dim,) and rows of shape (rows, dim).

    Returns:
        None if the string is not base64, does not have the size that the bundle gives such a text, or holds infinite numbers.
    """
    try:
        raw = base64.b64decode(string, validate=True)
    except (binascii.Error, ValueError):
        return None
    if not raw or len(raw) != state_bytes(states, length):
        return None
    found, start = {}, 0
    for state in states:
        part = raw[start : start + state.n_bytes(length)]
        found[state.name] = _restored(state, part, state.rows(length))
        start += len(part)
    return found if all(np.isfinite(array).all() for array in found.values()) else None


def _restored(state: StateSpec, raw: bytes, rows: int) -> Array:
    if state.count == 0:
        return np.frombuffer(raw, "<f2").astype(np.float32)
    values = np.frombuffer(raw, np.int8, rows * state.dim).reshape(rows, state.dim)
    scales = np.frombuffer(raw, "<f2", rows, rows * state.dim).astype(np.float32)
    with np.errstate(invalid="ignore"):
        return values * scales[:, None]
