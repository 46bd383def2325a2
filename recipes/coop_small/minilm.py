"""A BERT encoder of MiniLM size and its sentence pooling, small enough to read and to export cleanly.

Wang et al. 2020 (MiniLM), Reimers & Gurevych 2019 (mean pooling, unit length). Names follow the public checkpoint.
"""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from milvus_coop.offline.training.networks.transformer import (
    LAYER_NORM_EPS,
    Layer,
    additive_mask,
    layers_from_public,
)


class MiniLM(nn.Module):
    """Token ids to token states and to a unit sentence vector."""

    def __init__(self, *, vocabulary: int = 30522, width: int = 384, heads: int = 12, layers: int = 6, positions: int = 64) -> None:
        super().__init__()
        self.words = nn.Embedding(vocabulary, width)
        self.positions = nn.Embedding(positions, width)
        self.norm = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        self.layers = nn.ModuleList(Layer(width, heads, 4 * width) for _ in range(layers))

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        """int64 (B, T) twice -> unit sentence vectors (B, W), token states (B, T, W)."""
        states = self.norm(self.words(input_ids) + self.positions.weight[: input_ids.shape[1]])
        mask = attention_mask.to(states.dtype)
        additive = additive_mask(mask)
        for layer in self.layers:
            states = layer(states, additive)
        total = (states * mask[:, :, None]).sum(1)
        return functional.normalize(total, dim=-1), states


def load_minilm(checkpoint: Path, positions: int = 64) -> MiniLM:
    """Read the public checkpoint and keep its first `positions` positions. The encoder is frozen and in eval mode."""
    source = load_file(checkpoint)
    model = MiniLM(positions=positions)
    # Every text is of segment 0, so the constant vector of that segment is added to the positions.
    segment = source["embeddings.token_type_embeddings.weight"][0]
    state = {
        "words.weight": source["embeddings.word_embeddings.weight"],
        "positions.weight": source["embeddings.position_embeddings.weight"][:positions] + segment,
        "norm.weight": source["embeddings.LayerNorm.weight"],
        "norm.bias": source["embeddings.LayerNorm.bias"],
    }
    state |= layers_from_public(source, len(model.layers))
    model.load_state_dict(state)
    return model.eval().requires_grad_(False)
