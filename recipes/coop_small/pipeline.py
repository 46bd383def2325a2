"""The trainings in order: heads on frozen towers, both towers end to end, hub banks, cross-encoder."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from milvus_coop.models.preprocess.images import decode, to_pixels
from milvus_coop.models.preprocess.texts import Tokenizer
from milvus_coop.types import Array
from recipes.coop_small.backbone import IMAGE_SPEC, SIZE, UpperHalf, load_backbone
from recipes.coop_small.cross_encoder import CrossEncoder, image_tokens
from recipes.coop_small.features import Captioned, read_captioned
from recipes.coop_small.hubs import BANK, NEAREST, Hubs
from recipes.coop_small.networks import ImageEncoder, Networks, SmallTextEncoder
from recipes.coop_small.split import normalise
from recipes.coop_small.texts import TEXT_SPEC, HalfReadTexts, LowerLayers, class_vectors, load_text_tower, tower_folder
from recipes.coop_small.towers import ImageTower, ReadTexts, SeenImages, TextTower, embedding, join
from recipes.coop_small.train import MapFeed, Towers, TrainRecipe, drawing_source, photo_source, train_towers
from recipes.coop_small.train_cross import CrossPool, CrossRecipe, calibrate, cross_validate, stored, train_cross_encoder
from recipes.coop_small.whole import WholeRecipe, load_whole_state

VIEWS = {"photos": 8, "drawings": 2}
"""Changed copies of each training image that the CPU's training learns from."""
_CROSS_SHARE = 14
"""One in so many drawings (whole labels; no stamps) is kept from the towers, for the cross-encoder to learn on."""
_CHUNK = 256
_EDGES = np.array([0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0])


@dataclass(frozen=True)
class Recipe:
    """The whole recipe."""

    heads: TrainRecipe = field(default_factory=lambda: TrainRecipe(epochs=40, captions=1, heads_rate=1.2e-3, dropped_words=0.0))
    """The first training: heads alone, on what the pretrained towers give."""
    towers: tuple[TrainRecipe, ...] = field(
        default_factory=lambda: (
            TrainRecipe(
                epochs=16,
                photos=192,
                captions=3,
                drawings=96,
                heads_rate=4e-4,
                backbone_rate=2e-4,
                text_rate=8e-5,
                dropped_words=0.0,
                dropped_blocks=0.0,
                memory_weight=0.3,
            ),
            TrainRecipe(seed=2),
        )
    )
    """The second: end to end, twice from the same heads. The mean of both is kept; it is better on dev than either (Wortsman
    et al. 2022, "Model soups")."""
    whole: WholeRecipe = field(default_factory=WholeRecipe)
    """The training on a GPU, instead of these."""
    cross: CrossRecipe = field(default_factory=CrossRecipe)


@dataclass(frozen=True)
class Items:
    """The images of the recipe by part."""

    photos: dict[str, list[Captioned]]
    drawings: dict[str, list[Captioned]]


def read_items(work: Path, photos: Path | None) -> Items:
    """Read the lists. Test images are not among them."""
    found = read_captioned(photos / "flickr8k" / "captions.jsonl", "photos") if photos else []
    drawings = read_captioned(work / "drawings" / "captions.jsonl")
    train = [item for item in drawings if item.split == "train"]
    return Items(
        {split: [item for item in found if item.split == split] for split in ("train", "dev")},
        {
            "train": [item for item in train if not _kept_for_cross(item)],
            "cross": [item for item in train if _kept_for_cross(item)],
            "dev": [item for item in drawings if item.split == "dev"],
        },
    )


def _kept_for_cross(item: Captioned) -> bool:
    return item.source != "stamps" and zlib.crc32(normalise(item.texts[0]).encode()) % _CROSS_SHARE == 0


def train(work: Path, photos: Path | None, recipe: Recipe, *, end_to_end: bool = True) -> None:
    """Train the towers on a CPU and write them to WORK/models/towers.safetensors."""
    items, features = read_items(work, photos), work / "features"
    half = HalfReadTexts.load(features / "texts.npz")
    maps = {name: np.load(features / f"{name}.npy") for name in _training_parts(photos)}
    towers = new_towers_of(work, recipe.heads)
    cells = {name: cells_of(towers.image, part) for name, part in maps.items()}
    classes = {name: classes_of(towers.image, part) for name, part in cells.items()}
    full = half.mapped(list(towers.text.layers))
    towers.standardise(*_sample(cells.values(), full))
    train_towers(towers, _feed(items, cells, None, full, recipe.heads), recipe.heads, end_to_end=False)
    if end_to_end:
        start, states = {name: value.clone() for name, value in towers.state_dict().items()}, list[dict[str, Tensor]]()
        for part in recipe.towers:
            towers.load_state_dict(start)
            train_towers(towers, _feed(items, maps, classes, half, part), part, end_to_end=True)
            states.append({name: value.clone() for name, value in towers.state_dict().items()})
        towers.load_state_dict({name: torch.stack([state[name] for state in states]).mean(0) for name in start})
    save_towers(work, towers.state_dict())


