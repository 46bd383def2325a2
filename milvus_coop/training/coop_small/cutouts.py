"""The cut-outs that composite scenes are made of: transparent pictures of one thing each, from the stamps and three emoji sets."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from milvus_coop.training.coop_small.pictures import open_picture
from milvus_coop.training.coop_small.records import Record

SOURCES = ("stamps", "noto", "twemoji", "fluent-emoji")
_GROUPS = frozenset([3, 4, 5, 6, 7])
"""Emoji of animals, food, places, activities and objects; not of faces, people, symbols and flags."""
_SKIPPED_STAMPS = re.compile(r"stamps/(symbols|people|town/(roadsigns|flags)|naturalforces)")
_SKIPPED = re.compile(
    r"o.clock|thirty|quarter|crescent|gibbous|button|sign\b|with\b|showing|medal|joker|mahjong|flower playing|another\b|\d"
)
_QUOTES = {0x2019: "'", 0x201C: None, 0x201D: None}
_LEADING = re.compile(r"^(a|an|the|some|big|very)\s+")
_NO_NAMES = frozenset(["is", "are", "can", "for", "your", "you", "in", "on", "and", "two", "three", "pair"])
_MOST_WORDS = 3
_EDGE = 160  # px; pasted at up to 0.6 of 224
_FEWEST_PX = 24
_EMPTY = 8  # alpha
_FULLEST = 0.97
"""A picture that fills more of its box than this is taken for a photo with a border, not a cut-out."""


def write_cutouts(records: Sequence[Record], raw: Path, folder: Path) -> None:
    """Write `cutouts.jsonl` and its pictures, as `--data composites:` reads them (2,300 cut-outs, a minute).

    Args:
        records: those that the model may be trained on.
        raw: the unpacked packages.
        folder: where to write.
    """
    pictures = folder / "images"
    pictures.mkdir(parents=True, exist_ok=True)
    groups = _emoji_groups(raw)
    rows = []
    for record in records:
        name = thing_name(record.caption)
        is_thing = not _SKIPPED_STAMPS.match(record.id) if record.source == "stamps" else groups.get(record.caption) in _GROUPS
        if record.source not in SOURCES or name is None or not is_thing:
            continue
        picture = cut_out(open_picture(record, raw))
        if picture is not None:
            file = f"{record.id.replace('/', '__')}.png"
            picture.save(pictures / file, compress_level=1)
            rows.append({"image": f"images/{file}", "caption": name, "source": record.source})
    (folder / "cutouts.jsonl").write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")


def thing_name(caption: str) -> str | None:
    """The name in a caption: `A frog.` is a `frog`; None where it is no name of one to three words.

    >>> thing_name("The big frog, in a pond")
    'frog'
    """
    text = re.split(r"[.(,!:;?]", caption.strip())[0].strip().lower().translate(_QUOTES)
    while _LEADING.match(text):
        text = _LEADING.sub("", text)
    text = re.sub(r"^(\w+) face$", r"\1", text)
    words = text.split()
    if not 1 <= len(words) <= _MOST_WORDS or _SKIPPED.search(text) or not _NO_NAMES.isdisjoint(words):
        return None
    return text


def cut_out(picture: Image.Image) -> Image.Image | None:
    """An RGBA picture without its empty rim, at most 160 px; None if it is opaque, empty or tiny."""
    alpha = picture.getchannel("A")
    box = alpha.point([0] * (_EMPTY + 1) + [255] * (255 - _EMPTY)).getbbox()
    if box is None or (np.asarray(alpha.crop(box)) > 128).mean() > _FULLEST:
        return None
    picture = picture.crop(box)
    picture.thumbnail((_EDGE, _EDGE))
    return picture if min(picture.size) >= _FEWEST_PX else None


def _emoji_groups(raw: Path) -> dict[str, int | None]:
    rows = json.loads((raw / "emojibase-data/package/en/data.json").read_text("utf-8"))
    return {row["label"]: row.get("group") for row in rows}
