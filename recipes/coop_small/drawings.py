"""The captioned drawings and cut-outs as image files with their captions, split for training and evaluation."""

from __future__ import annotations

import io
import json
import logging
import re
import warnings
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import resvg_py
from PIL import Image

from milvus_coop.types import Array
from recipes.coop_small.packages import ICON_PREFIX, PACKAGES
from recipes.coop_small.sources import read_sources
from recipes.coop_small.split import Record, normalise, perceptual_hash, read_test_ids, split_drawings

logger = logging.getLogger(__name__)
STYLE_SOURCES = frozenset(p.folder.removeprefix(ICON_PREFIX) for p in PACKAGES if p.role == "style")
LONGEST_SIDE = 320  # px, a little above the image tower's input
_ICON_MARGIN = 0.06
_MAX_PIXELS = 16_000_000
_THREADS = 2


def collect(work: Path) -> Path:
    """Render all drawings and write their captions, from the packages below `work`/raw.

    The images are RGB on white, PNG, at most 320 px wide and high. Two lists in the product's `jsonl` format name them:
    `captions.jsonl` has the splits `train`, `dev` and `test` of `split_drawings`, and `style.jsonl` has OpenMoji as `test`, a style
    that is never trained on. A training line has the caption first and weaker texts (tags, keywords) after it; in the other splits
    the weaker texts stand under `tags` instead, so that an evaluation searches with captions only. Each line has its `source`.

    Returns:
        the path of `captions.jsonl`.
    """
    raw, folder = work / "raw", work / "drawings"
    records, hashes = _render_all(read_sources(raw), raw, folder)
    splits = split_drawings(records, hashes, read_test_ids(), STYLE_SOURCES)
    _write(folder / "style.jsonl", _lines("test", splits.pop("style")))
    _write(folder / "captions.jsonl", (line for split, members in splits.items() for line in _lines(split, members)))
    return folder / "captions.jsonl"


def render(record: Record, raw: Path) -> Image.Image | None:
    """The drawing as RGB on white, at most `LONGEST_SIDE` wide and high.

    None: it is gigantic, declares no usable size, or makes the renderer panic.
    """
    path = raw / record.location
    try:
        if path.suffix == ".png":
            with Image.open(path) as file:
                if file.width * file.height > _MAX_PIXELS:
                    return None
                image = file.convert("RGBA")
        elif path.suffix == ".svg":
            image = _render_svg(_without_doctype(path.read_text("utf-8", errors="replace")))
        else:
            image = _render_svg(_icon_svg(raw, record.source, record.location))
    except (ValueError, Image.DecompressionBombError):
        return None
    image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    image.thumbnail((LONGEST_SIDE, LONGEST_SIDE), Image.Resampling.LANCZOS)
    return image


def _render_all(records: Sequence[Record], raw: Path, folder: Path) -> tuple[list[Record], Array]:
    """Write the images; the records that could be rendered, and their hashes, bool (n, 64)."""

    def draw(record: Record) -> Array | None:
        image = render(record, raw)
        if image is None:
            logger.info("%s cannot be rendered", record.id)
            return None
        path = folder / _image(record)
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path)
        return perceptual_hash(image)

    with warnings.catch_warnings(), ThreadPoolExecutor(_THREADS) as pool:
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # such images are left out
        drawn = [(record, bits) for record, bits in zip(records, pool.map(draw, records), strict=True) if bits is not None]
    return [record for record, _ in drawn], np.stack([bits for _, bits in drawn])


def _image(record: Record) -> str:
    return f"images/{record.id}.png"


def _lines(split: str, records: Iterable[Record]) -> Iterable[dict[str, Any]]:
    """One JSON object per record; outside `train`, captions that mean the same are written the same, as one query."""
    first_form: dict[str, str] = {}
    for record in records:
        line: dict[str, Any] = {"id": record.id, "source": record.source, "image": _image(record), "split": split}
        if split == "train":
            yield {**line, "captions": record.texts}
        else:
            caption = first_form.setdefault(normalise(record.caption), record.caption)
            yield {**line, "captions": [caption], "tags": record.texts[1:]}


def _write(path: Path, lines: Iterable[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), "utf-8")


def _render_svg(svg: str) -> Image.Image:
    """Render about `LONGEST_SIDE` wide. The renderer panics over blurs of a few drawings at a few sizes, so try others."""
    for width in (LONGEST_SIDE, LONGEST_SIDE - 20, LONGEST_SIDE + 37):
        try:
            png = resvg_py.svg_to_bytes(svg_string=svg, width=width, skip_system_fonts=True)
        except BaseException as exc:
            if type(exc).__name__ != "PanicException":  # it cannot be imported: the extension module makes it up
                raise
            continue
        return Image.open(io.BytesIO(bytes(png))).convert("RGBA")
    raise ValueError("the renderer panics over this drawing")


def _without_doctype(svg: str) -> str:
    """The drawing without its document type declaration, which may refer to the network."""
    return re.sub(r"<!DOCTYPE[^>\[]*(\[[^\]]*\])?[^>]*>", "", svg, count=1)


@lru_cache(maxsize=4)
def _icon_set(path: Path) -> dict[str, Any]:
    data: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return data


def _icon_svg(raw: Path, icon_set: str, name: str) -> str:
    """The icon as an SVG file with a small margin; icons in the text's colour are nearly black."""
    data = _icon_set(raw / f"{ICON_PREFIX}{icon_set}/package/icons.json")
    icon = data["icons"][name]
    width, height = (icon.get(side, data.get(side, 16)) for side in ("width", "height"))
    left, top = icon.get("left", 0), icon.get("top", 0)
    margin = _ICON_MARGIN * max(width, height)
    box = f"{left - margin} {top - margin} {width + 2 * margin} {height + 2 * margin}"
    body = icon["body"].replace("currentColor", "#222")
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" viewBox="{box}" '
        f'width="{width}" height="{height}">{body}</svg>'
    )
