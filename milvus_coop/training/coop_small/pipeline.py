"""The training step: from cached features to the trained parts of the bundle."""

from __future__ import annotations

import re
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
from milvus_coop.training.coop_small.features import fitted_compressor
from milvus_coop.training.coop_small.layout import CELLS
from milvus_coop.training.coop_small.packages import PACKAGES
from milvus_coop.training.coop_small.regions import RegionHead
from milvus_coop.training.coop_small.scene_set import SceneSet
from milvus_coop.training.coop_small.sources import ICON_PREFIX
from milvus_coop.training.coop_small.tags import make_tagger
from milvus_coop.training.coop_small.text_features import TextTable, load_text_tower
from milvus_coop.training.coop_small.towers import ImageEncoder, ImageHead, Tagger, TextEncoder
from milvus_coop.training.coop_small.train_cross import (
    CrossRecipe,
    PairSource,
    calibrate,
    stored_tokens,
    train_cross_encoder,
)
from milvus_coop.training.coop_small.train_embedding import EmbeddingRecipe, embeddings, train_embedding
from milvus_coop.training.coop_small.train_positions import NameWords, PositionRecipe, Positions, train_positions
from milvus_coop.training.coop_small.workspace import Workspace
from milvus_coop.training.efficientnet_lite import Variant
from milvus_coop.types import Array

_CHUNK = 512
_SEVERAL = re.compile(r"\b(and|two|three|four|five|over|under|above|below|left|right)\b", re.IGNORECASE)


@dataclass(frozen=True)
class Recipe:
    """The whole recipe."""

    variant: Variant = "lite0"
    seed: int = 1
    embedding: EmbeddingRecipe = field(default_factory=EmbeddingRecipe)
    cross: CrossRecipe = field(default_factory=CrossRecipe)
    positions: PositionRecipe = field(default_factory=PositionRecipe)


@dataclass(frozen=True)
class Trained:
    """The trained parts."""

    head: ImageHead
    regions: RegionHead
    cross_encoder: CrossEncoder

    def tokens(self, dataset: Dataset | SceneSet) -> Array:
        """Image tokens of all pictures as stored and restored, float32 (n, 38, 64)."""
        return stored_tokens(embeddings(self.head, dataset), dataset.rows, cell_keys(self.regions, dataset))


def training_sources() -> frozenset[str]:
    """Names of the sources that the model may be trained on."""
    icons = {p.folder.removeprefix(ICON_PREFIX) for p in PACKAGES if p.role == "train" and ICON_PREFIX in p.folder}
    return frozenset({"stamps", "clipart"} | icons)


def frozen_tagger(workspace: Workspace, variant: Variant, texts: TextTable) -> Tagger:
    """The tagger over the backbone's classifier, with the compressor that the step `features` fitted."""
    compressor = fitted_compressor(workspace.features / variant)
    return make_tagger(load_backbone(workspace.raw, variant), read_classes(workspace.raw), texts, compressor)


def train_model(dataset: Dataset, tagger: Tagger, recipe: Recipe, scenes: SceneSet | None = None) -> Trained:
    """Train everything on `dataset` and `scenes`; nothing of a held-out picture may be in them."""
    fitted = train_embedding(dataset, recipe.embedding, recipe.seed, scenes)
    source = PairSource(dataset, stored_tokens(fitted.unseen, dataset.rows))
    cross_encoder = train_cross_encoder(source, tagger.basis, recipe.cross, recipe.seed)
    positions = Positions().eval().requires_grad_(False)
    if scenes is not None:
        names = name_words(dataset, tagger.basis)
        positions = train_positions(scenes, fitted.unseen_scenes, names, float(cross_encoder.scale), recipe.positions, recipe.seed)
        cross_encoder.positions.load_state_dict(positions.check.state_dict())
    keys = cell_keys(positions.head, dataset)
    calibrate(cross_encoder, PairSource(dataset, stored_tokens(fitted.unseen, dataset.rows, keys)))
    return Trained(fitted.head, positions.head, cross_encoder)


def name_words(dataset: Dataset, basis: Tensor) -> NameWords:
    """The captions of stamps and clip art that name one thing."""
    captions = dict.fromkeys(record.caption for record in dataset.records if record.source in {"stamps", "clipart"})
    rows = dataset.texts.rows([caption for caption in captions if not _SEVERAL.search(caption)])
    words = torch.from_numpy(dataset.texts.tokens[rows].astype(np.float32)) @ basis
    return NameWords(words.numpy().astype(np.float16), dataset.texts.mask[rows])


def cell_keys(regions: RegionHead, dataset: Dataset | SceneSet) -> Array:
    """Keys of all pictures' cells, float32 (n, 16, 32)."""
    parts = []
    with torch.no_grad():
        for start in range(0, len(dataset), _CHUNK):
            rows, cells = (torch.from_numpy(part[start : start + _CHUNK]) for part in (dataset.rows[:, :CELLS], dataset.cells))
            parts.append(regions(rows, cells.float()).numpy())
    return np.concatenate(parts)


def save_trained(trained: Trained, folder: Path) -> None:
    """Write the parts as safetensors."""
    save_file(trained.head.state_dict(), folder / "head.safetensors")
    save_file(trained.regions.state_dict(), folder / "regions.safetensors")
    save_file(trained.cross_encoder.state_dict(), folder / "cross_encoder.safetensors")


def load_trained(folder: Path, tagger: Tagger) -> Trained:
    """Read what `save_trained` wrote."""
    weights = load_file(folder / "head.safetensors")
    head = ImageHead(hidden=len(weights["widen.bias"]))
    head.load_state_dict(weights)
    cross_encoder = CrossEncoder(tagger.basis)
    cross_encoder.load_state_dict(load_file(folder / "cross_encoder.safetensors"))
    regions = RegionHead()
    regions.load_state_dict(load_file(folder / "regions.safetensors"))
    for module in (head, regions, cross_encoder):
        module.eval().requires_grad_(False)
    return Trained(head, regions, cross_encoder)


def assemble(raw: Path, variant: Variant, tagger: Tagger, trained: Trained) -> tuple[TextEncoder, ImageEncoder, CrossEncoder]:
    """The bundle's three networks: frozen towers and trained parts."""
    backbone = PooledBackbone(load_backbone(raw, variant), variant)
    image_encoder = ImageEncoder(backbone, tagger, trained.head, trained.regions)
    text_encoder = TextEncoder(load_text_tower(raw), tagger.basis)
    return text_encoder.eval(), image_encoder.eval(), trained.cross_encoder
