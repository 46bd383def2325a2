"""Conversion of a transformers tokenizer to tokenizer.json and a `TextSpec`, with a check that both give the same ids."""

from __future__ import annotations

import re
import string
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import AddedToken, Regex, models, normalizers, pre_tokenizers, processors
from tokenizers import Tokenizer as Backend

from milvus_coop.bundle.spec import TextSpec
from milvus_coop.errors import ConvertError
from milvus_coop.models.preprocess.texts import Tokenizer

PROBES = (
    "a dog",
    "Two DOGS on a beach!",
    "  spaces   everywhere  ",
    "an apple, a pear; and (maybe) 3 plums...",
    "don't stop: it's a cat's tail",
    "naïve café, Ærøskøbing, Straße",
    "猫が好きです",
    "собака на пляже",
    "🚲 in the rain ☔",
    "tabs\tand\nnew lines",
    "x" * 60,
    "1234567890 3.14 1,000,000",
    "http://example.com/a?b=c&d=e",
    "a_b-c/d\\e",
    "'quoted' \"twice\" `thrice`",
    "?",
    "[CLS] <s> <|endoftext|>",
    "a photo of a cat " * 60,
    "🏳️‍🌈 café é",
    "zero\u200bwidth \ufeff and control \x07 \x1c characters\u200b",
    "!? \u2581 punctuation first, ΟΔΟΣ last",
    "\uff26\uff35\uff2c\uff2c \uff57\uff49\uff44\uff54\uff48",  # full width
)
"""Texts on which a written tokenizer is compared with its original. The long one is cut."""

_CASED, _IGNORED = r"[\p{Lu}\p{Ll}\p{Lt}]", r"[\p{Mn}\p{Me}\p{Cf}\p{Lm}\p{Sk}'.:\u00b7\u2018\u2019]"
_FINAL_SIGMA = f"(?<={_CASED}|{_CASED}{_IGNORED}|{_CASED}{_IGNORED}{{2}})\u03a3(?!{_IGNORED}*{_CASED})"
"""The only letter whose lower case depends on context in Python and not in tokenizers: The Unicode Standard, table 3-17."""


def write_tokenizer(tokenizer: Any, out: Path, *, max_length: int, pad_to_max: bool = False) -> TextSpec:
    """Write a tokenizer as `out` and return how to use it.

    It gives the same ids as the original, except for SigLIP texts that contain a special token such as `</s>`.

    Args:
        tokenizer: the tokenizer of a checkpoint, with a Rust backend, or that of SigLIP.
        out: the file tokenizer.json.
        max_length: the maximum length of a text in tokens, special tokens included.
        pad_to_max: true to pad texts to that length.

    Raises:
        ConvertError: the tokenizer cannot be written, or `preprocess.texts.Tokenizer` would give other ids. No file is left then.
    """
    if pad_to_max and (tokenizer.pad_token is None or tokenizer.padding_side != "right"):
        # Gemma's class pads on the left unless tokenizer_config.json says otherwise. The script that converted Google's SigLIP 2
        # set the right side. A model that reads padding as text gives other vectors for padding on the left.
        raise ConvertError(
            f"the tokenizer of type {type(tokenizer).__name__} pads with {tokenizer.pad_token} on the {tokenizer.padding_side}",
            expected='a "pad_token", and "padding_side": "right", in tokenizer_config.json',
        )
    backend = getattr(tokenizer, "backend_tokenizer", None) or _unigram(tokenizer)
    plain = Backend.from_str(backend.to_str())  # a copy, so that the checkpoint's own tokenizer is not changed
    plain.no_padding()
    plain.no_truncation()
    plain.save(str(out))
    pad = tokenizer.pad_token_id
    spec = TextSpec(max_length, 0 if pad is None else int(pad), pad_to_max)
    try:
        ours = Tokenizer(out, spec)
        _check_words(ours, type(tokenizer).__name__)
        _compare(tokenizer, ours, spec)
    except ConvertError:
        out.unlink()
        raise
    return spec


