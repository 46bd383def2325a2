"""A toy set in the shapes of the real one: eight concepts in two styles, captions as random directions."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from milvus_coop.training.coop_small.dataset import Dataset
from milvus_coop.training.coop_small.layout import EMBEDDING_DIM, TOKEN_DIM
from milvus_coop.training.coop_small.records import Record
from milvus_coop.training.coop_small.regions import COMPRESSED, CellCompressor
from milvus_coop.training.coop_small.text_features import TRAINED_LENGTH, TextTable
from milvus_coop.training.coop_small.towers import Tagger
from milvus_coop.types import Array

CONCEPTS = ("ant", "bee", "cat", "dog", "elk", "fox", "gnu", "hen")
_PER_CONCEPT = 12
_FEATURES = 1280


def unit(values: Array) -> Array:
    """Rows of length one, float32."""
    scaled: Array = (values / np.linalg.norm(values, axis=-1, keepdims=True)).astype(np.float32)
    return scaled


def toy_basis() -> torch.Tensor:
    """Orthonormal columns (384, 64)."""
    columns: torch.Tensor = torch.linalg.qr(torch.randn(EMBEDDING_DIM, TOKEN_DIM, generator=torch.Generator().manual_seed(0))).Q
    return columns


def toy_tagger(classes: int = 10) -> Tagger:
    """A tagger over random classes."""
    torch.manual_seed(1)
    vectors = torch.nn.functional.normalize(torch.randn(classes, EMBEDDING_DIM), dim=-1)
    return Tagger(nn.Linear(_FEATURES, classes), vectors, toy_basis(), CellCompressor())


def toy_dataset(seed: int = 0, source: str = "stamps") -> Dataset:
    """96 pictures whose features are a fixed mixture of their caption's vector and noise."""
    fixed = np.random.default_rng(5)
    sentences = unit(fixed.normal(size=(len(CONCEPTS), EMBEDDING_DIM)))
    mixing = fixed.normal(size=(EMBEDDING_DIM, _FEATURES)) / 4
    dice = np.random.default_rng(seed)
    numbers = np.repeat(np.arange(len(CONCEPTS)), _PER_CONCEPT)
    pooled = np.abs(sentences[numbers] @ mixing + 0.05 * dice.normal(size=(len(numbers), _FEATURES))).astype(np.float32)
    tags = unit(dice.normal(size=(len(numbers), EMBEDDING_DIM)))
    tokens = np.zeros((len(CONCEPTS), TRAINED_LENGTH, EMBEDDING_DIM), np.float16)
    tokens[:, :3] = sentences[:, None]
    mask = np.zeros((len(CONCEPTS), TRAINED_LENGTH), bool)
    mask[:, :3] = True
    return Dataset(
        [Record(f"{source}/{i}", source, "", (CONCEPTS[n],)) for i, n in enumerate(numbers)],
        pooled,
        tags,
        dice.normal(size=(len(numbers), 24, TOKEN_DIM)).astype(np.float32),
        dice.normal(size=(len(numbers), 16, COMPRESSED)).astype(np.float16),
        dice.random((len(numbers), 64)) < 0.5,
        TextTable({text: row for row, text in enumerate(CONCEPTS)}, sentences, tokens, mask),
    )
