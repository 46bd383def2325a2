"""A small region detector: it finds the cells of a convolutional network that contain a thing, and describes thing and place.

It takes the role of the Faster R-CNN of Geigle et al. 2022. It is trained to recognise single objects and then frozen. It gives a
few region vectors per image, which contain nothing about captions or relations.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn


class RegionDetector(nn.Module):
    """Cells with heads for presence and for each attribute. The `regions` likeliest cells become region vectors.

    Args:
        stages: (channels, stride) of the convolutions. They are 3 x 3 except for the first, whose kernel is as large as its stride.
        attributes: name -> number of values, such as colour -> 8.
        regions: region vectors per image.
        with_hidden: true to add the cell's hidden vector to a region vector. If the attributes describe a thing completely, it
            only hides them: scenes of shapes are learnt twice as fast without it.
    """

    def __init__(
        self, stages: Sequence[tuple[int, int]], attributes: Mapping[str, int], regions: int, *, with_hidden: bool = True
    ) -> None:
        super().__init__()
        self.with_hidden = with_hidden
        first, patch = stages[0]
        layers: list[nn.Module] = [nn.Conv2d(3, first, patch, stride=patch), nn.ReLU()]
        for (inputs, _), (outputs, stride) in pairwise(stages):
            layers += [nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
        self.stages = nn.Sequential(*layers)
        self.regions = regions
        hidden = stages[-1][0]
        self.presence = nn.Linear(hidden, 1)
        self.heads = nn.ModuleDict({name: nn.Linear(hidden, count) for name, count in attributes.items()})

    def cells(self, pixels: Tensor) -> Tensor:
        """Normalised (B, 3, S, S) -> hidden vectors of all cells (B, G * G, H), for training the heads."""
        hidden: Tensor = self.stages(pixels).flatten(2).transpose(1, 2)
        return hidden

    def forward(self, pixels: Tensor) -> Tensor:
        """(B, 3, S, S) -> (B, regions, F): hidden vector if wanted, probabilities weighted by presence, row and column."""
        hidden = self.cells(pixels)
        side = int(hidden.shape[1] ** 0.5)
        presence = self.presence(hidden).sigmoid()  # (B, G * G, 1)
        known = [head(hidden).softmax(-1) * presence for head in self.heads.values()]
        eye = torch.eye(side, dtype=hidden.dtype, device=hidden.device)
        rows, columns = eye.repeat_interleave(side, 0), eye.repeat(side, 1)  # (G * G, G) each
        places = torch.cat([rows, columns], 1).expand(hidden.shape[0], -1, -1)
        everything = torch.cat([*([hidden] if self.with_hidden else []), *known, places], dim=-1)
        chosen = presence[..., 0].topk(self.regions, dim=1).indices  # (B, regions)
        return everything.gather(1, chosen[:, :, None].expand(-1, -1, everything.shape[-1]))