def save_towers(work: Path, state: Mapping[str, Tensor]) -> None:
    """Keep trained towers."""
    (work / "models").mkdir(exist_ok=True)
    save_file({name: value.contiguous() for name, value in state.items()}, work / "models" / "towers.safetensors")


def _sample(cells: Iterable[Array], texts: HalfReadTexts) -> tuple[Tensor, Tensor, Tensor]:
    """Some cells (n, 16, 1280), and some texts that were read to the end: states (m, T, 384) and mask (m, T)."""
    seen = torch.from_numpy(np.concatenate([part[:: 1 + len(part) // 2000, 0] for part in cells])).float()
    return seen, *texts.batch(np.arange(0, len(texts.texts), 1 + len(texts.texts) // 2000))


def _training_parts(photos: Path | None) -> list[str]:
    return ["photos_train", "drawings_train"] if photos else ["drawings_train"]


def _feed(
    items: Items, images: dict[str, Array], classes: dict[str, Array] | None, texts: HalfReadTexts, recipe: TrainRecipe
) -> MapFeed:
    said = classes or {}
    photos = None
    if items.photos["train"]:
        photos = photo_source(items.photos["train"], images["photos_train"], texts.rows, said.get("photos_train"))
    drawings = drawing_source(
        items.drawings["train"], images["drawings_train"], texts.rows, recipe.source_weights, said.get("drawings_train")
    )
    return MapFeed(photos, drawings, texts, recipe)


def new_towers_of(work: Path, recipe: TrainRecipe) -> Towers:
    """Pretrained towers with new heads."""
    torch.manual_seed(recipe.seed)
    backbone, tower = load_backbone(work / "raw"), load_text_tower(work / "raw")
    image = ImageTower(
        UpperHalf(backbone), backbone.classifier, class_vectors(work / "raw"), hidden=recipe.hidden, dropout=recipe.dropout
    )
    return Towers(backbone, image, tower, TextTower(tower, hidden=recipe.hidden, dropout=recipe.dropout))


@torch.no_grad()
def cells_of(tower: ImageTower, maps: Array) -> Array:
    """Features of the 4 x 4 cells of every view, float16 (n, views, 16, 1280), from maps (n, views, 80, 14, 14)."""
    flat = maps.reshape(-1, *maps.shape[2:])
    parts = []
    for start in range(0, len(flat), _CHUNK):
        grid = tower.upper(torch.from_numpy(flat[start : start + _CHUNK]).bfloat16()).flatten(2).transpose(1, 2)
        parts.append((tower.cell_weights.bfloat16() @ grid).float().numpy().astype(np.float16))
    cells: Array = np.concatenate(parts)
    return cells.reshape(*maps.shape[:2], *cells.shape[1:])


@torch.no_grad()
def classes_of(tower: ImageTower, cells: Array) -> Array:
    """The classifier's answers for every view, logits in float16 (n, views, 1000), from cells (n, views, 16, 1280)."""
    parts = [
        tower.classifier(torch.from_numpy(cells[start : start + _CHUNK]).float().mean(2)).numpy().astype(np.float16)
        for start in range(0, len(cells), _CHUNK)
    ]
    return np.concatenate(parts)


@torch.no_grad()
def see(towers: Towers, items: Sequence[Captioned]) -> SeenImages:
    """Images as the bundle will see them, in float32."""

    def pixels(item: Captioned) -> Array:
        return to_pixels(decode(item.path, at_least=SIZE, background=IMAGE_SPEC.background), IMAGE_SPEC)

    parts = []
    with ThreadPoolExecutor(2) as pool:
        for start in range(0, len(items), _CHUNK):
            some = torch.from_numpy(np.stack(list(pool.map(pixels, items[start : start + _CHUNK]))))
            parts.append(towers.image.look_at(towers.backbone(some)))
    return SeenImages(*(torch.cat(values) for values in zip(*parts, strict=True)))


@torch.no_grad()
def read(work: Path, towers: Towers, texts: Sequence[str]) -> ReadTexts:
    """Texts as the bundle will read them, in float32."""
    tokenizer = Tokenizer(tower_folder(work / "raw") / "tokenizer.json", TEXT_SPEC)
    lower, parts = LowerLayers(towers.whole_text), []
    for start in range(0, len(texts), _CHUNK):
        inputs = {name: torch.from_numpy(array) for name, array in tokenizer(texts[start : start + _CHUNK]).items()}
        parts.append(towers.text(lower(**inputs), inputs["attention_mask"]))
    return join(parts)


def train_cross(work: Path, photos: Path | None, recipe: Recipe) -> dict[str, Any]:
    """Make the hub banks and train the cross-encoder; write WORK/models/cross.safetensors.

    Returns:
        the cross-validated figures on dev.
    """
    items, towers = read_items(work, photos), load_towers(work, recipe)
    banks = _banks(work, items, towers, recipe)
    pools = []
    if photos:
        dev = items.photos["dev"]
        right = np.repeat(np.eye(len(dev), dtype=bool), [len(item.texts) for item in dev], axis=0)
        pools.append(_pool(work, towers, banks, dev, [text for item in dev for text in item.texts], right))
    for part in ("cross", "dev"):
        some = items.drawings[part]
        labels, number = np.unique([normalise(item.texts[0]) for item in some], return_inverse=True)
        captions = [next(item.texts[0] for item in some if normalise(item.texts[0]) == label) for label in labels]
        right = np.arange(len(labels))[:, None] == number[None, :]
        pools.append(_pool(work, towers, banks, some, captions, right))
    figures = cross_validate(pools, recipe.cross)
    model = train_cross_encoder(pools, recipe.cross)
    logits, right = figures.pop("logits"), figures.pop("right")
    calibrate(model, logits, right)
    probability = torch.sigmoid(model.calibration[0] * logits + model.calibration[1]).numpy()
    figures["reliability"] = reliability_table(probability, right.numpy(), _EDGES)
    weights = {f"cross.{name}": value for name, value in model.state_dict().items()}
    weights |= {"bank.texts": banks[0].bank, "bank.images": banks[1].bank}
    save_file({name: value.contiguous() for name, value in weights.items()}, work / "models" / "cross.safetensors")
    return figures


def _banks(work: Path, items: Items, towers: Towers, recipe: Recipe) -> tuple[Hubs, Hubs]:
    """Hub corrections for images (a bank of training texts) and for texts (a bank of training images)."""
    images = items.photos["train"] or items.drawings["train"]
    dice = np.random.default_rng(recipe.cross.seed)
    captions = list(dict.fromkeys(text for item in images for text in item.texts))
    texts = [captions[number] for number in dice.permutation(len(captions))[: BANK[0]]]
    chosen = [images[number] for number in np.sort(dice.permutation(len(images))[: BANK[1]])]
    text_bank, image_bank = embedding(read(work, towers, texts).heads), embedding(see(towers, chosen).heads)
    return Hubs(text_bank, NEAREST[0], images=True), Hubs(image_bank, NEAREST[1], images=False)


@torch.no_grad()
def _pool(
    work: Path, towers: Towers, banks: tuple[Hubs, Hubs], items: Sequence[Captioned], captions: list[str], right: Array
) -> CrossPool:
    seen, said = see(towers, items), read(work, towers, captions)
    vectors = banks[0](embedding(seen.heads))
    return CrossPool(
        banks[1](embedding(said.heads)),
        said.words * said.weights[..., None],
        (said.weights > 0).float(),
        stored(image_tokens(vectors, seen.cells)),
        torch.from_numpy(right),
    )


def load_towers(work: Path, recipe: Recipe) -> Towers:
    """The trained towers, in eval mode."""
    towers = new_towers_of(work, recipe.heads)
    load_whole_state(towers, load_file(work / "models" / "towers.safetensors"))
    return towers.eval().requires_grad_(False)


def assemble(work: Path, recipe: Recipe) -> Networks:
    """The networks of the bundle, from what the trainings wrote."""
    towers, weights = load_towers(work, recipe), load_file(work / "models" / "cross.safetensors")
    cross = CrossEncoder()
    cross.load_state_dict({name.removeprefix("cross."): value for name, value in weights.items() if name.startswith("cross.")})
    images = Hubs(weights["bank.texts"], NEAREST[0], images=True)
    texts = Hubs(weights["bank.images"], NEAREST[1], images=False)
    return Networks(
        SmallTextEncoder(LowerLayers(towers.whole_text), towers.text, texts).eval(),
        ImageEncoder(towers.backbone, towers.image, images).eval(),
        cross.eval().requires_grad_(False),
    )


def reliability_table(probability: Array, target: Array, edges: Array) -> list[tuple[float, float, int, float, float]]:
    """Rows of (lower edge, upper edge, pairs, mean probability, share of matches) for the bins that are not empty."""
    rows = []
    for low, high in pairwise(edges.tolist()):
        inside = (probability >= low) & ((probability < high) | (high == edges[-1]))
        if inside.any():
            rows.append((low, high, int(inside.sum()), float(probability[inside].mean()), float(target[inside].mean())))
    return rows
