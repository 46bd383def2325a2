"""The student's tokenizer: one vocabulary of word pieces for all languages (byte pair encoding, Sennrich et al. 2016)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

PAD, UNKNOWN, START = "[PAD]", "[UNK]", "[CLS]"
_PUNCTUATION = r"[\p{P}|]+"
_ARABIC_MARKS = r"[\u064B-\u0652\u0670\u0640]"
_LONGEST_PIECE = 16  # characters
_ALPHABET = 7000  # the commonest characters; the tail is rare Chinese


def train_tokenizer(texts: Iterable[str], size: int) -> Tokenizer:
    """A tokenizer of `size` pieces for lower-cased text without punctuation and Arabic vowel marks (a minute for a million texts).

    Every text begins with `[CLS]`, so that none is without a token.
    """
    tokenizer = Tokenizer(models.BPE(unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.NFKC(),
            normalizers.Replace(Regex(_PUNCTUATION), " "),
            normalizers.Replace(Regex(_ARABIC_MARKS), ""),
            normalizers.Lowercase(),
        ]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()])
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=[PAD, UNKNOWN, START],
        limit_alphabet=_ALPHABET,
        max_token_length=_LONGEST_PIECE,
        min_frequency=2,
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{START} $A", special_tokens=[(START, tokenizer.token_to_id(START))]
    )
    return tokenizer


def load_tokenizer(path: Path) -> Tokenizer:
    """Read a tokenizer file."""
    return Tokenizer.from_file(str(path))


def piece_ids(tokenizer: Tokenizer, texts: Sequence[str], longest: int) -> list[list[int]]:
    """Ids of every text, cut at `longest`."""
    return [encoding.ids[:longest] for encoding in tokenizer.encode_batch_fast(list(texts))]
