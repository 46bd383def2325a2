"""One transformer for texts, images and pairs: the bi-encoder and the cross-encoder of Geigle et al. 2022, on stored tokens.

As in the paper, an image is a short sequence of region vectors, and the same layers read a text alone, an image alone, or both.
Unlike in the paper, the region vectors are made once, at ingest, and stored (EDJE, 2025). They are the bundle's image tokens.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from milvus_coop.offline.training.networks.transformer import LAYER_NORM_EPS, Layer, additive_mask
from milvus_coop.offline.training.networks.vision import Vision, VisionConfig

TEXT, IMAGE = 0, 1


@dataclass(frozen=True)
class NetworkConfig:
    """The sizes of a network."""

    vision: VisionConfig
    vocabulary: int
    max_length: int
    """Maximum length of a text in tokens, special tokens included."""
    cls_id: int
    pad_id: int
    tokens: int
    """Number of image tokens per image."""
    token_dim: int
    compress: Literal["cells", "queries"] = "cells"
    """The way from features to tokens: `cells` makes one per cell, `queries` uses `tokens` learnt queries over all cells (EDJE)."""
    width: int = 256
    layers: int = 4
    heads: int = 4
    hidden: int = 1024
    dim: int = 256
    """Length of an embedding."""
    dropout: float = 0.1
    norm_first: bool = False
    """True for pre-norm layers, for networks that start from random weights. BERT's layers are post-norm."""
    norm_eps: float = LAYER_NORM_EPS
    """Epsilon of the layer norms. The RoBERTa family has 1e-5."""
    deepnorm: bool = False
    """True for DeepNorm layers (Wang et al. 2022), for networks of many layers. It excludes `norm_first`."""
    fills: bool = False
    """True if there is a `WordFiller`. Masked language modelling needs it, and no exported graph has it."""
    match: Literal["cls", "residual"] = "cls"
    """The source of the match logit. `cls`: it is read from [CLS], as in the paper. `residual`: it is the network's own scaled
    cosine plus a correction, which starts at zero and is read from the mean of all states. Such a network cannot start worse than
    the bi-encoder, and few layers suffice."""


class Compressor(nn.Module):
    """Features to image tokens. Every token is layer-normed, so that it can be stored well as int8 with one scale per token."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        features = config.vision.features
        self.queries = None
        if config.compress == "queries":
            self.queries = nn.Parameter(torch.randn(config.tokens, config.width) * config.width**-0.5)
            self.places = nn.Parameter(torch.randn(config.vision.cells, config.width))
            self.key = nn.Linear(features, config.width)
            self.value = nn.Linear(features, config.width)
            self.mix = nn.Sequential(nn.LayerNorm(config.width), nn.Linear(config.width, config.hidden), nn.GELU())
        self.narrow = nn.Linear(features if self.queries is None else config.hidden, config.token_dim)
        self.norm = nn.LayerNorm(config.token_dim, elementwise_affine=False)

    def forward(self, features: Tensor) -> Tensor:
        """(B, cells, F) -> (B, tokens, token_dim)."""
        if self.queries is not None:
            keys = self.key(features) + self.places
            weights = (self.queries @ keys.transpose(1, 2) / keys.shape[-1] ** 0.5).softmax(-1)  # (B, tokens, cells)
            features = self.mix(weights @ self.value(features) + self.queries)
        tokens: Tensor = self.norm(self.narrow(features))
        return tokens


class WordFiller(nn.Module):
    """The head of masked language modelling: a state to logits of all words, as in BERT (Devlin et al. 2019).

    Its last matrix is the matrix of word embeddings. The mask is a separate learnt vector, so that any tokenizer can be used.
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.mask = nn.Parameter(torch.zeros(config.width))
        self.dense = nn.Linear(config.width, config.width)
        self.norm = nn.LayerNorm(config.width, eps=config.norm_eps)
        self.bias = nn.Parameter(torch.zeros(config.vocabulary))

    def forward(self, states: Tensor, words: Tensor) -> Tensor:
        """States (n, W) and word embeddings (vocabulary, W) -> logits (n, vocabulary)."""
        return functional.linear(self.norm(functional.gelu(self.dense(states))), words, self.bias)

    @torch.no_grad()
    def start(self, words: Tensor, mask: int | None) -> None:
        """Set starting values: logits of about unit variance, whatever the words' variance, and the tokenizer's own mask word.

        Args:
            words: the word embeddings (vocabulary, W).
            mask: the id of the tokenizer's mask word. None if it has none.
        """
        self.norm.weight.fill_(1.0 / (float(words.std()) * words.shape[1] ** 0.5))
        self.mask.copy_(words.mean(0) if mask is None else words[mask])


