"""The three graphs of a bundle, as modules made from one network (joint) or two (separate)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from milvus_coop.offline.training.networks.one_stream import OneStream


class TextEncoderGraph(nn.Module):
    """Token ids to the text embedding."""

    def __init__(self, retriever: OneStream) -> None:
        super().__init__()
        self.retriever = retriever

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """int64 (B, T) twice -> unit (B, dim)."""
        return self.retriever.embed_texts(input_ids, attention_mask)


class ImageEncoderGraph(nn.Module):
    """Pixels to the bi-encoder's embedding and the cross-encoder's image tokens. A backbone that both share runs once."""

    def __init__(self, retriever: OneStream, matcher: OneStream, *, shared_vision: bool) -> None:
        super().__init__()
        self.retriever, self.matcher, self.shared_vision = retriever, matcher, shared_vision

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, Tensor]:
        """uint8 (B, 3, S, S) -> unit (B, dim), (B, tokens, token_dim)."""
        visual = _features(self.retriever, pixel_values)
        tokens = self.retriever.compressor(visual)
        embedding = self.retriever.embed_images(tokens)
        if self.matcher is not self.retriever:
            tokens = self.matcher.compressor(visual if self.shared_vision else _features(self.matcher, pixel_values))
        return embedding, tokens


class CrossEncoderGraph(nn.Module):
    """A text and an image's stored tokens to a match probability."""

    def __init__(self, matcher: OneStream) -> None:
        super().__init__()
        self.matcher = matcher

    def forward(self, input_ids: Tensor, attention_mask: Tensor, image_tokens: Tensor, image_token_scales: Tensor) -> Tensor:
        """int64 (B, T) twice, int8 (B, tokens, token_dim), float32 (B, tokens) -> probability (B,)."""
        tokens = image_tokens.to(image_token_scales.dtype) * image_token_scales[:, :, None]
        return torch.sigmoid(self.matcher.match(input_ids, attention_mask, tokens))


def _features(network: OneStream, pixels: Tensor) -> Tensor:
    if network.vision is None:
        raise ValueError("the network has no backbone")
    features: Tensor = network.vision(pixels)
    return features
