"""Texts to `input_ids` with the bundle's tokenizer.json, without transformers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import tokenizers

from milvus_coop.arguments import many, string
from milvus_coop.bundle.spec import TextSpec
from milvus_coop.errors import BundleInvalidError, InvalidArgumentError
from milvus_coop.types import Array

PAD_MULTIPLE = 8
"""Lengths are padded to a multiple of this number. That gives few distinct shapes and little padding."""

MAX_CHARACTERS = 20_000
"""Maximum number of characters of a text. Longer texts are refused: they describe no image, and tokenising them takes long."""


class Tokenizer:
    """Tokenises batches. Safe to share between threads."""

    def __init__(self, path: Path, spec: TextSpec) -> None:
        self._spec, self._path = spec, path
        with _named_errors(path):
            self._tokenizer = tokenizers.Tokenizer.from_file(str(path))
            self._tokenizer.no_padding()
            self._tokenizer.enable_truncation(spec.max_length)

    def __call__(self, texts: Iterable[str]) -> dict[str, Array]:
        """Tokenise texts.

        Returns:
            `input_ids` and `attention_mask`, int64 of shape (n, length), padded on the right. `length` is a multiple of 8, but at
            most the bundle's text length; it is always the text length if the bundle sets `pad_to_max`.

        Raises:
            InvalidArgumentError: a text fails `check_text`, or `texts` is a single text.
            BundleInvalidError: the tokenizer fails.
        """
        checked = many("texts", texts, "a list of texts")
        for text in checked:
            check_text(text)
        with _named_errors(self._path):
            encoded = [encoding.ids for encoding in self._tokenizer.encode_batch(checked)]
        longest = max(map(len, encoded), default=1)
        length = padded_length(longest, self._spec)
        input_ids = np.full((len(encoded), length), self._spec.pad_id, dtype=np.int64)
        attention_mask = np.zeros_like(input_ids)
        for row, ids in enumerate(encoded):
            input_ids[row, : len(ids)] = ids
            attention_mask[row, : len(ids)] = 1
        return {"input_ids": input_ids, "attention_mask": attention_mask}


@contextmanager
def _named_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except BaseException as exc:
        # tokenizers raises a bare Exception; where its Rust code panics, that is no Exception at all.
        if not isinstance(exc, Exception) and type(exc).__module__ != "pyo3_runtime":
            raise
        raise BundleInvalidError(f"{path} is no usable tokenizer: {exc}", run=f"milvus-coop bundle verify {path.parent}") from exc


def padded_length(longest: int, spec: TextSpec) -> int:
    """Padded length of a batch whose longest text has `longest` tokens; never more than the text length of the model."""
    return spec.max_length if spec.pad_to_max else min(spec.max_length, -(-longest // PAD_MULTIPLE) * PAD_MULTIPLE)


def check_text(text: str) -> None:
    """Check a text of an item or a query.

    Raises:
        InvalidArgumentError: the text is not a string, is blank, has more than 20,000 characters, or is not valid Unicode.
    """
    if not string("the text", text).strip():
        raise InvalidArgumentError("the text is empty", expected="at least one word")
    if len(text) > MAX_CHARACTERS:
        raise InvalidArgumentError(f"the text has {len(text):,} characters", expected=f"at most {MAX_CHARACTERS:,}")
