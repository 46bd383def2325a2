"""Train both towers as a whole on a GPU, on pixels that are changed again for every step.

`python -m recipes.coop_small.whole PARTS OUT` reads the parts that the step `features --device cuda` wrote, and writes the weights
in parts. It is made for a machine that has a GPU and this repository, but no data.
"""

from __future__ import annotations

import argparse
import copy
import logging
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from milvus_coop.offline.training.efficientnet_lite import PIXEL_MEAN, PIXEL_STD, EfficientNetLite
from milvus_coop.offline.training.networks.transformer import additive_mask
from milvus_coop.types import Array
from recipes.coop_small.backbone import FROZEN_BLOCKS, LowerHalf, UpperHalf, left_out
from recipes.coop_small.hubs import BANK, NEAREST, Hubs
from recipes.coop_small.minilm import MiniLM
from recipes.coop_small.parts import Packed, save_in_parts, unpack
from recipes.coop_small.texts import TEXT_SPEC, LowerLayers
from recipes.coop_small.towers import ImageTower, ReadTexts, SeenImages, TextTower, embedding, join
from recipes.coop_small.train import (
    Choice,
    Chooser,
    Towers,
    TrainRecipe,
    drawing_source,
    match_loss,
    memory_loss,
    photo_source,
    schedule,
)

logger = logging.getLogger(__name__)
KEEP_EVERY = 20
"""Number of epochs after which the current weights are written, because the machine may be lost at any moment."""
_SPECIAL_IDS = (0, 101, 102)
"""Padding, start and end of a text."""


@dataclass(frozen=True)
class WholeRecipe:
    """Every number of the training; chosen on dev."""

    heads: TrainRecipe = field(
        default_factory=lambda: TrainRecipe(epochs=12, photos=512, captions=3, drawings=256, heads_rate=1.2e-3, word_images=128)
    )
    """The first training: heads alone, the towers stay as they were pretrained."""
    towers: TrainRecipe = field(
        default_factory=lambda: TrainRecipe(
            epochs=84,
            photos=512,
            captions=4,
            drawings=256,
            heads_rate=6e-4,
            backbone_rate=4e-4,
            text_rate=1.2e-4,
            word_images=128,
            memory_weight=0.1,
            dropped_words=0.15,
            dropped_blocks=0.2,
        )
    )
    """The second: both towers whole, but the first blocks of the backbone and the table of word vectors."""
    frozen_blocks: int = 3
    lower_rate: float = 0.4
    """Learning rates of the lower halves as a share of those of the upper halves."""
    smallest_crop: float = 0.25
    remembered: int = 192
    """Images of a step whose classes are compared with those before training."""


def changed(pixels: Tensor, smallest: float) -> Tensor:
    """Random crops of at least a share of the area, turned a little, flipped, of changed light and colour.

    uint8 (B, 3, S, S) -> float32 (B, 3, S, S), values from 0 to 255.
    """
    count, device = len(pixels), pixels.device

    def dice(low: float, high: float) -> Tensor:
        return torch.empty(count, device=device).uniform_(low, high)

    area, ratio, angle = dice(smallest, 1.0), dice(-0.3, 0.3).exp(), dice(-0.1, 0.1)
    width, height = (area * ratio).sqrt().clamp(max=1.0), (area / ratio).sqrt().clamp(max=1.0)
    flip = torch.where(dice(0, 1) < 0.5, -1.0, 1.0)
    rows = [
        torch.stack([flip * width * angle.cos(), -height * angle.sin(), dice(-1, 1) * (1 - width)], 1),
        torch.stack([flip * width * angle.sin(), height * angle.cos(), dice(-1, 1) * (1 - height)], 1),
    ]
    grid = functional.affine_grid(torch.stack(rows, 1), [*pixels.shape], align_corners=False)
    images = functional.grid_sample(pixels.float(), grid, padding_mode="border", align_corners=False)
    grey = images.mean(1, keepdim=True)
    images = grey + (images - grey) * dice(0.6, 1.4)[:, None, None, None]
    middle = images.mean((1, 2, 3), keepdim=True)
    images = (middle + (images - middle) * dice(0.7, 1.3)[:, None, None, None]) * dice(0.7, 1.3)[:, None, None, None]
    return images.clamp(0.0, 255.0)


def feature_map(backbone: EfficientNetLite, images: Tensor, dropped: float) -> Tensor:
    """The backbone's feature grid, from values of 0 to 255, with blocks left out at random: (B, 3, S, S) -> (B, 1280, 7, 7)."""
    hidden = ((images - PIXEL_MEAN) / PIXEL_STD).contiguous(memory_format=torch.channels_last)
    hidden = functional.relu6(backbone.stem(hidden))
    last = len(backbone.blocks) - 1
    for number, block in enumerate(backbone.blocks):
        hidden = left_out(block, hidden, block(hidden), dropped * number / last)
    return functional.relu6(backbone.head(hidden))


