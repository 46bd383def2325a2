"""BERT encoder of MiniLM size and its sentence pooling, small enough to read and to export cleanly.

Wang et al. 2020 (MiniLM), Reimers & Gurevych 2019 (mean pooling, unit length). Names follow the public checkpoint.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

_LAYER_NORM_EPS = 1e-12
_MASKED = -1e4  # exp() of it is exactly 0 in float32 and float16


class _Layer(nn.Module):
    """Post-norm transformer layer."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.output = nn.Linear(width, width)
        self.output_norm = nn.LayerNorm(width, eps=_LAYER_NORM_EPS)
        self.widen = nn.Linear(width, hidden)
        self.narrow = nn.Linear(hidden, width)
        self.final_norm = nn.LayerNorm(width, eps=_LAYER_NORM_EPS)

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        """States (B, T, W) and additive mask (B, 1, 1, T) -> states."""
        query, key, value = (
            part(states).unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (self.query, self.key, self.value)
        )
        weights = (query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5 + mask).softmax(-1)  # (B, H, T, T)
        mixed = (weights @ value).transpose(1, 2).flatten(2)
        states = self.output_norm(states + self.output(mixed))
        result: Tensor = self.final_norm(states + self.narrow(functional.gelu(self.widen(states))))
        return result


class MiniLM(nn.Module):
    """Token ids to token states and to a unit sentence vector."""

    def __init__(self, *, vocabulary: int = 30522, width: int = 384, heads: int = 12, layers: int = 6, positions: int = 64) -> None:
        super().__init__()
        self.words = nn.Embedding(vocabulary, width)
        self.positions = nn.Embedding(positions, width)
        self.norm = nn.LayerNorm(width, eps=_LAYER_NORM_EPS)
        self.layers = nn.ModuleList(_Layer(width, heads, 4 * width) for _ in range(layers))

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        """int64 (B, T) twice -> unit sentence vectors (B, W), token states (B, T, W)."""
        states = self.norm(self.words(input_ids) + self.positions.weight[: input_ids.shape[1]])
        mask = attention_mask.to(states.dtype)
        additive = ((1.0 - mask) * _MASKED)[:, None, None, :]
        for layer in self.layers:
            states = layer(states, additive)
        total = (states * mask[:, :, None]).sum(1)
        return functional.normalize(total, dim=-1), states


def load_minilm(checkpoint: Path, positions: int = 64) -> MiniLM:
    """Read the public checkpoint; keeps the first `positions` positions; frozen, in eval mode."""
    source = load_file(checkpoint)
    model = MiniLM(positions=positions)
    # Every text is of segment 0: its constant vector goes into the positions.
    segment = source["embeddings.token_type_embeddings.weight"][0]
    state = {
        "words.weight": source["embeddings.word_embeddings.weight"],
        "positions.weight": source["embeddings.position_embeddings.weight"][:positions] + segment,
        "norm.weight": source["embeddings.LayerNorm.weight"],
        "norm.bias": source["embeddings.LayerNorm.bias"],
    }
    names = {
        "query": "attention.self.query",
        "key": "attention.self.key",
        "value": "attention.self.value",
        "output": "attention.output.dense",
        "output_norm": "attention.output.LayerNorm",
        "widen": "intermediate.dense",
        "narrow": "output.dense",
        "final_norm": "output.LayerNorm",
    }
    for index in range(len(model.layers)):
        for ours, theirs in names.items():
            for part in ("weight", "bias"):
                state[f"layers.{index}.{ours}.{part}"] = source[f"encoder.layer.{index}.{theirs}.{part}"]
    model.load_state_dict(state)
    return model.eval().requires_grad_(False)


def sentence_length_axis(longest: int = 64) -> torch.export.Dim:
    """The dynamic token axis of exports."""
    return torch.export.Dim("length", min=2, max=longest)
