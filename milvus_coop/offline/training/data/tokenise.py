"""The tokenizer of a new network: that of the checkpoint it starts from, or a tokenizer that is trained on the captions."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import tokenizers
from tokenizers import models, normalizers, pre_tokenizers, processors, trainers

SPECIAL = ("[PAD]", "[CLS]", "[SEP]")


def train_tokenizer(captions: Iterable[str], path: Path, *, vocabulary: int = 8000) -> None:
    """Train lower-cased byte-level BPE (as GPT-2's) on the captions and write tokenizer.json.

    It knows the letters of every language, and the same captions always give the same file. (The library's WordPiece trainer breaks
    ties by the order of a hash map, which differs in every process.)

    Args:
        captions: the training captions.
        path: the file to write.
        vocabulary: maximum number of entries; at least the 256 bytes and the special tokens.
    """
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        min_frequency=2,
        special_tokens=list(SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(captions, trainer)
    ids = [(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ids)
    tokenizer.save(str(path))


def special_ids(path: Path) -> tuple[int, int, int]:
    """The size of the vocabulary, the id of the token that starts a text, and the id of the padding, from a tokenizer.json."""
    tokenizer = tokenizers.Tokenizer.from_file(str(path))
    [first, *_] = tokenizer.encode("a").ids
    pads = (tokenizer.token_to_id(token) for token in ("[PAD]", "<pad>"))
    return tokenizer.get_vocab_size(), first, next((pad for pad in pads if pad is not None), 0)


def mask_id(path: Path) -> int | None:
    """The id of the token with which a checkpoint's authors masked words. None if the tokenizer.json has none."""
    tokenizer = tokenizers.Tokenizer.from_file(str(path))
    masks = (tokenizer.token_to_id(token) for token in ("[MASK]", "<mask>"))
    return next((mask for mask in masks if mask is not None), None)