def _check_words(ours: Tokenizer, name: str) -> None:
    """Refuse a tokenizer without a vocabulary, which passes the comparison but reads every word as the same unknown word."""
    if np.array_equal(ours([PROBES[0]])["input_ids"], ours(["two cats"])["input_ids"]):
        raise ConvertError(f"the tokenizer of type {name} reads all words alike", expected="a tokenizer with its vocabulary")


def _compare(theirs: Any, ours: Tokenizer, spec: TextSpec) -> None:
    for text in PROBES:
        options = {"padding": "max_length"} if spec.pad_to_max else {}
        wanted = theirs(text, truncation=True, max_length=spec.max_length, return_attention_mask=True, **options)
        found = ours([text])
        mask = found["attention_mask"][0]
        end = None if spec.pad_to_max else int(mask.sum())
        row = found["input_ids"][0, :end]
        if not (np.array_equal(wanted["input_ids"], row) and np.array_equal(wanted["attention_mask"], mask[:end])):
            raise ConvertError(
                f"the tokenizer of type {type(theirs).__name__} reads “{text[:40]}” as {wanted['input_ids'][:12]}",
                expected=f"the tokens of tokenizer.json, {row.tolist()[:12]}",
            )


def _unigram(tokenizer: Any) -> Backend:
    """SigLIP's tokenizer: Python code that lowers case and drops punctuation and double spaces, then a SentencePiece model."""
    pieces = getattr(tokenizer, "sp_model", None)
    if pieces is None:
        raise ConvertError(
            f"a {type(tokenizer).__name__} cannot be written as tokenizer.json",
            expected="a fast tokenizer, or one of SentencePiece",
        )
    try:
        from transformers.utils import sentencepiece_model_pb2_new as messages

        model: Any = messages.ModelProto.FromString(pieces.serialized_model_proto())  # type: ignore[attr-defined]
    except ImportError as exc:
        raise ConvertError("SentencePiece models are read with protobuf", run="pip install sentencepiece protobuf") from exc
    vocabulary = [(piece.piece, piece.score) for piece in model.pieces]
    backend = Backend(models.Unigram(vocabulary, unk_id=pieces.unk_id(), byte_fallback=model.trainer_spec.byte_fallback))
    backend.normalizer = normalizers.Sequence(_canonical(model.normalizer_spec, lower=getattr(tokenizer, "do_lower_case", False)))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="never", split=False)
    special = [AddedToken(str(token), lstrip=True, rstrip=True, normalized=False, special=True) for token in _special(tokenizer)]
    backend.add_special_tokens(special)
    end = str(tokenizer.eos_token)
    backend.post_processor = processors.TemplateProcessing(single=f"$A {end}", special_tokens=[(end, tokenizer.eos_token_id)])
    return backend


def _canonical(rules: Any, *, lower: bool) -> list[Any]:
    """The normalisation steps of SigLIP's Python code, then those of SentencePiece."""
    steps: list[Any] = [normalizers.Replace("▁", " "), normalizers.Prepend("▁")]
    if lower:
        steps += [normalizers.Replace(Regex(_FINAL_SIGMA), "ς"), normalizers.Lowercase()]
    steps += [
        normalizers.Replace(Regex(f"[{re.escape(string.punctuation)}]"), ""),
        normalizers.Replace(Regex(r"[\s\x1c-\x1f]+"), " "),  # Python knows four more spaces than Unicode
        normalizers.Strip(left=False),
    ]
    if rules.precompiled_charsmap:
        steps.append(normalizers.Precompiled(rules.precompiled_charsmap))
    if rules.remove_extra_whitespaces:  # the map turns zero-width spaces into plain ones
        steps += [normalizers.Replace(Regex(" {2,}"), " "), normalizers.Replace(Regex("[ ▁]+$"), "")]
    return steps


def _special(tokenizer: Any) -> list[Any]:
    return [token for token in (tokenizer.eos_token, tokenizer.unk_token) if token is not None]
