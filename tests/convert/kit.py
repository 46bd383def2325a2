"""Small tokenizers of the true classes, trained on the sample captions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import sentencepiece
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import BertTokenizer, CLIPTokenizer, RobertaTokenizer, SiglipTokenizer

CAPTIONS = Path(__file__).parent.parent.parent / "examples" / "captions.txt"
SIZE = 600


def bert_tokenizer(folder: Path) -> Any:
    """Write a BERT tokenizer into `folder` and return it."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.train([str(CAPTIONS)], trainers.WordPieceTrainer(vocab_size=SIZE, special_tokens=special, show_progress=False))
    return _saved(BertTokenizer(vocab=tokenizer.get_vocab(), model_max_length=512), folder)


def clip_tokenizer(folder: Path) -> Any:
    """Write a CLIP tokenizer into `folder` and return it."""
    vocabulary, merges = _bpe(["<|startoftext|>", "<|endoftext|>"], suffix="</w>")
    tokenizer: Any = CLIPTokenizer
    return _saved(tokenizer(vocab=vocabulary, merges=merges, model_max_length=77), folder)


def roberta_tokenizer(folder: Path) -> Any:
    """Write a RoBERTa tokenizer into `folder` and return it."""
    vocabulary, merges = _bpe(["<s>", "<pad>", "</s>", "<unk>", "<mask>"])
    tokenizer: Any = RobertaTokenizer
    return _saved(tokenizer(vocab=vocabulary, merges=merges, model_max_length=512), folder)


def _bpe(special: list[str], suffix: str | None = None) -> tuple[dict[str, int], list[tuple[str, str]]]:
    tokenizer = Tokenizer(models.BPE(end_of_word_suffix=suffix) if suffix else models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    options: dict[str, Any] = {"end_of_word_suffix": suffix} if suffix else {}
    trainer = trainers.BpeTrainer(
        vocab_size=SIZE,
        special_tokens=special,
        show_progress=False,
        **options,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train([str(CAPTIONS)], trainer)
    model = json.loads(tokenizer.to_str())["model"]
    return model["vocab"], [tuple(pair) for pair in model["merges"]]


def _saved(tokenizer: Any, folder: Path) -> Any:
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(folder)
    return tokenizer


def siglip_tokenizer(folder: Path) -> Any:
    """Write a SigLIP tokenizer into `folder` and return it."""

    folder.mkdir(parents=True, exist_ok=True)
    sentencepiece.SentencePieceTrainer.train(
        input=str(CAPTIONS),
        model_prefix=str(folder / "spiece"),
        vocab_size=150,
        hard_vocab_limit=False,
        character_coverage=1.0,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
    )
    tokenizer: Any = SiglipTokenizer
    return _saved(tokenizer(str(folder / "spiece.model")), folder)
