"""Tokenizers for models that read a text inside a prompt: the text's own tokens, as they are inside the prompt."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from tokenizers import Regex, normalizers
from tokenizers import Tokenizer as Backend

from milvus_coop.errors import ConvertError


@dataclass(frozen=True)
class Prompt:
    """The parts of a prompt around a text.

    The characters next to the text may become one token with its own: ":" and "(" can be ":(". So `left` and `right`
    are tokenised together with the text, and the cuts before `left` and after `right` must be places where no token crosses.
    """

    before: str
    left: str
    right: str
    after: str


class PromptTokenizer:
    """A checkpoint's tokenizer that reads a text inside a prompt, and returns its tokens with those of `left` and `right`.

    A text cannot contain control tokens: what looks like one, such as `<|im_end|>`, is read as plain letters.

    Args:
        tokenizer: the checkpoint's own tokenizer, with a Rust backend.
        prompt: the prompt around every text.
    """

    padding_side = "right"

    def __init__(self, tokenizer: Any, prompt: Prompt) -> None:
        self._tokenizer, self._prompt = tokenizer, prompt
        self.pad_token, self.pad_token_id = tokenizer.pad_token, tokenizer.pad_token_id
        record = json.loads(tokenizer.backend_tokenizer.to_str())
        self._control = tuple(token["content"] for token in record["added_tokens"])
        record["added_tokens"], record["post_processor"] = [], None
        self.backend_tokenizer = Backend.from_str(json.dumps(record))
        steps: list[Any] = [normalizers.Prepend(prompt.left)] if prompt.left else []
        steps += [normalizers.Replace(Regex(r"\z"), prompt.right)] if prompt.right else []
        first = self.backend_tokenizer.normalizer
        self.backend_tokenizer.normalizer = normalizers.Sequence([*([first] if first else []), *steps])

    def fixed(self, text: str) -> tuple[int, ...]:
        """Token ids of a fixed part of a prompt, with its control tokens."""
        return tuple(self._tokenizer(text, add_special_tokens=False)["input_ids"])

    @property
    def end(self) -> tuple[int, ...]:
        """Token ids of `after`, and of what the tokenizer adds to the end of every text."""
        return tuple(self._tokenizer(self._prompt.after)["input_ids"])

    def __call__(self, text: str, *, max_length: int, **_: Any) -> dict[str, list[int]]:
        """The ids of a text, cut out of those of the whole prompt.

        Raises:
            ConvertError: a token crosses the edge of the text.
        """
        if any(token in text for token in self._control):
            ids = self.backend_tokenizer.encode(text).ids
        else:
            prompt = self._prompt
            whole = self._tokenizer(f"{prompt.before}{prompt.left}{text}{prompt.right}{prompt.after}")["input_ids"]
            before, end = self.fixed(prompt.before), self.end
            if tuple(whole[: len(before)]) != before or tuple(whole[len(whole) - len(end) :]) != end:
                raise ConvertError(
                    f"the tokenizer of type {type(self._tokenizer).__name__} joins the text with the words around it",
                    expected="the tokenizer of Qwen",
                )
            ids = whole[len(before) : len(whole) - len(end)]
        return {"input_ids": ids[:max_length], "attention_mask": [1] * len(ids[:max_length])}
