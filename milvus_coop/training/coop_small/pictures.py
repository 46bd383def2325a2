"""Open a record's picture: PNG files, SVG files and SVG icon bodies, all as RGB on white."""

from __future__ import annotations

import io
import json
import re
from functools import lru_cache
from pathlib import Path

import resvg_py
from PIL import Image

from milvus_coop.training.coop_small.records import Record
from milvus_coop.training.coop_small.sources import ICON_PREFIX

RENDER_SIZE = 320  # px, a little above the tower's input
_ICON_MARGIN = 0.06
_MAX_PIXELS = 16_000_000


def open_picture(record: Record, raw: Path) -> Image.Image:
    """The record's picture as RGBA; vector pictures are rendered at `RENDER_SIZE`."""
    path = raw / record.location
    if path.suffix == ".png":
        return Image.open(path).convert("RGBA")
    if path.suffix == ".svg":
        return _render(_without_doctype(path.read_text("utf-8", errors="replace")))
    return _render(_icon_svg(raw, record.source, record.location))


def is_usable(record: Record, raw: Path) -> bool:
    """False for the few SVG files that declare no usable size, and for gigantic PNG files."""
    path = raw / record.location
    try:
        if path.suffix == ".svg":
            open_picture(record, raw)
        elif path.suffix == ".png":
            with Image.open(path) as image:
                return image.width * image.height <= _MAX_PIXELS
    except (ValueError, Image.DecompressionBombError):
        return False
    return True


def on_background(picture: Image.Image, colour: tuple[int, int, int] = (255, 255, 255)) -> Image.Image:
    """Composite an RGBA picture on one colour."""
    canvas = Image.new("RGBA", picture.size, (*colour, 255))
    return Image.alpha_composite(canvas, picture).convert("RGB")


def _render(svg: str) -> Image.Image:
    """Render at about `RENDER_SIZE`; the renderer panics over blurs of a few drawings at a few sizes, so try others."""
    for width in (RENDER_SIZE, RENDER_SIZE - 20, RENDER_SIZE + 37):
        try:
            png = resvg_py.svg_to_bytes(svg_string=svg, width=width, skip_system_fonts=True)
        except BaseException as exc:
            if type(exc).__name__ != "PanicException":  # not importable: the extension module makes it up
                raise
            continue
        return Image.open(io.BytesIO(bytes(png))).convert("RGBA")
    raise ValueError("the renderer panics over this drawing")


def _without_doctype(svg: str) -> str:
    """Without the document type declaration, which some drawings refer to over the network."""
    return re.sub(r"<!DOCTYPE[^>\[]*(\[[^\]]*\])?[^>]*>", "", svg, count=1)


@lru_cache(maxsize=2)
def _icon_set(raw: Path, icon_set: str) -> dict[str, object]:
    data: dict[str, object] = json.loads((raw / f"{ICON_PREFIX}{icon_set}/package/icons.json").read_text("utf-8"))
    return data


def _icon_svg(raw: Path, icon_set: str, name: str) -> str:
    data = _icon_set(raw, icon_set)
    icon = data["icons"][name]  # type: ignore[index]
    width, height = (icon.get(side, data.get(side, 16)) for side in ("width", "height"))
    left, top = icon.get("left", 0), icon.get("top", 0)
    margin = _ICON_MARGIN * max(width, height)
    box = f"{left - margin} {top - margin} {width + 2 * margin} {height + 2 * margin}"
    body = icon["body"].replace("currentColor", "#222")
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" viewBox="{box}" '
        f'width="{width}" height="{height}">{body}</svg>'
    )
