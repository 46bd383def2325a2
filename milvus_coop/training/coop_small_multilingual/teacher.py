"""What the base bundle's text encoder says of the English texts: the targets of the student."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from milvus_coop.bundle import Bundle
from milvus_coop.export.sessions import open_session, run_graph
from milvus_coop.preprocess.texts import Tokenizer
from milvus_coop.types import Array

_BATCH = 64


@dataclass(frozen=True)
class Targets:
    """Of n English texts: `sentences` unit (n, dim) and `words` (n, token_dim), the mean of the text tokens, both float32."""

    texts: list[str]
    sentences: Array
    words: Array

    def save(self, path: Path) -> None:
        """Write as .npz without pickles."""
        np.savez(path, texts=np.array(self.texts), sentences=self.sentences, words=self.words)

    @classmethod
    def load(cls, path: Path) -> Targets:
        """Read what `save` wrote."""
        with np.load(path, allow_pickle=False) as data:
            return cls([str(text) for text in data["texts"]], data["sentences"], data["words"])

    def rows(self, texts: Sequence[str]) -> Array:
        """Positions of the texts, int64."""
        index = {text: row for row, text in enumerate(self.texts)}
        return np.array([index[text] for text in texts], dtype=np.int64)


def ask_teacher(bundle: Bundle, texts: Sequence[str], threads: int = 1) -> Targets:
    """Encode the unique texts, sorted by length; about 500 short texts a second on one core."""
    session = open_session(bundle.path(bundle.spec.graph("text_encoder").file), threads)
    tokenizer = Tokenizer(bundle.path("tokenizer.json"), bundle.spec.text)
    unique = sorted(dict.fromkeys(texts), key=lambda text: (len(text), text))
    sentences, words = [], []
    for start in range(0, len(unique), _BATCH):
        feeds = tokenizer(unique[start : start + _BATCH])
        outputs = run_graph(session, feeds)
        mask = feeds["attention_mask"].astype(np.float32)[:, :, None]
        sentences.append(outputs["text_embedding"])
        words.append((outputs["text_tokens"] * mask).sum(1) / mask.sum(1))
    return Targets(unique, np.concatenate(sentences), np.concatenate(words))