class Trainer:
    """Towers, their data and the recipe on one device."""

    def __init__(self, packed: Packed, recipe: WholeRecipe, device: str) -> None:
        torch.manual_seed(recipe.heads.seed)
        self.packed, self.recipe, self.device = packed, recipe, torch.device(device)
        self.ids = packed.ids.to(device)
        self.pixels = {name: pixels.to(device) for name, pixels in packed.pixels.items()}
        self.towers = new_towers(packed, recipe.heads).to(device)
        for module in (self.towers.backbone, self.towers.whole_text):
            module.to(device)
        self.lower_text = LowerLayers(self.towers.whole_text)
        self.before = copy.deepcopy(self.towers.backbone).eval().requires_grad_(False)
        self._row = {text: number for number, text in enumerate(packed.texts)}

    def rows(self, texts: Any) -> Array:
        """The numbers of texts."""
        return np.array([self._row[text] for text in texts], np.int64)

    def autocast(self) -> torch.autocast:
        """bfloat16 where that pays."""
        return torch.autocast(self.device.type, torch.bfloat16)

    def chooser(self, recipe: TrainRecipe) -> Chooser:
        """Choices among the training images."""
        items = self.packed.items
        photos = photo_source(items["photos_train"], None, self.rows) if items.get("photos_train") else None
        return Chooser(photos, drawing_source(items["drawings_train"], None, self.rows, recipe.source_weights), recipe)

    def prepare_heads(self) -> None:
        """Set what the heads' inputs are reduced by."""
        towers = self.towers.eval()
        sample = [
            pixels[:: 1 + len(pixels) // 1500] for name, pixels in self.pixels.items() if name.endswith("train") and len(pixels)
        ]
        with torch.no_grad(), self.autocast():
            weights = towers.image.cell_weights
            maps = [feature_map(towers.backbone, some.float(), 0.0).float() for part in sample for some in torch.split(part, 256)]
            cells = torch.cat([weights @ grid.flatten(2).transpose(1, 2) for grid in maps]).float()
            ids = self.ids[:: 1 + len(self.ids) // 2000]
            states = self.lower_text(ids, (ids > 0).long())
            for layer in towers.text.layers:
                states = layer(states, additive_mask((ids > 0).to(states.dtype)))
        towers.standardise(cells, states.float(), (ids > 0).float())

    def train(self, recipe: TrainRecipe, *, whole: bool, keep: Callable[[], None] = lambda: None) -> None:
        """Train the heads, or everything. `keep` is called every `KEEP_EVERY` epochs."""
        towers, chooser = self.towers.train(), self.chooser(recipe)
        groups = self._groups(recipe, whole=whole)
        optimiser = torch.optim.AdamW(groups, weight_decay=recipe.weight_decay)
        parameters = [p for group in groups for p in group["params"]]
        peaks, total = [group["lr"] for group in groups], recipe.epochs * chooser.per_epoch
        started, running = time.monotonic(), torch.zeros((), device=self.device)
        ahead = ThreadPoolExecutor(1)  # chooses for the next step meanwhile
        following = ahead.submit(chooser.next)
        for step in range(total):
            choice, following = following.result(), ahead.submit(chooser.next)
            for group, peak in zip(optimiser.param_groups, peaks, strict=True):
                group["lr"] = peak * schedule(step, total)
            with self.autocast():
                loss = self._loss(choice, recipe, whole=whole)
            optimiser.zero_grad(set_to_none=True)
            torch.autograd.backward(loss)
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimiser.step()
            running = 0.95 * running + 0.05 * loss.detach()
            if step % (KEEP_EVERY * chooser.per_epoch) == KEEP_EVERY * chooser.per_epoch - 1:
                keep()
            if step % (4 * chooser.per_epoch) == 4 * chooser.per_epoch - 1:
                value, spent = running.item() / (1 - 0.95 ** (step + 1)), time.monotonic() - started
                logger.info("epoch %d of %d, loss %.3f, %.0f s", (step + 1) // chooser.per_epoch, recipe.epochs, value, spent)
        ahead.shutdown()
        towers.eval()

    def _groups(self, recipe: TrainRecipe, *, whole: bool) -> list[dict[str, Any]]:
        """Parameters with their peak learning rates."""
        towers, backbone, text = self.towers, self.towers.backbone, self.towers.whole_text
        for module in (backbone, text):
            module.requires_grad_(False)
        shares = {
            "upper": ([*backbone.blocks[FROZEN_BLOCKS:], backbone.head, backbone.classifier], recipe.backbone_rate),
            "lower": (
                list(backbone.blocks[self.recipe.frozen_blocks : FROZEN_BLOCKS]),
                recipe.backbone_rate * self.recipe.lower_rate,
            ),
            "text": (list(towers.text.layers), recipe.text_rate),
            "lower text": (list(self.lower_text.layers), recipe.text_rate * self.recipe.lower_rate),
        }
        groups = []
        for modules, rate in shares.values() if whole else ():
            parameters = [p.requires_grad_() for module in modules for p in module.parameters()]
            groups.append({"params": parameters, "lr": rate})
        inside = {id(p) for p in (*backbone.parameters(), *text.parameters())}
        groups.append({"params": [p for p in towers.parameters() if id(p) not in inside], "lr": recipe.heads_rate})
        return groups

    def _loss(self, choice: Choice, recipe: TrainRecipe, *, whole: bool) -> Tensor:
        device, share = self.device, self.recipe
        parts = [
            self.pixels[f"{kind}_train"][torch.from_numpy(numbers).to(device)]
            for kind, numbers in (("photos", choice.photos), ("drawings", choice.drawings))
            if len(numbers)
        ]
        images = changed(torch.cat(parts), share.smallest_crop)
        ids = self.ids[torch.from_numpy(choice.rows).to(device)]
        ids = ids[:, : int((ids > 0).sum(1).max())]
        mask = ids > 0
        if whole:
            special = torch.isin(ids, torch.tensor(_SPECIAL_IDS, device=device))
            mask &= special | (torch.rand(ids.shape, device=device) >= recipe.dropped_words)
        owner, ignored = torch.from_numpy(choice.owner).to(device), torch.from_numpy(choice.ignored).to(device)
        chosen = torch.randperm(len(images), device=device)[: recipe.word_images]
        taking_part = torch.nonzero(torch.isin(owner, chosen))[:, 0]
        with torch.set_grad_enabled(whole):
            grid = feature_map(self.towers.backbone, images, recipe.dropped_blocks if whole else 0.0)
            states = self.lower_text(ids, mask.long())
        seen = self.towers.image.look_at(grid, chosen)
        read = self.towers.text(states, mask.long(), taking_part)
        loss = match_loss(self.towers, seen, read, owner, ignored, chosen, recipe)
        if whole and recipe.memory_weight:
            some = torch.randperm(len(images), device=device)[: share.remembered]
            with torch.no_grad():
                said = self.before.classifier(feature_map(self.before, images[some], 0.0).mean((2, 3)))
            loss = loss + recipe.memory_weight * memory_loss(seen.classes[some], said.float())
        return loss

    @torch.no_grad()
    def see(self, pixels: Tensor) -> SeenImages:
        """Images without changes, in float32."""
        parts = [
            self.towers.image.look_at(feature_map(self.towers.backbone, some.float(), 0.0)) for some in torch.split(pixels, 250)
        ]
        return SeenImages(*(torch.cat(values) for values in zip(*parts, strict=True)))

    @torch.no_grad()
    def read(self, rows: Array) -> ReadTexts:
        """Texts with these numbers, in float32."""
        ids = self.ids[torch.from_numpy(rows).to(self.device)]
        return join(
            [self.towers.text(self.lower_text(some, (some > 0).long()), (some > 0).long()) for some in torch.split(ids, 500)]
        )

    def judge(self, name: str) -> dict[str, list[float]]:
        """Log and return recalls on dev, in percent, in both directions; of photographs without and with hub correction."""
        found: dict[str, list[float]] = {}
        dice = np.random.default_rng(0)
        self.towers.eval()
        for group in ("photos_dev", "drawings_cross", "drawings_dev"):
            items = self.packed.items.get(group)
            if not items:
                continue
            photos = group.startswith("photos")
            captions = [self.rows(item.texts if photos else item.texts[:1]) for item in items]
            rows, number = np.unique(np.concatenate(captions), return_inverse=True)
            right = np.zeros((len(rows), len(items)), bool)
            right[number, np.repeat(np.arange(len(items)), [len(some) for some in captions])] = True
            texts, images = embedding(self.read(rows).heads), embedding(self.see(self.pixels[group]).heads)
            found[group] = _recalls(texts @ images.T, torch.from_numpy(right).to(self.device))
            if photos:
                bank = np.unique(np.concatenate([self.rows(item.texts) for item in self.packed.items["photos_train"]]))
                text_bank = embedding(self.read(dice.permutation(bank)[: BANK[0]]).heads)
                chosen = torch.from_numpy(dice.permutation(len(self.pixels["photos_train"]))[: BANK[1]]).to(self.device)
                image_bank = embedding(self.see(self.pixels["photos_train"][chosen]).heads)
                text_hubs = Hubs(image_bank, min(NEAREST[1], len(image_bank)), images=False)
                image_hubs = Hubs(text_bank, min(NEAREST[0], len(text_bank)), images=True)
                scores = text_hubs(texts) @ image_hubs(images).T
                found[f"{group}, hubs"] = _recalls(scores, torch.from_numpy(right).to(self.device))
        logger.info("%s: %s", name, "; ".join(f"{group} {values}" for group, values in found.items()))
        return found


def _recalls(scores: Tensor, right: Tensor) -> list[float]:
    found = []
    for some, truth in ((scores, right), (scores.T, right.T)):
        hits = truth.gather(1, some.topk(min(10, some.shape[1]), dim=1).indices)
        found += [round(100 * hits[:, :k].any(1).float().mean().item(), 1) for k in (1, 5, 10)]
    return found


def whole_state(towers: Towers) -> dict[str, Tensor]:
    """The weights of the towers and of their lower halves, but for the table of word vectors, which is never trained."""
    state = {name: value.detach().clone() for name, value in towers.state_dict().items()}
    for prefix, module in _lower(towers).items():
        state |= {
            f"{prefix}.{name}": value.detach().clone() for name, value in module.state_dict().items() if name != "words.weight"
        }
    return state


def load_whole_state(towers: Towers, state: Mapping[str, Tensor]) -> None:
    """Set the weights of the towers, and of their lower halves where `state` has them."""
    lower = _lower(towers)
    for prefix, module in lower.items():
        own = {name.removeprefix(f"{prefix}."): value for name, value in state.items() if name.startswith(f"{prefix}.")}
        if own:
            missing = module.load_state_dict(own, strict=False)
            if missing.unexpected_keys or set(missing.missing_keys) - {"words.weight"}:
                raise ValueError(f"the weights do not fit {prefix}: {missing}")
    towers.load_state_dict({name: value for name, value in state.items() if not name.startswith(tuple(lower))})


def _lower(towers: Towers) -> dict[str, nn.Module]:
    return {"lower_image": LowerHalf(towers.backbone), "lower_text": LowerLayers(towers.whole_text)}


def new_towers(packed: Packed, recipe: TrainRecipe) -> Towers:
    """Pretrained towers with new heads."""
    backbone, text = EfficientNetLite("lite0"), MiniLM(positions=TEXT_SPEC.max_length)
    backbone.load_state_dict({name: value.float() for name, value in packed.backbone.items()})
    text.load_state_dict({name: value.float() for name, value in packed.text.items()})
    image = ImageTower(UpperHalf(backbone), backbone.classifier, packed.class_vectors, hidden=recipe.hidden, dropout=recipe.dropout)
    return Towers(backbone, image, text, TextTower(text, hidden=recipe.hidden, dropout=recipe.dropout))


def train_whole(
    packed: Packed, recipe: WholeRecipe, device: str, keep: Callable[[dict[str, Tensor]], None] = lambda _: None
) -> dict[str, Tensor]:
    """The weights after both trainings, in float32 on the CPU. `keep` gets the weights so far every `KEEP_EVERY` epochs."""
    torch.backends.cudnn.benchmark = True
    torch.set_float32_matmul_precision("high")
    trainer = Trainer(packed, recipe, device)
    trainer.prepare_heads()
    trainer.train(recipe.heads, whole=False)
    trainer.judge("heads")
    trainer.train(recipe.towers, whole=True, keep=lambda: keep(whole_state(trainer.towers)))
    trainer.judge("towers")
    return {name: value.cpu() for name, value in whole_state(trainer.towers).items()}


def main() -> None:
    """Read parts, train, and write the weights in parts."""
    parser = argparse.ArgumentParser(prog="python -m recipes.coop_small.whole", description=__doc__)
    parser.add_argument("parts", type=Path, help="folder of the parts")
    parser.add_argument("out", type=Path, help="folder for the weights, in files of at most 15 MB")
    parser.add_argument("--device", default="cuda")
    asked = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")

    def keep(state: dict[str, Tensor]) -> None:
        save_in_parts(state, asked.out)

    keep(train_whole(unpack(asked.parts), WholeRecipe(), asked.device, keep))


if __name__ == "__main__":
    main()
