"""The two towers: from the map between the halves, and from half-read texts, to embeddings, cells and words.

Both towers have two heads, which see an image as the mean of its cells and as a weighted mean, a text as the mean of its words and
as a weighted mean. The embedding is the two heads' unit vectors, one behind the other: its cosine is the mean of theirs.

The first head stays close to the space of the pretrained sentence vectors. It adds a correction to a text's sentence vector;
for an image, to the mean of the class names' sentence vectors, weighted by the backbone's classifier. So things that the
photographs do not show, but ImageNet does, can be found by name. The second head is free.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from milvus_coop.offline.training.efficientnet_lite import FEATURES
from milvus_coop.offline.training.networks.transformer import additive_mask
from milvus_coop.offline.training.networks.vision import cell_weights
from recipes.coop_small.backbone import UpperHalf
from recipes.coop_small.minilm import MiniLM

TEXT_WIDTH = 384
FROZEN_LAYERS = 4
GRID = 4
CELLS = GRID * GRID
HEAD_DIM = 384
HEADS = 2
WORD_DIM = 96
"""Length of the vectors of single words and single cells."""


class SeenImages(NamedTuple):
    """Images as the towers see them.

    Unit vectors of both heads (B, 2, 384), unit vectors of cells (B, 16, 96), and logits of the classifier (B, 1000).
    """

    heads: Tensor
    cells: Tensor
    classes: Tensor


class ReadTexts(NamedTuple):
    """Texts as the towers read them.

    Unit vectors of both heads (B, 2, 384), unit vectors of words (B, T, 96), and the words' weights (B, T). The weights of a
    text's words add up to 1; padding has weight 0.
    """

    heads: Tensor
    words: Tensor
    weights: Tensor


class Head(nn.Module):
    """Features to a unit vector."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, features: int, *, hidden: int, out: int, dropout: float) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("deviation", torch.ones(features))
        self.net = nn.Sequential(
            nn.Dropout(dropout), nn.Linear(features, hidden), nn.GELU(), nn.Dropout(dropout), nn.Linear(hidden, out)
        )

    def forward(self, features: Tensor) -> Tensor:
        """(..., features) -> float32 (..., out), unit rows."""
        return functional.normalize(self.raw(features), dim=-1)

    def raw(self, features: Tensor) -> Tensor:
        """(..., features) -> float32 (..., out), rows of any length."""
        result: Tensor = self.net((features - self.mean) / self.deviation).float()
        return result

    def standardise(self, features: Tensor) -> None:
        """Set the means and deviations that features are reduced by, from a sample (n, features)."""
        self.mean.copy_(features.mean(0))
        self.deviation.copy_(features.std(0) + 0.01)


class ImageTower(nn.Module):
    """The upper half of the backbone, two heads, and the head of the cells."""

    cell_weights: Tensor
    class_vectors: Tensor

    def __init__(
        self, upper: UpperHalf, classifier: nn.Linear, class_vectors: Tensor, *, hidden: int = 2048, dropout: float = 0.5
    ) -> None:
        """`classifier`: the backbone's; `class_vectors`: unit sentence vectors of its classes' names (1000, 384)."""
        super().__init__()
        self.upper, self.classifier = upper, classifier
        self.register_buffer("class_vectors", class_vectors)
        self.tag_weight = nn.Parameter(torch.tensor(1.0))
        self.register_buffer("cell_weights", cell_weights(7, GRID), persistent=False)
        self.look = nn.Linear(FEATURES, 1)
        self.heads = nn.ModuleList(Head(FEATURES, hidden=hidden, out=HEAD_DIM, dropout=dropout) for _ in range(HEADS))
        self.cells = Head(FEATURES, hidden=512, out=WORD_DIM, dropout=dropout / 2)
        quieten(head_of(self.heads, 0))

    def forward(self, maps: Tensor, part: Tensor | None = None) -> SeenImages:
        """Maps between the halves (B, 80, 14, 14). `part`: the numbers of the images whose cells are wanted; None: all."""
        return self.look_at(self.upper(maps), part)

    def look_at(self, grid: Tensor, part: Tensor | None = None) -> SeenImages:
        """The backbone's feature grid (B, 1280, 7, 7)."""
        return self.read_cells(self.cell_weights.to(grid.dtype) @ grid.flatten(2).transpose(1, 2), part)

    def read_cells(self, cells: Tensor, part: Tensor | None = None) -> SeenImages:
        """Features of the 4 x 4 cells (B, 16, 1280)."""
        weights = self.look(cells).float().softmax(1).to(cells.dtype)  # (B, 16, 1)
        pooled = (cells.mean(1), (cells * weights).sum(1))
        classes = self.classifier(pooled[0]).float()
        tags = functional.normalize(classes.softmax(-1) @ self.class_vectors, dim=-1)
        first = functional.normalize(head_of(self.heads, 0).raw(pooled[0]) + self.tag_weight * tags, dim=-1)
        heads = torch.stack([first, self.heads[1](pooled[1])], 1)
        return SeenImages(heads, self.cells(cells if part is None else cells[part]), classes)


