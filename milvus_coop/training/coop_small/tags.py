"""Class names as vectors in sentence space, and the projection that narrow tokens share."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from milvus_coop.training.coop_small.class_names import ImageNetClass
from milvus_coop.training.coop_small.layout import TOKEN_DIM
from milvus_coop.training.coop_small.regions import CellCompressor
from milvus_coop.training.coop_small.text_features import TextTable
from milvus_coop.training.coop_small.towers import Tagger
from milvus_coop.training.efficientnet_lite import EfficientNetLite
from milvus_coop.types import Array

HYPERNYM_DECAY = 0.5
"""Weight of a hypernym level relative to the one below it; chosen on the training stamps (tags alone, +1 R@1)."""


def class_texts(classes: Sequence[ImageNetClass]) -> list[str]:
    """Every text that `class_vectors` looks up."""
    return [text for item in classes for text in (item.name, *(word for level in item.levels for word in level))]


def class_vectors(classes: Sequence[ImageNetClass], texts: TextTable) -> Array:
    """Per class: its name, half its WordNet words, and its hypernyms with halving weight. Unit float32 (1000, 384)."""
    rows = []
    for item in classes:
        vector = _sentence(texts, [item.name]) + HYPERNYM_DECAY * _sentence(texts, item.levels[0])
        for height, words in enumerate(item.levels[1:], start=1):
            vector = vector + HYPERNYM_DECAY**height * _sentence(texts, words)
        rows.append(vector / np.linalg.norm(vector))
    return np.stack(rows).astype(np.float32)


def token_basis(vectors: Array, texts: TextTable) -> Array:
    """Orthonormal columns (384, 64) that keep most of the differences between sentences and between classes."""
    both = np.concatenate([vectors, texts.sentences])
    _, _, directions = np.linalg.svd(both - both.mean(0), full_matrices=False)
    return np.ascontiguousarray(directions[:TOKEN_DIM].T).astype(np.float32)


def make_tagger(
    backbone: EfficientNetLite, classes: Sequence[ImageNetClass], texts: TextTable, compressor: CellCompressor
) -> Tagger:
    """The tagger of a backbone, in eval mode."""
    vectors = class_vectors(classes, texts)
    basis = token_basis(vectors, texts)
    return Tagger(backbone.classifier, torch.from_numpy(vectors), torch.from_numpy(basis), compressor).eval()


def _sentence(texts: TextTable, words: Sequence[str]) -> Array:
    """Mean sentence vector of `words`, unit length."""
    mean = texts.sentences[texts.rows(words)].mean(0)
    unit: Array = mean / np.linalg.norm(mean)
    return unit