class OneStream(nn.Module):
    """The network. `vision` may be None if features were computed before."""

    def __init__(self, config: NetworkConfig, vision: Vision | None = None) -> None:
        super().__init__()
        self.config = config
        self.vision = vision
        width = config.width
        self.compressor = Compressor(config)
        # Words, positions and types start with unit variance. With smaller positions the network did not learn to bind attributes.
        self.words = nn.Embedding(config.vocabulary, width)
        self.positions = nn.Embedding(config.max_length, width)
        self.slots = nn.Embedding(config.tokens, width)
        self.kinds = nn.Embedding(2, width)
        self.widen = nn.Linear(config.token_dim, width)
        self.norm = nn.LayerNorm(width, eps=config.norm_eps)
        self.dropout = nn.Dropout(config.dropout)
        self.layers = nn.ModuleList(
            Layer(
                width,
                config.heads,
                config.hidden,
                config.dropout,
                norm_first=config.norm_first,
                eps=config.norm_eps,
                deepnorm=config.layers if config.deepnorm else 0,
            )
            for _ in range(config.layers)
        )
        self.final = nn.LayerNorm(width, eps=config.norm_eps) if config.norm_first else nn.Identity()
        self.project = nn.Linear(width, config.dim)
        self.classify = nn.Linear(width, 1)
        self.log_scale = nn.Parameter(torch.tensor(3.0))
        if config.match == "residual":
            nn.init.zeros_(self.classify.weight)
            nn.init.zeros_(self.classify.bias)
            self.match_scale = nn.Parameter(torch.tensor(20.0))
        self.filler = WordFiller(config) if config.fills else None

    def set_filler(self, wanted: bool, mask: int | None = None) -> None:
        """Add a `WordFiller` if it is wanted and missing (`mask`: see its `start`), or remove it if it is not wanted."""
        if wanted != self.config.fills:
            self.config = replace(self.config, fills=wanted)
            self.filler = WordFiller(self.config) if wanted else None
            if self.filler is not None:
                self.filler.start(self.words.weight, mask)

    def tokens(self, visual: Tensor) -> Tensor:
        """uint8 pixels (B, 3, S, S), or features of the backbone (B, cells, F) -> image tokens (B, tokens, token_dim)."""
        if visual.dtype == torch.uint8:
            visual = self._seen(visual)
        tokens: Tensor = self.compressor(visual.float())
        return tokens

    def _seen(self, pixels: Tensor) -> Tensor:
        """Features. On a CPU, depthwise convolutions are fastest in float32, channels last: 8 images take 0.57 s (bf16: 0.67 s)."""
        if self.vision is None:
            raise ValueError("this network has no backbone: it takes features, not pixels")
        depthwise = self.vision.config.kind == "efficientnet-lite0" and pixels.device.type == "cpu"
        if depthwise:
            pixels = pixels.contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", enabled=False) if depthwise else nullcontext():
            features: Tensor = self.vision(pixels)
        return features

    def embed_texts(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """int64 (B, T) twice -> unit (B, dim)."""
        present = attention_mask.to(self.words.weight.dtype)
        return self._embedding(self._text_states(input_ids), present)

    def embed_images(self, tokens: Tensor) -> Tensor:
        """Image tokens (B, tokens, token_dim) -> unit (B, dim). As in the paper, [CLS] comes before the tokens."""
        start = self._text_states(torch.full_like(tokens[:, :1, 0], self.config.cls_id, dtype=torch.int64))
        states = torch.cat([start, self._image_states(tokens)], dim=1)
        return self._embedding(states, torch.ones_like(states[:, :, 0]))

    def match(self, input_ids: Tensor, attention_mask: Tensor, tokens: Tensor, cosines: Tensor | None = None) -> Tensor:
        """Match logits (B,) of pairs of a text and an image's tokens.

        Args:
            input_ids: int64 (B, T).
            attention_mask: int64 (B, T).
            tokens: (B, tokens, token_dim).
            cosines: the cosines of the pairs' own embeddings (B,), if they are known. Only `residual` uses them.
        """
        states, present = self._pair_states(self._text_states(input_ids), attention_mask, tokens)
        if self.config.match == "cls":
            logits: Tensor = self.classify(self.dropout(states[:, 0]))
            return logits[:, 0]
        if cosines is None:
            cosines = (self.embed_texts(input_ids, attention_mask) * self.embed_images(tokens)).sum(-1)
        correction: Tensor = self.classify(self.dropout(_mean(states, present)))
        return correction[:, 0] + self.match_scale * cosines

    def fill(self, input_ids: Tensor, attention_mask: Tensor, tokens: Tensor, masked: Tensor, asked: Tensor) -> Tensor:
        """Logits of the words at some places of the texts, given the image. Some words of the texts are masked.

        Args:
            input_ids: int64 (B, T).
            attention_mask: int64 (B, T).
            tokens: (B, tokens, token_dim).
            masked: bool (B, T), true where the mask replaces the word.
            asked: bool (B, T), true at the n places whose words are asked for.

        Returns:
            (n, vocabulary), in the order of `torch.nonzero(asked)`.

        Raises:
            ValueError: this network has no `WordFiller`.
        """
        if self.filler is None:
            raise ValueError("this network has no head that fills in words")
        words = torch.where(masked[:, :, None], self.filler.mask, self.words(input_ids))
        states, _ = self._pair_states(self._placed(words), attention_mask, tokens)
        logits: Tensor = self.filler(states[:, : input_ids.shape[1]][asked], self.words.weight)
        return logits

    def _pair_states(self, text_states: Tensor, attention_mask: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Final states of text and image together (B, T + tokens, W), and a mask that is 1 at tokens (B, T + tokens)."""
        states = torch.cat([text_states, self._image_states(tokens)], dim=1)
        present = torch.cat([attention_mask.to(states.dtype), torch.ones_like(tokens[:, :, 0])], dim=1)
        return self._run(states, present), present

    def _text_states(self, input_ids: Tensor) -> Tensor:
        return self._placed(self.words(input_ids))

    def _placed(self, words: Tensor) -> Tensor:
        """Word vectors (B, T, W) with the positions and the type vector of texts added, normed."""
        states = words + self.positions.weight[: words.shape[1]] + self.kinds.weight[TEXT]
        result: Tensor = self.dropout(self.norm(states))
        return result

    def _image_states(self, tokens: Tensor) -> Tensor:
        states = self.widen(tokens) + self.slots.weight + self.kinds.weight[IMAGE]
        result: Tensor = self.dropout(self.norm(states))
        return result

    def _run(self, states: Tensor, present: Tensor) -> Tensor:
        mask = additive_mask(present)
        for layer in self.layers:
            states = layer(states, mask)
        result: Tensor = self.final(states)
        return result

    def _embedding(self, states: Tensor, present: Tensor) -> Tensor:
        """The mean over the tokens without padding but with [CLS] (the paper's pooling), projected and of unit length."""
        states = self._run(states, present)
        return functional.normalize(self.project(_mean(states, present)), dim=-1)


def _mean(states: Tensor, present: Tensor) -> Tensor:
    """States (B, T, W) and a mask (B, T) that is 1 at tokens -> mean states (B, W)."""
    return (states * present[:, :, None]).sum(1) / present.sum(1, keepdim=True)