class TextTower(nn.Module):
    """The last layers of the text tower, two heads, and the head of the words."""

    def __init__(self, tower: MiniLM, *, hidden: int = 2048, dropout: float = 0.5) -> None:
        super().__init__()
        self.layers = tower.layers[FROZEN_LAYERS:]
        self.layers.requires_grad_(True)
        self.look = nn.Linear(TEXT_WIDTH, 1)
        self.weigh = nn.Linear(TEXT_WIDTH, 1)
        self.heads = nn.ModuleList(Head(TEXT_WIDTH, hidden=hidden, out=HEAD_DIM, dropout=dropout) for _ in range(HEADS))
        self.words = Head(TEXT_WIDTH, hidden=512, out=WORD_DIM, dropout=0.0)
        quieten(head_of(self.heads, 0))

    def forward(self, states: Tensor, mask: Tensor, part: Tensor | None = None) -> ReadTexts:
        """States of the frozen layers (B, T, 384), and 1 for tokens, 0 for padding (B, T).

        `part`: the numbers of the texts whose words are wanted; None: all.
        """
        present = mask.to(states.dtype)
        for layer in self.layers:
            states = layer(states, additive_mask(present))
        return self.read_states(states, mask, part)

    def read_states(self, states: Tensor, mask: Tensor, part: Tensor | None = None) -> ReadTexts:
        """States of the last layer (B, T, 384), and the mask (B, T)."""
        present = mask.to(states.dtype)
        mean = functional.normalize((states * present[:, :, None]).sum(1).float(), dim=-1)
        weighted = (states * _weights(self.look(states), present)).sum(1).float()
        first = functional.normalize(head_of(self.heads, 0).raw(mean) + mean, dim=-1)
        heads = torch.stack([first, self.heads[1](weighted)], 1)
        if part is not None:
            states, present = states[part], present[part]
        return ReadTexts(heads, self.words(states), _weights(self.weigh(states), present)[:, :, 0])


def _weights(logits: Tensor, present: Tensor) -> Tensor:
    """Softmax over the tokens that are there: (B, T, 1) and (B, T) -> float32 (B, T, 1)."""
    return (logits.float() + (1 - present.float())[:, :, None] * -1e4).softmax(1)


def quieten(head: Head) -> None:
    """Make a new head's output small, so that what it is added to prevails at first."""
    last = head.net[-1]
    with torch.no_grad():
        last.get_parameter("weight").mul_(0.05)
        last.get_parameter("bias").zero_()


def head_of(heads: nn.ModuleList, number: int) -> Head:
    """One of a tower's heads."""
    head = heads[number]
    if not isinstance(head, Head):
        raise TypeError(f"module {number} is no head")
    return head


def embedding(heads: Tensor) -> Tensor:
    """Unit vectors of the heads (..., 2, 384) -> unit vectors (..., 768)."""
    flat: Tensor = heads.flatten(-2) / heads.shape[-2] ** 0.5
    return flat


def join(parts: Sequence[ReadTexts]) -> ReadTexts:
    """Texts that were read in groups of different lengths, as one."""
    length = max(part.words.shape[1] for part in parts)
    words = [functional.pad(part.words, (0, 0, 0, length - part.words.shape[1])) for part in parts]
    weights = [functional.pad(part.weights, (0, length - part.weights.shape[1])) for part in parts]
    return ReadTexts(torch.cat([part.heads for part in parts]), torch.cat(words), torch.cat(weights))


def word_match(read: ReadTexts, seen: SeenImages) -> Tensor:
    """Each word looks for its best cell: the weighted mean of the cosines, for all pairs (texts, images).

    Late interaction as in ColBERT (Khattab & Zaharia 2020) and FILIP (Yao et al. 2022).
    """
    text, place = torch.nonzero(read.weights.detach(), as_tuple=True)  # without padding
    similarity = read.words[text, place] @ seen.cells.flatten(0, 1).T  # (words, images * 16)
    by_image = similarity.reshape(len(similarity), -1, seen.cells.shape[1])
    best = by_image.max(-1).values.float() * read.weights[text, place][:, None]
    return torch.zeros(len(read.words), len(seen.cells), device=best.device).index_add(0, text, best)
