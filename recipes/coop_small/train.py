"""Train both towers end to end on photographs and drawings, in batches that mix them."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from milvus_coop.offline.training.efficientnet_lite import EfficientNetLite
from milvus_coop.types import Array
from recipes.coop_small.features import Captioned
from recipes.coop_small.minilm import MiniLM
from recipes.coop_small.texts import HalfReadTexts
from recipes.coop_small.towers import HEADS, ImageTower, ReadTexts, SeenImages, TextTower, head_of, join, word_match

logger = logging.getLogger(__name__)
LENGTH_GROUPS = 4
Rows = Callable[[Sequence[str]], Array]
"""Texts to their numbers."""


@dataclass(frozen=True)
class TrainRecipe:
    """Every number of the training; chosen on dev."""

    epochs: int = 24
    """Passes over the photographs."""
    photos: int = 512
    """Photographs in a batch, each with `captions` of its captions."""
    captions: int = 2
    drawings: int = 256
    """Drawings in a batch, each with one text."""
    weaker_share: float = 0.3
    """The share of draws in which a drawing's text is one of its weaker texts."""
    source_weights: dict[str, float] = field(default_factory=lambda: {"stamps": 5.0, "clipart": 1.7})
    """The factor by which a drawing of a source is drawn more often than one of another source."""
    heads_rate: float = 6e-4
    backbone_rate: float = 4e-4
    text_rate: float = 1.2e-4
    weight_decay: float = 0.05
    dropout: float = 0.5
    dropped_words: float = 0.15
    """Probability that a word of a text is left out."""
    dropped_blocks: float = 0.15
    """Probability that the last block is left out for an image; it grows with depth (Huang et al. 2016, "Stochastic depth")."""
    hidden: int = 2048
    word_weight: float = 0.5
    """Weight of the loss of words and cells beside those of the heads."""
    memory_weight: float = 0.2
    """Weight of the loss that keeps the classifier's answers what they were before training (Li & Hoiem 2016)."""
    word_images: int = 96
    """Number of images whose words and cells take part in that loss. They are drawn again for every batch."""
    seed: int = 1


class Towers(nn.Module):
    """Both towers and the temperatures of their losses."""

    def __init__(self, backbone: EfficientNetLite, image: ImageTower, whole_text: MiniLM, text: TextTower) -> None:
        """`backbone`, `whole_text`: the pretrained networks, whose upper parts are those of `image` and `text`."""
        super().__init__()
        self.image, self.text = image, text
        self.log_scale = nn.Parameter(torch.full((3,), 20.0).log())
        self._whole = (backbone, whole_text)  # in a tuple, so that their parameters are not counted twice

    @property
    def backbone(self) -> EfficientNetLite:
        """The whole backbone."""
        return self._whole[0]

    @property
    def whole_text(self) -> MiniLM:
        """The whole text network."""
        return self._whole[1]

    def standardise(self, cells: Tensor, states: Tensor, mask: Tensor) -> None:
        """Set what the heads' inputs are reduced by, from cells (n, 16, 1280), and texts that were read to the end (m, T, 384)."""
        for number in range(HEADS):
            head_of(self.image.heads, number).standardise(cells.mean(1))
        self.image.cells.standardise(cells.flatten(0, 1))
        total = (states * mask[:, :, None]).sum(1)
        head_of(self.text.heads, 0).standardise(functional.normalize(total, dim=-1))
        head_of(self.text.heads, 1).standardise(total / mask.sum(1, keepdim=True))
        self.text.words.standardise(states[mask > 0])


