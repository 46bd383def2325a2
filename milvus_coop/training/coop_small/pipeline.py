"""The training step: from cached features to the trained parts of the bundle."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from milvus_coop.training.coop_small.backbone import PooledBackbone, load_backbone
from milvus_coop.training.coop_small.class_names import read_classes
from milvus_coop.training.coop_small.cross_encoder import CrossEncoder
from milvus_coop.training.coop_small.dataset import Dataset
from milvus_coop.training.coop_small.packages import PACKAGES
from milvus_coop.training.coop_small.sources import ICON_PREFIX
from milvus_coop.training.coop_small.tags import make_tagger
from milvus_coop.training.coop_small.text_features import TextTable, load_text_tower
from milvus_coop.training.coop_small.towers import ImageEncoder, ImageHead, Tagger, TextEncoder, describe
from milvus_coop.training.coop_small.train_cross import (
    CrossRecipe,
    PairSource,
    calibrate,
    score_matrix,
    stored_tokens,
    train_cross_encoder,
)
from milvus_coop.training.coop_small.train_head import HeadRecipe, cross_fitted_embeddings, train_head
from milvus_coop.training.efficientnet_lite import Variant
from milvus_coop.types import Array

logger = logging.getLogger(__name__)
_CHUNK = 512


@dataclass(frozen=True)
class Recipe:
    """The whole recipe."""

    variant: Variant = "lite0"
    views: int = 1
    cross_fit_parts: int = 5
    seed: int = 1
    head: HeadRecipe = field(default_factory=HeadRecipe)
    cross: CrossRecipe = field(default_factory=CrossRecipe)


def training_sources() -> frozenset[str]:
    """Names of the sources that the model may be trained on."""
    return frozenset(
        {"stamps", "clipart"}
        | {p.folder.removeprefix(ICON_PREFIX) for p in PACKAGES if p.role == "train" and ICON_PREFIX in p.folder}
    )


def frozen_tagger(raw: Path, variant: Variant, texts: TextTable) -> Tagger:
    """The tagger over the backbone's classifier."""
    return make_tagger(load_backbone(raw, variant), read_classes(raw), texts)


@dataclass(frozen=True)
class Trained:
    """The two trained parts."""

    head: ImageHead
    cross_encoder: CrossEncoder


def train_model(dataset: Dataset, tagger: Tagger, recipe: Recipe) -> Trained:
    """Train head and cross-encoder on `dataset`; nothing of a held-out picture may be in it."""
    vectors = tag_vectors(dataset, tagger)
    head = train_head(dataset, vectors, recipe.head, recipe.seed)
    unseen = cross_fitted_embeddings(dataset, vectors, recipe.head, recipe.cross_fit_parts, recipe.seed)
    source = PairSource(dataset, stored_tokens(frozen_tokens(dataset, tagger, head), unseen))
    cross_encoder = train_cross_encoder(source, tagger.basis, recipe.cross, recipe.seed)
    stamps = PairSource(*_only(source, dataset.where(lambda record: record.source == "stamps")))
    scores = score_matrix(cross_encoder, stamps, np.arange(len(stamps.dataset)), tagger.basis)
    labels = stamps.dataset.labels
    calibrate(cross_encoder, scores, labels[:, None] == labels[None, :])
    return Trained(head, cross_encoder)


def tag_vectors(dataset: Dataset, tagger: Tagger) -> Tensor:
    """Tag vector per picture, unit (n, 384)."""
    with torch.no_grad():
        return tagger.vectors(torch.from_numpy(dataset.pooled))


def frozen_tokens(dataset: Dataset, tagger: Tagger, head: ImageHead) -> Array:
    """Image tokens of all pictures before rounding, float32 (n, 30, 64)."""
    with torch.no_grad():
        parts = [
            describe(
                tagger,
                head,
                torch.from_numpy(dataset.pooled[start : start + _CHUNK]),
                torch.from_numpy(dataset.cells[start : start + _CHUNK].astype(np.float32)),
            )[1].numpy()
            for start in range(0, len(dataset), _CHUNK)
        ]
    return np.concatenate(parts)


def save_trained(trained: Trained, folder: Path) -> None:
    """Write both parts as safetensors."""
    save_file(trained.head.state_dict(), folder / "head.safetensors")
    save_file(trained.cross_encoder.state_dict(), folder / "cross_encoder.safetensors")


def load_models(folder: Path, raw: Path, recipe: Recipe, texts: TextTable) -> tuple[TextEncoder, ImageEncoder, CrossEncoder]:
    """The bundle's three networks, from the frozen towers and the saved parts."""
    backbone = load_backbone(raw, recipe.variant)
    tagger = make_tagger(backbone, read_classes(raw), texts)
    head = ImageHead(hidden=recipe.head.hidden)
    head.load_state_dict(load_file(folder / "head.safetensors"))
    cross_encoder = CrossEncoder(tagger.basis)
    cross_encoder.load_state_dict(load_file(folder / "cross_encoder.safetensors"))
    image_encoder = ImageEncoder(PooledBackbone(backbone, recipe.variant), tagger, head)
    text_encoder = TextEncoder(load_text_tower(raw), tagger.basis)
    return text_encoder.eval(), image_encoder.eval(), cross_encoder.eval()


def _only(source: PairSource, positions: Array) -> tuple[Dataset, Array]:
    return source.dataset.select(positions), source.tokens[positions]
