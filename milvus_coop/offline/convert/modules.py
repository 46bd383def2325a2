"""The graphs of a converted bundle, as modules made from the parts of one model (joint) or two models (separate)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from milvus_coop.bundle.spec import ImageSpec
from milvus_coop.offline.convert.family import CheckpointSource, Grid, Matcher, Retriever


class Sight(nn.Module):
    """uint8 pixels to the features of a vision tower. The graph normalises the pixels as the model's processor does."""

    def __init__(self, source: CheckpointSource) -> None:
        super().__init__()
        spec: ImageSpec = source.image
        self.mean = nn.Buffer(torch.tensor(spec.mean).view(1, 3, 1, 1), persistent=False)
        self.std = nn.Buffer(torch.tensor(spec.std).view(1, 3, 1, 1), persistent=False)
        self.vision = source.vision
        self.n_inputs = 1 if spec.mask_shape is None else 2

    def forward(self, pixels: Tensor, mask: Tensor | None = None) -> Tensor:
        """uint8 (B, 3, S, S), and a uint8 patch mask if the fit has one -> features."""
        normal = (pixels.float() / 255.0 - self.mean) / self.std
        features: Tensor = self.vision(normal) if mask is None else self.vision(normal, mask.float())
        return features


class CheckpointTextEncoder(nn.Module):
    """Token ids to the text embedding."""

    def __init__(self, retriever: Retriever) -> None:
        super().__init__()
        self.embed = retriever.embed_texts

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """int64 (B, T) -> unit (B, dim)."""
        embedding: Tensor = self.embed(input_ids) if attention_mask is None else self.embed(input_ids, attention_mask)
        return embedding


class JointImageEncoder(nn.Module):
    """The image encoder with one vision tower for the embedding and the image tokens."""

    def __init__(self, sight: Sight, retriever: Retriever, tokens: nn.Module | None) -> None:
        super().__init__()
        self.sight, self.embed, self.tokens = sight, retriever.embed_images, tokens

    def forward(self, pixels: Tensor, mask: Tensor | None = None) -> Tensor | tuple[Tensor, Tensor]:
        """uint8 (B, 3, S, S), and its mask -> unit (B, dim), and image tokens if they are kept."""
        features = self.sight(pixels, mask)
        return self.embed(features) if self.tokens is None else (self.embed(features), self.tokens(features))


class SeparateImageEncoder(nn.Module):
    """The image encoder with two vision towers: the bi-encoder's and the cross-encoder's, each with its own pixels."""

    def __init__(self, sight: Sight, retriever: Retriever, ce_sight: Sight, tokens: nn.Module) -> None:
        super().__init__()
        self.sight, self.embed, self.ce_sight, self.tokens = sight, retriever.embed_images, ce_sight, tokens

    def forward(
        self, first: Tensor, second: Tensor, third: Tensor | None = None, fourth: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """The pixels, and the mask if there is one, of the bi-encoder's tower, then of the other -> unit (B, dim), image tokens."""
        given = [array for array in (first, second, third, fourth) if array is not None]
        own, others = given[: self.sight.n_inputs], given[self.sight.n_inputs :]
        return self.embed(self.sight(*own)), self.tokens(self.ce_sight(*others))


class TokenCrossEncoder(nn.Module):
    """A text and an image's stored tokens to a match probability."""

    def __init__(self, matcher: Matcher) -> None:
        super().__init__()
        self.match = matcher.match

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, image_tokens: Tensor, image_token_scales: Tensor
    ) -> tuple[Tensor, Tensor]:
        """int64 (B, T) twice, int8 (B, count, dim), float32 (B, count) -> probability (B,), match logit (B,)."""
        return verdict(self.match(input_ids, attention_mask, image_tokens.float() * image_token_scales[:, :, None]))


class PixelCrossEncoder(nn.Module):
    """A text and an image's pixels to a match probability: the vision tower runs for every pair."""

    def __init__(self, sight: Sight, tokens: nn.Module, matcher: Matcher) -> None:
        super().__init__()
        self.sight, self.tokens, self.match = sight, tokens, matcher.match

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, ce_pixels: Tensor, ce_mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """int64 (B, T) twice, uint8 (B, 3, S, S) -> probability (B,), match logit (B,)."""
        return verdict(self.match(input_ids, attention_mask, self.tokens(self.sight(ce_pixels, ce_mask))))


class PooledTokens(nn.Module):
    """Average-pools a grid of patches to `side` x `side`. Leading tokens are kept."""

    def __init__(self, tokens: nn.Module, grid: Grid, side: int) -> None:
        super().__init__()
        self.tokens, self.grid, self.side = tokens, grid, side
        self.pool = nn.AvgPool2d(grid.side // side)

    def forward(self, features: Tensor) -> Tensor:
        """Features -> (B, leading + sets * side * side, dim)."""
        tokens: Tensor = self.tokens(features)
        leading, patches = tokens[:, : self.grid.leading], tokens[:, self.grid.leading :]
        square = torch.unflatten(patches.transpose(1, 2), 2, (self.grid.sets * self.grid.side, self.grid.side))
        return torch.cat([leading, self.pool(square).flatten(2).transpose(1, 2)], dim=1)


def verdict(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Logits of "no match" and "match" (B, 2) -> probability of a match (their softmax), logit of "match", each (B,)."""
    return torch.sigmoid(logits[:, 1] - logits[:, 0]), logits[:, 1]
