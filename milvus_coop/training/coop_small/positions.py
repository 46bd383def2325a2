"""Check where things are: a caption's nouns are looked for in the picture's cells, and only the places found are compared.

What stands in a cell decides where a noun's attention goes; the value that attention returns is the cell's place, never its
content, so that a fixed set of scenes can hardly be memorised. The caption is read in one fixed form: parts in a row, each with a
noun, and perhaps a number, a size and a direction from it to the first part ("two big cats, left of a dog and above a car").
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from milvus_coop.training.coop_small.layout import CELLS, KEY_DIM, TOKEN_DIM

MAX_WORDS = 64
PARTS = 3
COUNTED = (2, 3, 4, 5)
"""Numbers that a caption may say. "A" says none, so that a caption of one thing adds nothing to the score."""
_GRID = 4
_HIDDEN = 64
_MASKED = -1e4
_TINY = 1e-6
_WORD_SCALE = 8.0  # brings the entries of unit vectors of 64 numbers to about unit size
_SIMILARITY_SCALE = 4.0


class Reading(NamedTuple):
    """What B captions of T words say.

    `starts` (B, T): logits that a word begins another part; `nouns` (B, 3, T): logarithms of the shares of words that name a part;
    `queries` unit (B, 3, 32); `exists` (B, 3): whether there is such a part; `direction` (B, 3, 2): where the first part lies,
    seen from this one, x to the right and y down; `size` (B, 3): 1 for large, -1 for small; `number` (B, 3, 4).
    """

    starts: Tensor
    nouns: Tensor
    queries: Tensor
    exists: Tensor
    direction: Tensor
    size: Tensor
    number: Tensor


class PositionCheck(nn.Module):
    """Caption words and cell keys -> what to add to a pair's score; zero for a new network."""

    until: Tensor
    places: Tensor
    parts: Tensor

    def __init__(self, *, dropout: float = 0.1) -> None:
        super().__init__()
        self.register_buffer("until", torch.ones(MAX_WORDS, MAX_WORDS).triu(), persistent=False)
        self.register_buffer("places", _places(), persistent=False)
        self.register_buffer("parts", torch.arange(float(PARTS))[:, None], persistent=False)
        self.look_for = nn.Linear(TOKEN_DIM, KEY_DIM, bias=False)
        nn.init.zeros_(self.look_for.weight)
        # of a word and its neighbours: noun, start of a part, direction x and y, size, numbers
        self.role = _small_net(3 * TOKEN_DIM, _HIDDEN, 5 + len(COUNTED), dropout)
        self.sharpness = nn.Parameter(torch.tensor(2.3))
        self.contrast = nn.Parameter(torch.tensor(2.3))
        self.extent = _small_net(CELLS, CELLS, 1, 0.0)
        self.presence = _small_net(5, CELLS, 1, dropout, starts_at_zero=True)
        self.count = _small_net(CELLS + 2, CELLS, len(COUNTED), dropout, starts_at_zero=True)
        self.weights = nn.Parameter(torch.zeros(2))

    def forward(self, words: Tensor, mask: Tensor, keys: Tensor) -> Tensor:
        """Pairs: (B, T, 64), int64 (B, T), (B, 16, 32) -> (B,)."""
        reading = self.read(words, mask)
        return self.compare(reading, reading.queries @ keys.transpose(1, 2))

    def grid(self, words: Tensor, mask: Tensor, keys: Tensor) -> Tensor:
        """Every caption (C, T, 64) with every picture (P, 16, 32) -> (C, P)."""
        reading = self.read(words, mask)
        similarity = torch.einsum("csd,pnd->cpsn", reading.queries, keys)
        return self.compare(Reading(*(part[:, None] for part in reading)), similarity)

    def read(self, words: Tensor, mask: Tensor) -> Reading:
        """Words (B, T, 64), int64 mask (B, T)."""
        present = mask.to(words.dtype)
        unit = functional.normalize(words, dim=-1) * present[:, :, None]
        edge = torch.zeros_like(unit[:, :1])
        around = [torch.cat([edge, unit[:, :-1]], dim=1), unit, torch.cat([unit[:, 1:], edge], dim=1)]
        role = self.role(torch.cat(around, dim=-1) * _WORD_SCALE)  # (B, T, 9)
        length = words.shape[1]
        part_of_word = (role[..., 1].sigmoid() * present) @ self.until[:length, :length]  # 0, then 1 from the second part on, ...
        share = (1.0 - (part_of_word[:, None] - self.parts).abs()).clamp(min=0.0) * present[:, None]  # (B, 3, T)
        nouns = (role[:, None, :, 0] + (share + _TINY).log() + (1.0 - present[:, None]) * _MASKED).log_softmax(-1)
        wanted = unit[..., :KEY_DIM] + self.look_for(unit)
        return Reading(
            starts=role[..., 1],
            nouns=nouns,
            queries=functional.normalize(nouns.exp() @ wanted, dim=-1),
            exists=(part_of_word.amax(-1, keepdim=True) - self.parts[:, 0] + 1.0).clamp(0.0, 1.0),
            direction=share @ role[..., 2:4],
            size=(share @ role[..., 4:5].tanh())[..., 0],
            number=share @ role[..., 5:].tanh(),
        )

    def attend(self, similarity: Tensor) -> Tensor:
        """Cosines (..., 16) of a noun and the cells -> where it is, shares that sum to 1."""
        return (self.sharpness.exp() * similarity).softmax(-1)

    def compare(self, reading: Reading, similarity: Tensor) -> Tensor:
        """Cosines of the nouns and the cells (..., 3, 16) -> score (...)."""
        attention = self.attend(similarity)
        moments = attention @ self.places  # (..., 3, 4): x, y, x squared, y squared
        centre = moments[..., :2]
        shift = centre[..., :1, :] - centre  # to the first part
        other = reading.exists * (1.0 - self.parts[:, 0].eq(0).to(similarity.dtype))  # parts but the first
        direction = (reading.direction * shift).sum(-1)
        profile = _SIMILARITY_SCALE * similarity.topk(CELLS, dim=-1).values
        lead = (self.contrast.exp() * (similarity[..., :1, :] - similarity)).tanh().mean(-1)  # cells that the first part wins
        extent = self.extent(profile)[..., 0]
        larger = (reading.size[..., :1] - reading.size) * (lead + extent[..., :1] - extent)
        pairs = (other * (self.weights[0] * direction + self.weights[1] * larger)).sum(-1)
        spread = moments[..., 2:] - centre**2
        count = (reading.exists * (reading.number * self.count(torch.cat([profile, 2.0 * spread], dim=-1))).sum(-1)).sum(-1)
        best, level = profile[..., 0], profile.mean(-1)
        total = reading.exists.sum(-1)
        presence = torch.stack(
            [
                (best + (1.0 - reading.exists) * _SIMILARITY_SCALE).amin(-1),
                (reading.exists * best).sum(-1) / total,
                (reading.exists * level).sum(-1) / total,
                _SIMILARITY_SCALE * (other * (attention[..., :1, :] * attention).sum(-1)).sum(-1),
                total - 2.0 + torch.zeros_like(best[..., 0]),
            ],
            dim=-1,
        )
        result: Tensor = pairs + count + reading.exists[..., 1] * self.presence(presence)[..., 0]
        return result


def _small_net(inputs: int, hidden: int, outputs: int, dropout: float, *, starts_at_zero: bool = False) -> nn.Sequential:
    last = nn.Linear(hidden, outputs)
    if starts_at_zero:
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
    return nn.Sequential(nn.Linear(inputs, hidden), nn.GELU(), nn.Dropout(dropout), last)


def _places() -> Tensor:
    """(16, 4): x, y, x squared, y squared of the cells' centres, -0.75 to 0.75, in reading order."""
    steps = (torch.arange(_GRID) + 0.5) / _GRID * 2 - 1
    y, x = (axis.flatten() for axis in torch.meshgrid(steps, steps, indexing="ij"))
    return torch.stack([x, y, x**2, y**2], dim=1)
