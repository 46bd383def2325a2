"""Everything that the training of whole towers reads, in files below 64 MB, for a machine with a GPU that has no other data."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from milvus_coop.bundle.spec import TextSpec
from milvus_coop.models.preprocess.images import decode
from milvus_coop.models.preprocess.texts import Tokenizer
from milvus_coop.types import Array
from recipes.coop_small.backbone import IMAGE_SPEC, SIZE, load_backbone
from recipes.coop_small.features import Captioned
from recipes.coop_small.texts import TRAINED_LENGTH, class_vectors, load_text_tower, tower_folder

_LARGEST = 48 * 2**20
"""Bytes of a part of images."""
_WEBP_QUALITY = 80


@dataclass(frozen=True)
class Packed:
    """The content of a folder of parts.

    `items`: the images by name of their group; their texts are in `texts`. `pixels`: uint8 (n, 3, 224, 224) by group.
    `ids`: int64 token ids (texts, 32), 0 for padding. `backbone`, `text`: states of the pretrained towers, in float16.
    """

    items: Mapping[str, list[Captioned]]
    pixels: Mapping[str, Tensor]
    texts: list[str]
    ids: Tensor
    backbone: Mapping[str, Tensor]
    text: Mapping[str, Tensor]
    class_vectors: Tensor


def pack(raw: Path, groups: Mapping[str, list[Captioned]], folder: Path) -> None:
    """Write the pretrained towers below `raw`, the groups' images at 224 x 224 px and their texts as parts."""
    tokenizer = Tokenizer(tower_folder(raw) / "tokenizer.json", TextSpec(max_length=TRAINED_LENGTH))
    backbone, text = load_backbone(raw), load_text_tower(raw)
    write_parts(folder, groups, tokenizer, backbone.state_dict(), text.state_dict(), class_vectors(raw))


def write_parts(
    folder: Path,
    groups: Mapping[str, list[Captioned]],
    tokenizer: Tokenizer,
    backbone: Mapping[str, Tensor],
    text: Mapping[str, Tensor],
    vectors: Tensor,
) -> None:
    """Write `pretrained.safetensors`, `texts.safetensors`, `items.json` and as many `images-NN.safetensors` as it takes."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.safetensors"):
        old.unlink()
    weights = {f"backbone.{name}": value for name, value in backbone.items()} | {
        f"text.{name}": value for name, value in text.items()
    }
    save_file({name: value.half() for name, value in weights.items()}, folder / "pretrained.safetensors")
    texts = list(dict.fromkeys(text for items in groups.values() for item in items for text in item.texts))
    ids = torch.zeros(len(texts), TRAINED_LENGTH, dtype=torch.int32)
    for start in range(0, len(texts), 512):
        some = torch.from_numpy(tokenizer(texts[start : start + 512])["input_ids"])
        ids[start : start + 512, : some.shape[1]] = some
    save_file({"ids": ids, "class_vectors": vectors}, folder / "texts.safetensors")
    items = [item for some in groups.values() for item in some]
    for number, (content, ends) in enumerate(_parts(items)):
        part = {"bytes": torch.from_numpy(content), "ends": torch.from_numpy(ends)}
        save_file(part, folder / f"images-{number:02}.safetensors")
    listed = {name: [[item.source, item.split, item.texts] for item in some] for name, some in groups.items()}
    (folder / "items.json").write_text(json.dumps({"texts": texts, "groups": listed}), "utf-8")


def unpack(folder: Path) -> Packed:
    """Read every part."""
    listed = json.loads((folder / "items.json").read_text("utf-8"))
    encoded: list[bytes] = []
    for path in sorted(folder.glob("images-*.safetensors")):
        part = load_file(path)
        content, ends = part["bytes"].numpy().tobytes(), part["ends"].tolist()
        encoded += [content[start:end] for start, end in zip([0, *ends[:-1]], ends, strict=True)]
    with ThreadPoolExecutor() as pool:
        images = torch.from_numpy(np.stack(list(pool.map(_pixels, encoded))))
    groups = {
        name: [Captioned(Path(), source, tuple(texts), split) for source, split, texts in rows]
        for name, rows in listed["groups"].items()
    }
    pixels = dict(zip(groups, torch.split(images, [len(items) for items in groups.values()]), strict=True))
    weights, texts = load_file(folder / "pretrained.safetensors"), load_file(folder / "texts.safetensors")
    backbone, text = (
        {name.removeprefix(f"{part}."): value for name, value in weights.items() if name.startswith(f"{part}.")}
        for part in ("backbone", "text")
    )
    return Packed(groups, pixels, listed["texts"], texts["ids"].long(), backbone, text, texts["class_vectors"])


def save_in_parts(weights: Mapping[str, Tensor], folder: Path, largest: int = 15 * 2**20) -> None:
    """Write weights as float16, in files of at most so many bytes unless one tensor alone is larger."""
    folder.mkdir(parents=True, exist_ok=True)
    part: dict[str, Tensor] = {}
    number = size = 0
    for name, value in weights.items():
        half = value.detach().half().cpu().contiguous() if value.is_floating_point() else value.cpu().contiguous()
        if part and size + half.nbytes > largest:
            save_file(part, folder / f"weights-{number:02}.safetensors")
            part, number, size = {}, number + 1, 0
        part[name] = half
        size += half.nbytes
    save_file(part, folder / f"weights-{number:02}.safetensors")


def load_parts(folder: Path) -> dict[str, Tensor]:
    """Read what `save_in_parts` wrote, as float32."""
    found = {name: value for path in sorted(folder.glob("weights-*.safetensors")) for name, value in load_file(path).items()}
    return {name: value.float() if value.is_floating_point() else value for name, value in found.items()}


def _parts(items: Iterable[Captioned]) -> Iterator[tuple[Array, Array]]:
    """The encoded images one behind the other, uint8, and where each ends, int64, part by part."""
    content, ends = bytearray(), list[int]()
    with ThreadPoolExecutor(2) as pool:
        for encoded in pool.map(_encoded, items):
            if content and len(content) + len(encoded) > _LARGEST:
                yield np.frombuffer(bytes(content), np.uint8).copy(), np.array(ends, np.int64)
                content, ends = bytearray(), []
            content += encoded
            ends.append(len(content))
    yield np.frombuffer(bytes(content), np.uint8).copy(), np.array(ends, np.int64)


def _encoded(item: Captioned) -> bytes:
    """The image at 224 x 224 px: the file itself where it has this size and is a JPEG, else WebP."""
    with Image.open(item.path) as file:
        if file.format == "JPEG" and file.size == (SIZE, SIZE) and not file.getexif():
            return item.path.read_bytes()
    image = decode(item.path, at_least=SIZE, background=IMAGE_SPEC.background)
    target = io.BytesIO()
    image.resize((SIZE, SIZE), Image.Resampling.BICUBIC).save(target, "WEBP", quality=_WEBP_QUALITY)
    return target.getvalue()


def _pixels(encoded: bytes) -> Array:
    with Image.open(io.BytesIO(encoded)) as file:
        return np.ascontiguousarray(np.asarray(file.convert("RGB")).transpose(2, 0, 1))
