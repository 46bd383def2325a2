"""The states of a text as its row keeps them: one base64 string with the vectors and the quantised rows of the text encoder.

Rows of tokens are int8 with a float16 scale each, as image tokens are, and end with the text. A vector has no other rows that
could average its error out, and is therefore kept as float16.
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


def pack_states(states: Sequence[StateSpec], text_side: Mapping[str, Array], n: int) -> list[str]:
    """The strings of n encoded texts.

    Args:
        states: the states of the bundle; if there are none, every string is `NONE`.
        text_side: the cross-encoder's inputs for the texts, arrays of shape (n, ...).
        n: the number of texts.

    Returns:
        A string for each text; `NONE` if the number of rows is not that of the tokens, or a value is too large for float16.
    """
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


def unpack_states(states: Sequence[StateSpec], strings: Sequence[str], mask: Array) -> tuple[dict[str, Array], Array]:
    """The states of n texts.

    Args:
        states: the states of the bundle, at least one.
        strings: what the rows of the texts hold; anything may stand there.
        mask: 1 for the tokens of the texts and 0 for padding, of shape (n, length).

    Returns:
        The states by name: float32 arrays of shape (n, dim) or (n, rows, dim), with zeros for padding. And a bool array of shape
        (n,), which is False for a text whose string is not base64, does not have the size that the bundle gives such a text, or
        holds infinite numbers. The states of such a text are zeros or not finite.
    """
    n, longest = mask.shape
    lengths = mask.sum(axis=1).tolist()
    raws = [_decoded(string, state_bytes(states, length)) for string, length in zip(strings, lengths, strict=True)]
    decoded = np.array([raw is not None for raw in raws], bool)
    known = [(raw, length) for raw, length in zip(raws, lengths, strict=True) if raw is not None]
    arrays: dict[str, Array] = {}
    sound, starts = decoded.copy(), [0] * len(known)
    for state in states:
        int8s: list[bytes] = []
        float16s: list[bytes] = []
        for number, (raw, length) in enumerate(known):
            start = starts[number]
            middle = start + state.rows(length) * state.dim  # a vector has no rows
            end = starts[number] = start + state.n_bytes(length)
            int8s.append(raw[start:middle])
            float16s.append(raw[middle:end])
        numbers = np.frombuffer(b"".join(float16s), "<f2").astype(np.float32)
        shape = (n, state.rows(longest), state.dim) if state.count else (n, state.dim)
        array = arrays[state.name] = np.zeros(shape, np.float32)
        if state.count == 0:
            array[decoded] = numbers.reshape(-1, state.dim)
        else:
            present = decoded[:, None] & (mask.astype(bool) if state.count < 0 else np.ones(shape[:2], bool))
            with np.errstate(invalid="ignore"):
                array[present] = np.frombuffer(b"".join(int8s), np.int8).reshape(-1, state.dim) * numbers[:, None]
        sound &= np.isfinite(array).reshape(n, -1).all(axis=1)
    return arrays, sound


def _decoded(string: str, n_bytes: int) -> bytes | None:
    """The bytes of a string; None if it is not base64 of that many bytes."""
    try:
        raw = base64.b64decode(string, validate=True)
    except (binascii.Error, ValueError):
        return None
    return raw if len(raw) == n_bytes else None