@dataclass(frozen=True)
class ImageSource:
    """Images of one kind, the rows of their texts, and how often each image is drawn.

    `images`: maps of the lower half (n, views, 80, 14, 14), cells (n, views, 16, 1280), or pixels (n, 3, 224, 224).
    """

    images: Any
    text_rows: Sequence[Array]
    labels: Array
    """A number per image; images of one label are never negatives of each other."""
    weights: Array
    classes: Array | None = None
    """The classifier's answers before training, logits (n, views, 1000)."""

    def __len__(self) -> int:
        return len(self.text_rows)

    def said(self, number: int, view: int) -> Array:
        """The classifier's answer for one view of an image before training, logits (1000,)."""
        if self.classes is None:
            raise ValueError("this source was made without the classifier's answers")
        said: Array = self.classes[number, view]
        return said


def photo_source(items: Sequence[Captioned], images: Any, rows: Rows, classes: Array | None = None) -> ImageSource:
    """Photographs; all their captions are of equal rank."""
    return ImageSource(
        images, [rows(item.texts) for item in items], np.arange(len(items)), np.full(len(items), 1 / len(items)), classes
    )


def drawing_source(
    items: Sequence[Captioned], images: Any, rows: Rows, weights: dict[str, float], classes: Array | None = None
) -> ImageSource:
    """Drawings; those with the same caption share a label."""
    _, labels = np.unique([item.texts[0].lower().strip(" .") for item in items], return_inverse=True)
    share = np.array([weights.get(item.source, 1.0) for item in items])
    return ImageSource(images, [rows(item.texts) for item in items], -1 - labels, share / share.sum(), classes)


@dataclass(frozen=True)
class Choice:
    """The images and texts of a step: numbers of photographs and of drawings, and their texts.

    `rows`: numbers of the texts; `owner`: the image of each, photographs first; `ignored`: pairs that are neither right nor
    wrong, bool (texts, images).
    """

    photos: Array
    drawings: Array
    rows: Array
    owner: Array
    ignored: Array


