"""The three networks of the bundle as they are exported: image encoder, text encoder, cross-encoder."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn

from milvus_coop.offline.training.efficientnet_lite import EfficientNetLite
from recipes.coop_small.cross_encoder import CrossEncoder, image_tokens
from recipes.coop_small.hubs import Hubs
from recipes.coop_small.texts import LowerLayers
from recipes.coop_small.towers import ImageTower, TextTower, embedding


class ImageEncoder(nn.Module):
    """Pixels to the image embedding and the image tokens."""

    def __init__(self, backbone: EfficientNetLite, tower: ImageTower, hubs: Hubs) -> None:
        """`backbone`: whole; its upper half is the one that `tower` trained."""
        super().__init__()
        self.backbone, self.tower, self.hubs = backbone, tower, hubs

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, Tensor]:
        """uint8 (B, 3, 224, 224) -> unit (B, 772), (B, 25, 96)."""
        seen = self.tower.look_at(self.backbone(pixel_values))
        vectors = self.hubs(embedding(seen.heads))
        return vectors, image_tokens(vectors, seen.cells)


class SmallTextEncoder(nn.Module):
    """Token ids to the text embedding and to one narrow vector per word, whose length is the word's weight."""

    def __init__(self, lower: LowerLayers, tower: TextTower, hubs: Hubs) -> None:
        super().__init__()
        self.lower, self.tower, self.hubs = lower, tower, hubs

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        """int64 (B, T) twice -> unit (B, 772), (B, T, 96)."""
        read = self.tower(self.lower(input_ids, attention_mask), attention_mask)
        return self.hubs(embedding(read.heads)), read.words * read.weights[..., None]


class Networks(NamedTuple):
    """The bundle's networks, in eval mode."""

    text_encoder: SmallTextEncoder
    image_encoder: ImageEncoder
    cross_encoder: CrossEncoder
