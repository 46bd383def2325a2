"""The losses of the tasks of a round (see `order`), and the batch that they read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from milvus_coop.offline.training.networks.one_stream import OneStream
from milvus_coop.offline.training.objectives.matching import block_loss, list_loss, match_loss
from milvus_coop.offline.training.objectives.negatives import hard_negatives, random_negatives
from milvus_coop.offline.training.objectives.pretraining import coin_loss, fill_loss, mask_words
from milvus_coop.offline.training.objectives.retrieval import distilled, hardest_triplet, info_nce, sampled_triplet, scaled_cosines

_DISTILLED = 16
"""Maximum number of texts and of images per distillation step. The cross-encoder scores all their pairs."""
_LENGTHS = 4
"""Number of parts into which a batch is cut by text length on a CPU, where padding costs time. On a GPU one part is faster."""


@dataclass(frozen=True)
class TrainingBatch:
    """B matching pairs, followed by mined negatives if the task asks for them."""

    visual: Tensor
    """Pixels or features of B images, then of the negative images."""
    input_ids: Tensor
    """Token ids of B captions, then of the negative captions; int64 (B + ..., T)."""
    attention_mask: Tensor
    same: Tensor
    """bool (B, B), True where text i and image j are not negatives of each other. If the task has blocks, it covers all rows."""
    negative_images: Tensor
    """Rows of `visual` that are mined negatives of text i, int64 (B, n)."""
    negative_texts: Tensor
    """Rows of `input_ids` that are mined negatives of image i, int64 (B, n)."""

    def __len__(self) -> int:
        return len(self.negative_images)


@dataclass(frozen=True)
class Setting:
    """The networks and settings that a loss may use beside the batch."""

    network: OneStream
    retriever: OneStream
    """The bi-encoder that chooses hard negatives: the network itself, or that of another run."""
    margin: float
    generator: torch.Generator


Loss = Callable[[Setting, TrainingBatch], Tensor]


def _embeddings(network: OneStream, batch: TrainingBatch, tokens: Tensor) -> tuple[Tensor, Tensor]:
    def embed(rows: Tensor, longest: int) -> Tensor:
        return network.embed_texts(batch.input_ids[rows, :longest], batch.attention_mask[rows, :longest])

    return _by_length(batch.attention_mask, embed), network.embed_images(tokens)


def _by_length(mask: Tensor, run: Callable[[Tensor, int], Tensor]) -> Tensor:
    """The results of `run` for all rows. Rows of similar length go through it together, cut to the longest of them.

    Args:
        mask: attention mask, int64 (n, T).
        run: takes rows, int64 (m,), and the length of the longest row; returns (m, ...).

    Returns:
        (n, ...), in the order of the rows of `mask`.
    """
    if mask.device.type != "cpu":  # reading the longest length would mean waiting for the device
        return run(torch.arange(len(mask), device=mask.device), mask.shape[1])
    lengths = mask.sum(1)
    order = lengths.argsort(stable=True)
    parts = [run(rows, int(lengths[rows].max())) for rows in order.chunk(_LENGTHS)]
    return torch.cat(parts)[order.argsort()]


def _be_triplet(at: Setting, batch: TrainingBatch) -> Tensor:
    return hardest_triplet(*_embeddings(at.network, batch, at.network.tokens(batch.visual)), batch.same, at.margin)


def _be_nce(at: Setting, batch: TrainingBatch) -> Tensor:
    texts, images = _embeddings(at.network, batch, at.network.tokens(batch.visual))
    return info_nce(scaled_cosines(texts, images, at.network.log_scale), batch.same)


def _ance(at: Setting, batch: TrainingBatch) -> Tensor:
    texts, images = _embeddings(at.network, batch, at.network.tokens(batch.visual))
    n = len(batch)
    by_text = sampled_triplet(texts[:n], images[:n], images[batch.negative_images], at.margin)
    by_image = sampled_triplet(images[:n], texts[:n], texts[batch.negative_texts], at.margin)
    return by_text + by_image


def _match(at: Setting, batch: TrainingBatch, tokens: Tensor, texts: Tensor, images: Tensor) -> Tensor:
    network, cosines = at.network, None
    if network.config.match == "residual":  # there are fewer rows than pairs, so each row is embedded once
        text_rows, image_rows = _embeddings(network, batch, tokens)
        cosines = (text_rows[texts] * image_rows[images]).sum(-1)
    input_ids, mask = batch.input_ids[texts], batch.attention_mask[texts]

    def match(rows: Tensor, longest: int) -> Tensor:
        known = cosines if cosines is None else cosines[rows]
        return network.match(input_ids[rows, :longest], mask[rows, :longest], tokens[images[rows]], known)

    return _by_length(mask, match)


def _swapped(at: Setting, batch: TrainingBatch, tokens: Tensor, wrong_images: Tensor, wrong_texts: Tensor) -> Tensor:
    """The loss with one mismatched pair per matched one: a coin swaps image or caption, if there is a wrong one (not -1)."""
    n = len(batch)
    rows = torch.arange(n)
    coin = torch.rand(n, generator=at.generator) < 0.5
    texts, images = torch.where(coin, rows, wrong_texts), torch.where(coin, wrong_images, rows)
    there = (texts >= 0) & (images >= 0)
    device = tokens.device
    pairs = [torch.cat([rows, part[there]]).to(device) for part in (texts, images)]
    logits = _match(at, batch, tokens, *pairs)
    return match_loss(logits[:n], logits[n:]) if there.any() else match_loss(logits, logits[:0].new_full((1,), -1e4))


def _ce_random(at: Setting, batch: TrainingBatch) -> Tensor:
    wrong = (random_negatives(same, at.generator) for same in (batch.same, batch.same.T))
    return _swapped(at, batch, at.network.tokens(batch.visual), *wrong)


def _ce_hard(at: Setting, batch: TrainingBatch) -> Tensor:
    tokens = at.network.tokens(batch.visual)
    with torch.no_grad():
        texts, images = _embeddings(at.retriever, batch, at.retriever.tokens(batch.visual))
        cosines = texts @ images.T
    wrong = (hard_negatives(c, same, at.generator) for c, same in ((cosines, batch.same), (cosines.T, batch.same.T)))
    return _swapped(at, batch, tokens, *wrong)


def _ce_top(at: Setting, batch: TrainingBatch) -> Tensor:
    wrong = (negatives[:, 0].cpu() for negatives in (batch.negative_images, batch.negative_texts))
    return _swapped(at, batch, at.network.tokens(batch.visual), *wrong)


def _ce_list(at: Setting, batch: TrainingBatch) -> Tensor:
    """The list loss in both directions. A list has the right pair first, then the mined ones."""
    tokens = at.network.tokens(batch.visual)
    rows = torch.arange(len(batch), device=tokens.device)[:, None]
    losses = []
    for texts, images in ((rows, batch.negative_images), (batch.negative_texts, rows)):
        texts, images = (torch.cat([rows, part.expand(-1, batch.negative_images.shape[1])], 1) for part in (texts, images))
        losses.append(list_loss(_match(at, batch, tokens, texts.flatten(), images.flatten()).view(texts.shape)))
    return (losses[0] + losses[1]) / 2


def _ce_block(at: Setting, batch: TrainingBatch) -> Tensor:
    """The block loss over every text with every image of a block, which is a pair and its neighbours."""
    tokens = at.network.tokens(batch.visual)
    first = torch.arange(len(batch), device=tokens.device)[:, None]
    blocks = torch.cat([first, batch.negative_images], 1)  # (B, 1 + n), rows of texts and of images alike
    shape = (len(batch), blocks.shape[1], blocks.shape[1])
    texts, images = blocks[:, :, None].expand(shape), blocks[:, None, :].expand(shape)
    logits = _match(at, batch, tokens, texts.flatten(), images.flatten()).view(shape)
    return block_loss(logits, batch.same[texts, images])


def _mlm(at: Setting, batch: TrainingBatch) -> Tensor:
    """Masked language modelling with the image at hand: VisualBERT (Li et al. 2019), UNITER (Chen et al. 2020).

    Both hide word pieces by BERT's rule and predict them from the other words and all image regions. UNITER hides either words or
    regions, never both. Here the image tokens are never hidden.
    """
    hidden = mask_words(batch.input_ids, batch.attention_mask, at.network.config.vocabulary, at.generator)
    tokens = at.network.tokens(batch.visual)
    logits = at.network.fill(hidden.input_ids, batch.attention_mask, tokens, hidden.masked, hidden.chosen)
    return fill_loss(logits, batch.input_ids[hidden.chosen])


def _itm(at: Setting, batch: TrainingBatch) -> Tensor:
    """Image-text matching as in the pretraining of UNITER (Chen et al. 2020): a coin decides if a pair is kept.

    If it is not kept, another coin decides if its image or its caption is swapped for a random one of the batch. So each pair is
    scored once, matched or mismatched: B pairs. The task `ce` scores every pair in both ways, which is 2 B pairs. `ce-hard` does so
    with one hard negative. ALBEF (Li et al. 2021) has a hard image and a hard caption for each pair, which is 3 B pairs.
    """
    n = len(batch)
    rows = torch.arange(n)
    wrong_images, wrong_texts = (random_negatives(same, at.generator) for same in (batch.same, batch.same.T))
    kept, image = (torch.rand(n, generator=at.generator) < 0.5 for _ in range(2))
    matched = kept | (torch.where(image, wrong_images, wrong_texts) < 0)  # -1: there was nothing to swap with
    texts = torch.where(matched | image, rows, wrong_texts)
    images = torch.where(matched | ~image, rows, wrong_images)
    device = batch.visual.device
    logits = _match(at, batch, at.network.tokens(batch.visual), texts.to(device), images.to(device))
    return coin_loss(logits, matched.to(device))


def _distil(at: Setting, batch: TrainingBatch) -> Tensor:
    tokens = at.network.tokens(batch.visual)
    texts, images = _embeddings(at.network, batch, tokens)
    n = min(_DISTILLED, len(batch))
    left, right = torch.cartesian_prod(torch.arange(n), torch.arange(n)).T.to(tokens.device)
    with torch.no_grad():
        teacher = _match(at, batch, tokens, left, right).view(n, n)
    return distilled(scaled_cosines(texts[:n], images[:n], at.network.log_scale), teacher)


LOSSES: Mapping[str, Loss] = {
    "be": _be_triplet,
    "be-nce": _be_nce,
    "ance": _ance,
    "ce": _ce_random,
    "ce-hard": _ce_hard,
    "ce-top": _ce_top,
    "ce-list": _ce_list,
    "ce-block": _ce_block,
    "distil": _distil,
    "mlm": _mlm,
    "itm": _itm,
}
"""The losses by the names of `order.TASKS`."""


class Objectives(nn.Module):
    """The network with its losses. Each task is one forward call, so that the module can be wrapped for several GPUs."""

    def __init__(self, network: OneStream, retriever: OneStream | None, margin: float) -> None:
        super().__init__()
        self.network = network
        self.margin = margin
        self._retriever = (retriever,)  # in a tuple, because another run's network must not become a part of this module

    def forward(self, task: str, batch: TrainingBatch | None, seed: int) -> Tensor:
        """The task's loss. `seed` decides every draw. Without a batch it is 0, as other processes wait for the gradient."""
        if batch is None:
            return torch.stack([0.0 * value.sum() for value in self.network.parameters() if value.requires_grad]).sum()
        generator = torch.Generator().manual_seed(seed)
        return LOSSES[task](Setting(self.network, self._retriever[0] or self.network, self.margin, generator), batch)
