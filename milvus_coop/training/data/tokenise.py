"""The tokenizer of a new network: that of the checkpoint it starts from, or one trained on the captions."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import tokenizers
from tokenizers import models, normalizers, pre_tokenizers, processors, trainers

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")


def train_tokenizer(captions: Iterable[str], path: Path, *, vocabulary: int = 8000) -> None:
    """Train lower-cased WordPiece (as BERT's) on the captions and write tokenizer.json.

    Args:
        captions: the training captions.
        path: where to write.
        vocabulary: largest number of entries.
    """
    tokenizer = tokenizers.Tokenizer(models.WordPiece(unk_token=SPECIAL[1]))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(vocab_size=vocabulary, special_tokens=list(SPECIAL), show_progress=False)
    tokenizer.train_from_iterator(captions, trainer)
    ids = {token: tokenizer.token_to_id(token) for token in SPECIAL}
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[(token, ids[token]) for token in ("[CLS]", "[SEP]")]
    )
    tokenizer.save(str(path))


def special_ids(path: Path) -> tuple[int, int, int]:
    """(size of the vocabulary, id of the token that starts a text, id of the padding) of a tokenizer.json."""
    tokenizer = tokenizers.Tokenizer.from_file(str(path))
    [first, *_] = tokenizer.encode("a").ids
    pads = (tokenizer.token_to_id(token) for token in ("[PAD]", "<pad>"))
    return tokenizer.get_vocab_size(), first, next((pad for pad in pads if pad is not None), 0)
