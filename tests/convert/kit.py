"""Small tokenizers of the classes that published checkpoints have, trained on the example captions."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import models, normalizers, pre_tokenizers, trainers
from transformers import BertTokenizer, CLIPTokenizer, RobertaTokenizer

CAPTIONS = Path(__file__).parents[2] / "examples" / "captions.txt"
SENTENCES = (
    "Two dogs play with a red ball; they don't look at the camera!",
    "The sign says: OPEN 24 hours, 7 days a week (except on 31/12).",
    "Ein Mädchen läuft über die Straße. Un café près de l'église. 一只猫坐在窗台上。",
)
"""What the captions lack: capitals, digits, punctuation, accents, other scripts."""

VOCABULARY = 600
BYTES = sorted(pre_tokenizers.ByteLevel.alphabet())


def texts() -> list[str]:
    """The captions and the sentences above."""
    return [*CAPTIONS.read_text(encoding="utf-8").splitlines(), *SENTENCES]


def bert_tokenizer(folder: Path) -> Any:
    """Write a BERT tokenizer into `folder` and return it."""
    return _saved(BertTokenizer(vocab=_wordpieces(), model_max_length=512), folder)


def clip_tokenizer(folder: Path) -> Any:
    """Write a CLIP tokenizer into `folder` and return it."""
    pieces, merges = _byte_pairs("</w>")
    # As OpenAI laid it out. The end of the text has the highest number: CLIP models find it by that.
    vocabulary = [*BYTES, *(b + "</w>" for b in BYTES), *("".join(m) for m in merges), "<|startoftext|>", "<|endoftext|>"]
    assert set(pieces) <= set(vocabulary)
    return _saved(CLIPTokenizer(vocab=_numbered(vocabulary), merges=merges, model_max_length=77), folder)


def roberta_tokenizer(folder: Path) -> Any:
    """Write a RoBERTa tokenizer into `folder` and return it."""
    pieces, merges = _byte_pairs("")
    vocabulary = ["<s>", "<pad>", "</s>", "<unk>", *pieces, "<mask>"]
    return _saved(RobertaTokenizer(vocab=_numbered(vocabulary), merges=merges, model_max_length=512), folder)


def _saved(tokenizer: Any, folder: Path) -> Any:
    tokenizer.save_pretrained(folder)
    return type(tokenizer).from_pretrained(folder)


def _numbered(pieces: list[str]) -> dict[str, int]:
    return {piece: number for number, piece in enumerate(dict.fromkeys(pieces))}


@cache
def _wordpieces() -> dict[str, int]:
    tokenizer = tokenizers.Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    trainer = trainers.WordPieceTrainer(vocab_size=VOCABULARY, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(texts(), trainer)
    return tokenizer.get_vocab()


@cache
def _byte_pairs(word_end: str) -> tuple[list[str], list[Any]]:
    """Pieces by number, and merges in their order."""
    tokenizer = tokenizers.Tokenizer(models.BPE(end_of_word_suffix=word_end))
    tokenizer.normalizer = normalizers.Lowercase() if word_end else None
    split = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Whitespace(), split]) if word_end else split
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY, initial_alphabet=BYTES, end_of_word_suffix=word_end, show_progress=False)
    tokenizer.train_from_iterator(texts(), trainer)
    model = json.loads(tokenizer.to_str())["model"]
    return sorted(model["vocab"], key=model["vocab"].get), [(a, b) for a, b in model["merges"]]
