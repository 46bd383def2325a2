"""Texts to `input_ids` with the bundle's tokenizer.json; no transformers needed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tokenizers

from milvus_coop.bundle.spec import TextSpec
from milvus_coop.errors import BundleInvalidError, InvalidArgumentError
from milvus_coop.types import Array

PAD_MULTIPLE = 8
"""Lengths are padded up to a multiple of this: few distinct shapes, little waste."""

MAX_CHARACTERS = 20_000
"""Longer texts are refused: they are not captions, and tokenising them would only cost time."""


class Tokenizer:
    """Tokenises batches. Safe to share between threads."""

    def __init__(self, path: Path, spec: TextSpec) -> None:
        try:
            self._tokenizer = tokenizers.Tokenizer.from_file(str(path))
        except Exception as exc:  # tokenizers raises bare Exception
            raise BundleInvalidError(f"{path} is not a tokenizer file: {exc}", run="copy the bundle again") from exc
        self._tokenizer.enable_truncation(spec.max_length)
        if spec.pad_to_max:
            self._tokenizer.enable_padding(pad_id=spec.pad_id, length=spec.max_length)
        else:
            self._tokenizer.enable_padding(pad_id=spec.pad_id, pad_to_multiple_of=PAD_MULTIPLE)

    def __call__(self, texts: Sequence[str]) -> dict[str, Array]:
        """Tokenise texts.

        Returns:
            `input_ids` and `attention_mask`, int64 of shape (n, length); length is a multiple of 8, at most the bundle's text
            length rounded up to it; or always that length, where the bundle says so.

        Raises:
            InvalidArgumentError: if a text is not a string, is blank, or has more than 20,000 characters.
        """
        for text in texts:
            check_text(text)
        encodings = self._tokenizer.encode_batch(list(texts))
        return {
            "input_ids": np.array([e.ids for e in encodings], dtype=np.int64),
            "attention_mask": np.array([e.attention_mask for e in encodings], dtype=np.int64),
        }


def check_text(text: str) -> None:
    """Refuse what cannot be a caption or a query.

    Raises:
        InvalidArgumentError: not a string, blank, or longer than 20,000 characters.
    """
    if not isinstance(text, str):
        raise InvalidArgumentError(f"the text is a {type(text).__name__}", expected="a string")
    if not text.strip():
        raise InvalidArgumentError("the text is empty", expected="at least one word")
    if len(text) > MAX_CHARACTERS:
        raise InvalidArgumentError(f"the text has {len(text):,} characters", expected=f"at most {MAX_CHARACTERS:,}")
