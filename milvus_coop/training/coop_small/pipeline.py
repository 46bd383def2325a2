"""The training step: from cached features to the trained parts of the bundle."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from safetensors.torch import load_file, save_file

from milvus_coop.training.coop_small.backbone import PooledBackbone, load_backbone
from milvus_coop.training.coop_small.class_names import read_classes
from milvus_coop.training.coop_small.cross_encoder import CrossEncoder
from milvus_coop.training.coop_small.dataset import Dataset
from milvus_coop.training.coop_small.packages import PACKAGES
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
from milvus_coop.training.coop_small.train_embedding import EmbeddingRecipe, train_embedding
from milvus_coop.training.efficientnet_lite import Variant


@dataclass(frozen=True)
class Recipe:
    """The whole recipe."""

    variant: Variant = "lite0"
    seed: int = 1
    embedding: EmbeddingRecipe = field(default_factory=EmbeddingRecipe)
    cross: CrossRecipe = field(default_factory=CrossRecipe)


@dataclass(frozen=True)
class Trained:
    """The trained parts."""

    head: ImageHead
    cross_encoder: CrossEncoder


def training_sources() -> frozenset[str]:
    """Names of the sources that the model may be trained on."""
    icons = {p.folder.removeprefix(ICON_PREFIX) for p in PACKAGES if p.role == "train" and ICON_PREFIX in p.folder}
    return frozenset({"stamps", "clipart"} | icons)


def frozen_tagger(raw: Path, variant: Variant, texts: TextTable) -> Tagger:
    """The tagger over the backbone's classifier."""
    return make_tagger(load_backbone(raw, variant), read_classes(raw), texts)


def train_model(dataset: Dataset, tagger: Tagger, recipe: Recipe) -> Trained:
    """Train everything on `dataset`; nothing of a held-out picture may be in it."""
    head, unseen = train_embedding(dataset, recipe.embedding, recipe.seed)
    source = PairSource(dataset, stored_tokens(unseen, dataset.rows))
    cross_encoder = train_cross_encoder(source, tagger.basis, recipe.cross, recipe.seed)
    calibrate(cross_encoder, source)
    return Trained(head, cross_encoder)


def save_trained(trained: Trained, folder: Path) -> None:
    """Write the parts as safetensors."""
    save_file(trained.head.state_dict(), folder / "head.safetensors")
    save_file(trained.cross_encoder.state_dict(), folder / "cross_encoder.safetensors")


def load_trained(folder: Path, tagger: Tagger) -> Trained:
    """Read what `save_trained` wrote."""
    weights = load_file(folder / "head.safetensors")
    head = ImageHead(hidden=len(weights["widen.bias"]))
    head.load_state_dict(weights)
    cross_encoder = CrossEncoder(tagger.basis)
    cross_encoder.load_state_dict(load_file(folder / "cross_encoder.safetensors"))
    for module in (head, cross_encoder):
        module.eval().requires_grad_(False)
    return Trained(head, cross_encoder)


def assemble(raw: Path, variant: Variant, tagger: Tagger, trained: Trained) -> tuple[TextEncoder, ImageEncoder, CrossEncoder]:
    """The bundle's three networks: frozen towers and trained parts."""
    backbone = PooledBackbone(load_backbone(raw, variant), variant)
    image_encoder = ImageEncoder(backbone, tagger, trained.head)
    text_encoder = TextEncoder(load_text_tower(raw), tagger.basis)
    return text_encoder.eval(), image_encoder.eval(), trained.cross_encoder
