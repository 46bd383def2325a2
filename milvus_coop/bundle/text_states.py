"""Text states: what the cross-encoder reads of the text encoder's outputs, and how many bytes a collection keeps of them per text.

A cross-encoder that reads token ids alone needs no states, because a text is tokenised in microseconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from milvus_coop.bundle.spec import COLLECTION_TOKEN_BYTES, TEXT_ENCODER, BundleSpec

MASK = "attention_mask"


@dataclass(frozen=True, slots=True)
class StateSpec:
    """One output of the text encoder as it is kept: a vector as float16, or rows of int8 values with one float16 scale per row."""

    name: str
    count: int
    """Number of rows; -1: a row for each token of the text. 0: a single vector."""
    dim: int

    def rows(self, length: int) -> int:
        """Number of rows for a text of `length` tokens."""
        return length if self.count < 0 else self.count

    def n_bytes(self, length: int) -> int:
        """Size for a text of `length` tokens in bytes, before base64."""
        return self.rows(length) * (self.dim + 2) if self.count else 2 * self.dim


def reads_text_encoder(spec: BundleSpec) -> bool:
    """True if the cross-encoder reads an output of the text encoder."""
    return any(tensor.name in spec.text_side for tensor in spec.graph(TEXT_ENCODER).outputs)


def text_states(spec: BundleSpec) -> tuple[StateSpec, ...]:
    """The states that a collection of texts keeps.

    Empty if the cross-encoder needs none, or if they cannot be kept: because of their shapes or types, or because those of the
    longest text do not fit a VARCHAR. Texts are then encoded for every query.
    """
    side = spec.text_side
    outputs = [tensor for tensor in spec.graph(TEXT_ENCODER).outputs if tensor.name in side]
    for tensor in outputs:
        # Rows beyond the end of a text are cut off, which only a cross-encoder with a mask does not notice.
        fits = len(tensor.shape) in (1, 2) and tensor.shape[-1] > 0 and (tensor.shape[0] > 0 or MASK in side)
        if tensor.dtype != "float32" or not fits:
            return ()
    states = tuple(StateSpec(t.name, t.shape[0] if len(t.shape) == 2 else 0, t.shape[-1]) for t in outputs)
    return states if state_bytes(states, spec.text.max_length) <= COLLECTION_TOKEN_BYTES else ()


def state_bytes(states: Sequence[StateSpec], length: int) -> int:
    """Size of the states of a text of `length` tokens in bytes, before base64."""
    return sum(state.n_bytes(length) for state in states)
