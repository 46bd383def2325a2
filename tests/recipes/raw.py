"""A raw folder as the recipe's packages leave it, with a few drawings and words."""

from __future__ import annotations

import json
from pathlib import Path

from PIL import Image, ImageDraw

from recipes.coop_small.packages import ICON_PREFIX, PACKAGES

CIRCLE = '<circle cx="8" cy="8" r="6" fill="currentColor"/>'
SQUARE = '<path d="M1 1h9v9H1z" fill="#c00"/>'
_SVG = (
    '<svg xmlns="http://www.w3.org/2000/svg" xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#" '
    'xmlns:dc="http://purl.org/dc/elements/1.1/"><dc:title>{title}</dc:title><rdf:li>{keyword}</rdf:li></svg>'
)
_NOUNS = """\
  1 This line is part of the licence.
00000001 03 n 01 entity 0 000 | that which exists
00000002 05 n 02 dog 0 domestic_dog 0 002 @ 00000001 n 0000 ~ 00000003 n 0000 | barks
00000003 05 n 01 red_setter 0 001 @ 00000002 n 0000 | is red
"""


def write_raw(raw: Path) -> None:
    """One stamp that can be rendered and one that cannot, one clip art, one icon set with icons and others without."""
    wordnet = raw / "wordnet-base/usr/share/wordnet"
    _write(wordnet / "data.noun", _NOUNS)
    for part, words in {"noun": "dog cat apple entity", "adj": "red old", "verb": "run", "adv": ""}.items():
        _write(wordnet / f"index.{part}", "".join(f"{word} n 1 0\n" for word in words.split()))
    write_stamp(raw, "animals/dog", "A dog.")
    _write(raw / "tuxpaint-stamps-default/usr/share/tuxpaint/stamps/animals/old.txt", "An old dog.\n")
    _write(raw / "tuxpaint-stamps-default/usr/share/tuxpaint/stamps/animals/old.svg", "<svg xmlns='http://www.w3.org/2000/svg'/")
    write_clipart(raw, "pets/dog_01", "Red_dog_2", "cat")
    _write(raw / "emojibase-data/package/en/data.json", json.dumps([{"label": "red apple", "tags": ["apple", "red"]}]))
    for package in PACKAGES:
        if package.folder.startswith(ICON_PREFIX):
            write_icons(raw, package.folder.removeprefix(ICON_PREFIX), {})


def write_stamp(raw: Path, name: str, caption: str) -> None:
    """A PNG file that is transparent around a shape, and its captions."""
    path = raw / "tuxpaint-stamps-default/usr/share/tuxpaint/stamps" / name
    _write(path.with_suffix(".txt"), f"{caption}\nde.utf8=Ein Hund.\n")
    image = Image.new("RGBA", (500, 400))
    ImageDraw.Draw(image).ellipse((50, 20, 450, 200), fill=(200, 30, 30, 255))
    image.save(path.with_suffix(".png"))


def write_clipart(raw: Path, name: str, title: str, keyword: str) -> None:
    """An SVG file that has the texts, and its PNG file."""
    _write(raw / f"openclipart-svg/usr/share/openclipart/svg/{name}.svg", _SVG.format(title=title, keyword=keyword))
    path = raw / f"openclipart-png/usr/share/openclipart/png/{name}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new("RGBA", (40, 40))
    ImageDraw.Draw(image).polygon([(2, 38), (20, 2), (38, 38)], fill=(0, 0, 255, 255))
    image.save(path)


def write_icons(raw: Path, icon_set: str, bodies: dict[str, str]) -> None:
    """An icon set of 16 x 16 units."""
    icons = {name: {"body": body} for name, body in bodies.items()}
    _write(raw / f"{ICON_PREFIX}{icon_set}/package/icons.json", json.dumps({"icons": icons, "width": 16, "height": 16}))


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, "utf-8")
