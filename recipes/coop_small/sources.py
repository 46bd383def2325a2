"""Readers of the captioned drawings: Tux Paint stamps, Open Clip Art, and icon sets with English names."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from recipes.coop_small.class_names import read_english_words
from recipes.coop_small.packages import ICON_PREFIX, PACKAGES
from recipes.coop_small.split import Record, normalise, unique_texts

_STAMPS = "tuxpaint-stamps-default/usr/share/tuxpaint/stamps"
_CLIPART_SVG = "openclipart-svg/usr/share/openclipart/svg"
_CLIPART_PNG = "openclipart-png/usr/share/openclipart/png"
_DC = "{http://purl.org/dc/elements/1.1/}"
_RDF = "{http://www.w3.org/1999/02/22-rdf-syntax-ns#}"
_SKIN_OR_VARIANT = re.compile(r"skin-tone|-(light|medium|dark)$|-medium-(light|dark)$|-low$|-default$|facing-right")
_FLAG = re.compile(r"^flag-|flag$|^family-|^couple-with-|^kiss-|^regional-indicator")
_COUNTER = re.compile(r"-(\d{1,2}|one|two|three|four|five)$")
_MAX_TITLE_USES = 5
_SMALL_WORDS = frozenset(
    ["a", "an", "and", "for", "from", "in", "into", "of", "off", "on", "or", "out", "over", "the", "to", "up", "with", "without"]
)


def read_sources(raw: Path) -> list[Record]:
    """All records of all sources, in a fixed order."""
    english = read_english_words(raw) | _SMALL_WORDS
    emoji = read_emoji_texts(raw)
    records = [*read_stamps(raw), *read_clipart(raw, english)]
    for package in PACKAGES:
        if package.folder.startswith(ICON_PREFIX):
            records.extend(read_icons(raw, package.folder.removeprefix(ICON_PREFIX), emoji, english))
    return records


def read_stamps(raw: Path) -> Iterator[Record]:
    """The stamps: the first line of each .txt file is the English caption of the image with the same stem."""
    root = raw / _STAMPS
    for text_file in sorted(root.rglob("*.txt")):
        lines = text_file.read_text("utf-8", errors="replace").splitlines()
        images = [path for suffix in (".png", ".svg") if (path := text_file.with_suffix(suffix)).is_file()]
        if lines and lines[0].strip() and images:
            name = text_file.relative_to(root).with_suffix("").as_posix()
            yield Record(f"stamps/{name}", "stamps", images[0].relative_to(raw).as_posix(), (lines[0].strip(),))


def read_clipart(raw: Path, english: frozenset[str]) -> Iterator[Record]:
    """The clip art whose title is English and its own; keywords come from the RDF block of the SVG file."""
    root = raw / _CLIPART_SVG
    described = {path: _rdf_texts(path) for path in sorted(root.rglob("*.svg"))}
    uses = Counter(normalise(texts[0]) for texts in described.values() if texts)
    for path, texts in described.items():
        name = path.relative_to(root).with_suffix("").as_posix()
        image = raw / _CLIPART_PNG / f"{name}.png"
        good = [text for text in texts if _is_english_title(text, english)]
        if texts and good[:1] == texts[:1] and uses[normalise(texts[0])] <= _MAX_TITLE_USES and image.is_file():
            yield Record(f"clipart/{name}", "clipart", image.relative_to(raw).as_posix(), unique_texts(_tidy(t) for t in good))


def read_icons(raw: Path, icon_set: str, emoji: dict[str, tuple[str, ...]], english: frozenset[str]) -> Iterator[Record]:
    """The icons with English names, without skin tones, flags and families; numbered variants share their name."""
    icons = json.loads((raw / f"{ICON_PREFIX}{icon_set}/package/icons.json").read_text("utf-8"))["icons"]
    for name in sorted(icons):
        if _SKIN_OR_VARIANT.search(name) or _FLAG.search(name):
            continue
        base = _COUNTER.sub("", name)
        texts = emoji.get(_squash(name)) or emoji.get(_squash(base)) or (base.replace("-", " "),)
        if _is_english(texts[0], english):
            yield Record(f"{icon_set}/{name}", icon_set, name, unique_texts(texts))


def read_emoji_texts(raw: Path) -> dict[str, tuple[str, ...]]:
    """Label and tags of each emoji by its label without spaces (`redapple`), from emojibase."""
    rows = json.loads((raw / "emojibase-data/package/en/data.json").read_text("utf-8"))
    return {_squash(row["label"]): (row["label"], *row.get("tags", ())) for row in rows}


def _rdf_texts(path: Path) -> list[str]:
    """Title and keywords; none if the file is not well-formed or has no title."""
    try:
        tree = ElementTree.parse(path)  # noqa: S314 - files of a package that the developer chose to install
    except ElementTree.ParseError:
        return []
    title = next((node.text for node in tree.iter(f"{_DC}title") if node.text and node.text.strip()), None)
    keywords = [node.text for node in tree.iter(f"{_RDF}li") if node.text and node.text.strip()]
    return [title, *keywords] if title else []


def _tidy(title: str) -> str:
    """A title without the habits of file names: underscores and counters at the end."""
    return re.sub(r"[\s_]*\d+$", "", title).replace("_", " ").strip().lower()


def _is_english_title(title: str, english: frozenset[str]) -> bool:
    words = normalise(_tidy(title)).split()
    return 0 < len(words) <= 10 and len("".join(words)) > 2 and _is_english(_tidy(title), english)


def _is_english(text: str, english: frozenset[str]) -> bool:
    """True if WordNet knows every word, or its singular by the plainest rule."""
    return all(word in english or (word.endswith("s") and word[:-1] in english) for word in normalise(text).split())


def _squash(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())
