"""Small tokenizers of the true classes, trained on the sample captions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import sentencepiece
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import (
    BertTokenizer,
    CLIPTokenizer,
    Qwen2Tokenizer,
    RobertaTokenizer,
    Siglip2Tokenizer,
    SiglipTokenizer,
    XLMRobertaTokenizer,
)

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


def qwen_tokenizer(folder: Path) -> Any:
    """Write a Qwen tokenizer into `folder` and return it. Its vocabulary has tokens that join a text with the words around it."""
    kind: Any = Qwen2Tokenizer
    rules = kind(vocab={"a": 0}, merges=[]).backend_tokenizer
    trained = Tokenizer(models.BPE())
    trained.normalizer, trained.pre_tokenizer = rules.normalizer, rules.pre_tokenizer
    trainer = trainers.BpeTrainer(vocab_size=SIZE, show_progress=False, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    joints = ["<Query>:", ">:(", ">:[", ">:\n", "!\n", ".\n", "\n\n", "?\n", " yes", "yes", "no", "<Document>:"] * 40
    trained.train_from_iterator([*CAPTIONS.read_text(encoding="utf-8").splitlines(), *joints], trainer)
    model = json.loads(trained.to_str())["model"]
    tokenizer = kind(vocab=model["vocab"], merges=[tuple(pair) for pair in model["merges"]], eos_token="<|im_end|>")
    control = ["<|im_start|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
    tokenizer.add_special_tokens({"additional_special_tokens": control})
    return _saved(tokenizer, folder)


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
    return _sentence_pieces(folder)


def plain_siglip_tokenizer(folder: Path) -> Any:
    """The same, of a SentencePiece model without Unicode normalisation that keeps its spaces."""
    return _sentence_pieces(folder, normalization_rule_name="identity", remove_extra_whitespaces=False)


def _sentence_pieces(folder: Path, **options: Any) -> Any:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "greek.txt").write_text("\u03c3\u03bf\u03c6\u03cc\u03c2 \u03c3 \u03c2\n", encoding="utf-8")  # two small sigmas
    sentencepiece.SentencePieceTrainer.train(
        input=f"{CAPTIONS},{folder / 'greek.txt'}",
        model_prefix=str(folder / "spiece"),
        vocab_size=150,
        hard_vocab_limit=False,
        character_coverage=1.0,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
        **options,
    )
    tokenizer: Any = SiglipTokenizer
    return _saved(tokenizer(str(folder / "spiece.model")), folder)


def xlmr_tokenizer(folder: Path) -> Any:
    """Write an XLM-RoBERTa tokenizer into `folder` and return it."""
    pieces = siglip_tokenizer(folder).sp_model
    vocabulary = [(pieces.IdToPiece(i), pieces.GetScore(i)) for i in range(3, pieces.get_piece_size())]
    special = [(token, 0.0) for token in ("<s>", "<pad>", "</s>", "<unk>")]
    tokenizer: Any = XLMRobertaTokenizer
    return _saved(tokenizer(vocab=[*special, *vocabulary, ("<mask>", 0.0)], model_max_length=512), folder)


def siglip2_tokenizer(folder: Path, kind: Any = Siglip2Tokenizer, **options: Any) -> Any:
    """Write a SigLIP 2 tokenizer (Gemma's, in lower case) into `folder` and return it; or another `kind` of that form."""
    trained = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    trained.normalizer = normalizers.Replace(" ", "▁")
    trained.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trained.train([str(CAPTIONS)], trainers.BpeTrainer(vocab_size=500, special_tokens=special, show_progress=False))
    model = json.loads(trained.to_str())["model"]
    options = {"padding_side": "right", "add_bos_token": False, "add_eos_token": True, "model_max_length": 64} | options
    return _saved(kind(vocab=model["vocab"], merges=[tuple(pair) for pair in model["merges"]], **options), folder)