class Chooser:
    """Choices without end: photographs in shuffled passes, drawings by their weights."""

    def __init__(self, photos: ImageSource | None, drawings: ImageSource, recipe: TrainRecipe) -> None:
        self._photos, self._drawings, self._recipe = photos, drawings, recipe
        self._dice = np.random.default_rng(recipe.seed)
        self._order = self._passes()
        self.per_epoch = max(1, len(photos) // recipe.photos) if photos else 32

    def next(self) -> Choice:
        """Choose the images and texts of a step."""
        recipe, dice = self._recipe, self._dice
        photos, texts, labels = np.empty(0, np.int64), list[Array](), list[int]()
        if self._photos:
            photos = next(self._order)
            for number in photos.tolist():
                rows = self._photos.text_rows[number]
                texts.append(dice.choice(rows, min(recipe.captions, len(rows)), replace=False))
            labels += self._photos.labels[photos].tolist()
        count = recipe.drawings if self._photos else recipe.drawings + recipe.photos
        drawings = dice.choice(len(self._drawings), count, replace=False, p=self._drawings.weights)
        for number in drawings.tolist():
            rows = self._drawings.text_rows[number]
            weaker = len(rows) > 1 and dice.random() < recipe.weaker_share
            texts.append(rows[dice.integers(1, len(rows))][None] if weaker else rows[:1])
        label = np.array(labels + self._drawings.labels[drawings].tolist())
        rows, owner = np.concatenate(texts), np.repeat(np.arange(len(texts)), [len(some) for some in texts])
        same = label[owner][:, None] == label[None, :]
        found, again = np.unique(rows, return_inverse=True)
        says = np.zeros((len(found), len(texts)), bool)
        says[again, owner] = True
        same |= says[again]  # another image has the same text
        right = owner[:, None] == np.arange(len(texts))[None, :]
        return Choice(photos, drawings, rows, owner, same & ~right)

    def _passes(self) -> Iterator[Array]:
        while self._photos:
            order = self._dice.permutation(len(self._photos))
            yield from (part for part in np.split(order, range(self._recipe.photos, len(order), self._recipe.photos))[:-1])


@dataclass(frozen=True)
class MapBatch:
    """One step's data. `owner` says which image each text belongs to."""

    maps: Tensor
    texts: Sequence[tuple[Tensor, Tensor]]
    """States and masks, in groups of about the same length."""
    owner: Tensor
    ignored: Tensor
    """bool (texts, images): pairs that are neither right nor wrong."""
    classes: Tensor | None
    """The classifier's answers for the images before training, logits (images, 1000)."""


class MapFeed:
    """Batches without end, of maps and of texts that are read half."""

    def __init__(self, photos: ImageSource | None, drawings: ImageSource, texts: HalfReadTexts, recipe: TrainRecipe) -> None:
        self._photos, self._drawings, self._texts, self._dropped = photos, drawings, texts, recipe.dropped_words
        self._chooser = Chooser(photos, drawings, recipe)
        self._dice = np.random.default_rng(recipe.seed)
        self.per_epoch = self._chooser.per_epoch

    def next(self) -> MapBatch:
        """Gather what is chosen."""
        choice, dice = self._chooser.next(), self._dice
        chosen = [(self._photos, number) for number in choice.photos] + [(self._drawings, number) for number in choice.drawings]
        views = [int(dice.integers(source.images.shape[1])) for source, _ in chosen if source]
        images = [(source, number, view) for (source, number), view in zip(chosen, views, strict=True) if source]
        maps = np.stack([source.images[number, view] for source, number, view in images])
        classes = None
        if self._drawings.classes is not None:
            classes = torch.from_numpy(np.stack([source.said(number, view) for source, number, view in images])).float()
        flipped = dice.random(len(maps)) < 0.5
        if maps.ndim == 4:
            maps[flipped] = maps[flipped, :, :, ::-1]
        by_length = np.argsort(self._texts.lengths(choice.rows), kind="stable")
        texts = [self._text(part) for part in np.array_split(choice.rows[by_length], LENGTH_GROUPS)]
        owner, ignored = torch.from_numpy(choice.owner[by_length]), torch.from_numpy(choice.ignored[by_length])
        return MapBatch(torch.from_numpy(maps), texts, owner, ignored, classes)

    def _text(self, rows: Array) -> tuple[Tensor, Tensor]:
        """States and mask of texts, without some of their words."""
        states, mask = self._texts.batch(rows)
        dropped = torch.from_numpy(self._dice.random(mask.shape) < self._dropped)
        dropped[:, 0] = False  # the marks of start and end stay
        dropped[torch.arange(len(rows)), mask.sum(1).long() - 1] = False
        return states, mask.masked_fill(dropped, 0.0)


def contrast(scores: Tensor, owner: Tensor, ignored: Tensor) -> Tensor:
    """InfoNCE in both directions (van den Oord et al. 2018; Radford et al. 2021), an image may have several texts.

    Args:
        scores: (texts, images), already divided by the temperature.
        owner: the image of each text (texts,).
        ignored: pairs that are left out, bool (texts, images).
    """
    scores = scores.masked_fill(ignored, -1e4)
    to_image = functional.cross_entropy(scores, owner)
    right = torch.zeros_like(scores, dtype=torch.bool)
    right[torch.arange(len(owner), device=owner.device), owner] = True
    others = scores.masked_fill(right, -1e4).logsumexp(0)  # (images,): all texts of other images
    own = scores[torch.arange(len(owner), device=owner.device), owner]
    to_text = -(own - torch.logaddexp(own, others[owner])).mean()  # each text against those of other images alone
    return (to_image + to_text) / 2


def batch_loss(towers: Towers, batch: MapBatch, recipe: TrainRecipe) -> Tensor:
    """The losses of a batch of maps (or of cells, where the towers are frozen)."""
    images, chosen = batch.maps.bfloat16(), torch.randperm(len(batch.maps))[: recipe.word_images]
    frozen = images.ndim == 3
    if frozen:
        seen = towers.image.read_cells(images, chosen)
    else:
        seen = towers.image.look_at(towers.image.upper(images, recipe.dropped_blocks), chosen)
    place = torch.full((len(images),), -1).index_put((chosen,), torch.arange(len(chosen)))[batch.owner]
    parts = [torch.nonzero(part >= 0)[:, 0] for part in torch.split(place, [len(mask) for _, mask in batch.texts])]
    see = towers.text.read_states if frozen else towers.text
    read = join([see(states, mask, part) for (states, mask), part in zip(batch.texts, parts, strict=True)])
    loss = match_loss(towers, seen, read, batch.owner, batch.ignored, chosen, recipe)
    if batch.classes is not None:
        loss = loss + recipe.memory_weight * memory_loss(seen.classes, batch.classes)
    return loss


def match_loss(
    towers: Towers, seen: SeenImages, read: ReadTexts, owner: Tensor, ignored: Tensor, chosen: Tensor, recipe: TrainRecipe
) -> Tensor:
    """The mean loss of both heads, and that of words and cells of the chosen images and their texts."""
    place = torch.full((len(seen.heads),), -1, device=owner.device)
    place = place.index_put((chosen,), torch.arange(len(chosen), device=owner.device))[owner]
    scale = towers.log_scale.exp().clamp(max=100.0)
    with torch.autocast(owner.device.type, enabled=False):
        scores = [scale[head] * read.heads[:, head] @ seen.heads[:, head].T for head in range(seen.heads.shape[1])]
    losses = [contrast(some, owner, ignored) for some in scores]
    part = place >= 0
    words = contrast(scale[-1] * word_match(read, seen), place[part], ignored[part][:, chosen])
    return torch.stack(losses).mean() + recipe.word_weight * words


def memory_loss(now: Tensor, before: Tensor) -> Tensor:
    """The distance by which the classifier's answers have moved: Kullback-Leibler divergence between logits (B, 1000)."""
    return functional.kl_div(now.log_softmax(-1), before.softmax(-1), reduction="batchmean")


def train_towers(towers: Towers, feed: MapFeed, recipe: TrainRecipe, *, end_to_end: bool) -> None:
    """Train the heads alone, or end to end, in bfloat16 where that pays."""
    backbone = [p for p in towers.image.upper.parameters() if p.requires_grad] + list(towers.image.classifier.parameters())
    layers = list(towers.text.layers.parameters())
    known = {id(p) for p in (*towers.image.upper.parameters(), *backbone, *layers)}
    heads = [p for p in towers.parameters() if id(p) not in known]
    groups: list[dict[str, Any]] = [
        {"params": heads, "lr": recipe.heads_rate},
        {"params": backbone, "lr": recipe.backbone_rate},
        {"params": layers, "lr": recipe.text_rate},
    ]
    optimiser = torch.optim.AdamW(groups, weight_decay=recipe.weight_decay)
    total, peaks = recipe.epochs * feed.per_epoch, [group["lr"] for group in groups]
    for parameter in (*backbone, *layers):
        parameter.requires_grad_(end_to_end)
    started = time.monotonic()
    towers.train()
    running = 0.0
    for step in range(total):
        for group, peak in zip(optimiser.param_groups, peaks, strict=True):
            group["lr"] = peak * schedule(step, total)
        batch = feed.next()
        with torch.autocast("cpu", torch.bfloat16):
            loss = batch_loss(towers, batch, recipe)
        optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_([p for p in towers.parameters() if p.grad is not None], 1.0)
        optimiser.step()
        running = 0.95 * running + 0.05 * loss.item()
        if step % feed.per_epoch == feed.per_epoch - 1:
            epoch = step // feed.per_epoch + 1
            spent = time.monotonic() - started
            logger.info("epoch %d of %d, loss %.3f, %.0f s", epoch, recipe.epochs, running / (1 - 0.95 ** (step + 1)), spent)


def schedule(step: int, total: int) -> float:
    """Linear warm-up over a tenth, then a cosine down to zero."""
    warm = max(1, total // 10)
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + float(np.cos(np.pi * (step - warm) / max(1, total - warm))))
