"""The vision tower of Qwen3-VL for images of one fixed square size: positions are constants, and a batch is one tensor.

The class of transformers packs images of any size into one sequence, with lengths that depend on data. Here, all images have the
same grid. Its output is the image tokens: the merged patches, and after them the merged patches of the layers whose features the
language model adds to its own first states (DeepStack, Meng et al. 2024).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from milvus_coop.offline.convert.streaming import value_of

_THETA = 10000.0
"""Base of the rotary positions, where the configuration does not state it: the default of transformers' class."""


class Qwen3Vision(nn.Module):
    """Pixels to the image tokens, in sets: that of the last layer first, then one for each DeepStack layer."""

    def __init__(self, visual: Any, size: int) -> None:
        super().__init__()
        config = visual.config
        self.blocks, self.merger, self.deeper = visual.blocks, visual.merger, visual.deepstack_merger_list
        self.indexes: tuple[int, ...] = tuple(config.deepstack_visual_indexes)
        self.heads, self.merge, self.patch = int(config.num_heads), int(config.spatial_merge_size), int(config.patch_size)
        self.grid = size // self.patch
        project = visual.patch_embed.proj
        # An image is a video of two equal frames, so that the kernels of both frames can be added.
        self.kernel = nn.Buffer(value_of(project.weight).sum(2), persistent=False)
        self.bias = nn.Buffer(value_of(project.bias).clone(), persistent=False)
        self.places = nn.Buffer(self._in_blocks(_resampled(value_of(visual.pos_embed.weight), self.grid)), persistent=False)
        self.cos, self.sin = (nn.Buffer(t, persistent=False) for t in self._turns(config))

    @property
    def sets(self) -> int:
        """Number of sets of image tokens."""
        return 1 + len(self.indexes)

    @property
    def side(self) -> int:
        """Number of image tokens of a set along an edge."""
        return self.grid // self.merge

    def forward(self, pixels: Tensor) -> Tensor:
        """(B, 3, S, S) -> (B, sets * side * side, width of the language model)."""
        patches = functional.conv2d(pixels, self.kernel, self.bias, stride=self.patch)  # (B, C, grid, grid)
        states = self._in_blocks(patches) + self.places
        found = []
        for number, block in enumerate(self.blocks):
            states = states + self._attended(block.attn, block.norm1(states))
            states = states + block.mlp(block.norm2(states))
            if number in self.indexes:
                found.append(_merged(self.deeper[self.indexes.index(number)], states, self.merge))
        return torch.cat([_merged(self.merger, states, self.merge), *found], dim=1)

    def _in_blocks(self, grid: Tensor) -> Tensor:
        """(B, C, grid, grid) -> (B, grid * grid, C), the patches that are merged into one token side by side."""
        rows = torch.unflatten(grid, 2, (self.side, self.merge))
        square = torch.unflatten(rows, 4, (self.side, self.merge))  # (B, C, side, m, side, m)
        return square.permute(0, 2, 4, 3, 5, 1).flatten(1, 4)

    def _turns(self, config: Any) -> tuple[Tensor, Tensor]:
        """Cosines and sines of the rotary positions: a quarter of a head's width for rows, a quarter for columns, all twice."""
        quarter = config.hidden_size // config.num_heads // 4
        theta = (getattr(config, "rope_parameters", None) or {}).get("rope_theta", _THETA)
        speed = 1.0 / theta ** (torch.arange(quarter, dtype=torch.float32) / quarter)
        index = torch.arange(self.grid, dtype=torch.float32).expand(1, 1, self.grid, self.grid)
        rows, columns = self._in_blocks(index.transpose(2, 3)), self._in_blocks(index)  # (1, N, 1)
        angles = torch.cat([rows * speed, columns * speed], dim=-1).repeat(1, 1, 2)[:, None]  # (1, 1, N, head)
        return angles.cos(), angles.sin()

    def _attended(self, attention: Any, states: Tensor) -> Tensor:
        batch, length, width = states.shape
        parts = attention.qkv(states).view(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        query, key, value = parts.unbind(0)  # (B, heads, N, head)
        query, key = (turned(part, self.cos, self.sin) for part in (query, key))
        weights = (query @ key.transpose(2, 3) * attention.scaling).softmax(-1)
        result: Tensor = attention.proj((weights @ value).transpose(1, 2).reshape(batch, length, width))
        return result


def turned(states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary positions: each pair of the first and the second half of a head is turned by an angle (Su et al. 2021)."""
    first, second = states.chunk(2, dim=-1)
    return states * cos + torch.cat([-second, first], dim=-1) * sin


def _merged(merger: Any, states: Tensor, merge: int) -> Tensor:
    """Neighbouring patches to one token each: (B, N, C) -> (B, N / merge², width of the language model)."""
    after = merger.use_postshuffle_norm
    joined = torch.unflatten(states if after else merger.norm(states), 1, (-1, merge * merge)).flatten(2)
    normal = merger.norm(joined) if after else joined
    result: Tensor = merger.linear_fc2(merger.act_fn(merger.linear_fc1(normal)))
    return result


def _resampled(table: Tensor, grid: int) -> Tensor:
    """The learnt positions for a grid of another size: (side * side, C) -> (1, C, grid, grid)."""
    side = int(len(table) ** 0.5)
    square = table.view(side, side, -1).permute(2, 0, 1)[None]
    return functional.interpolate(square, size=(grid, grid), mode="bilinear", align_corners=True)
