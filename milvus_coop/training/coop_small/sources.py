"""Readers of the captioned pictures: Tux Paint stamps, Open Clip Art, and icon sets with names."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from milvus_coop.training.coop_small.packages import PACKAGES
from milvus_coop.training.coop_small.records import Record, normalise, unique_texts
from milvus_coop.training.coop_small.wordnet import WordNet

ICON_PREFIX = "iconify-json-"
STAMPS = "tuxpaint-stamps-default/usr/share/tuxpaint/stamps"
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
    wordnet = WordNet(raw / "wordnet-base")
    emoji = _emoji_texts(raw)
    records = [*read_stamps(raw), *_clipart(raw, wordnet)]
    for package in PACKAGES:
        if package.folder.startswith(ICON_PREFIX):
            records.extend(_icons(raw, package.folder.removeprefix(ICON_PREFIX), emoji, wordnet))
    return records


def read_stamps(raw: Path) -> Iterator[Record]:
    """Each .txt holds the English caption in its first line; the picture has the same stem."""
    root = raw / STAMPS
    for text_file in sorted(root.rglob("*.txt")):
        lines = text_file.read_text("utf-8", errors="replace").splitlines()
        pictures = [path for suffix in (".png", ".svg") if (path := text_file.with_suffix(suffix)).is_file()]
        if lines and lines[0].strip() and pictures:
            name = text_file.relative_to(root).with_suffix("").as_posix()
            yield Record(f"stamps/{name}", "stamps", pictures[0].relative_to(raw).as_posix(), (lines[0].strip(),))


def _clipart(raw: Path, wordnet: WordNet) -> Iterator[Record]:
    """Clip art with an English title of its own; keywords from the RDF block of the SVG."""
    root = raw / _CLIPART_SVG
    described = {path: _rdf_texts(path) for path in sorted(root.rglob("*.svg"))}
    uses = Counter(normalise(texts[0]) for texts in described.values() if texts)
    for path, texts in described.items():
        name = path.relative_to(root).with_suffix("").as_posix()
        picture = raw / _CLIPART_PNG / f"{name}.png"
        english = [text for text in texts if _is_english(text, wordnet)]
        if texts and english[:1] == texts[:1] and uses[normalise(texts[0])] <= _MAX_TITLE_USES and picture.is_file():
            yield Record(f"clipart/{name}", "clipart", picture.relative_to(raw).as_posix(), unique_texts(_tidy(t) for t in english))


def _rdf_texts(path: Path) -> list[str]:
    """Title and keywords; empty if the file is not well-formed or has no title."""
    try:
        tree = ElementTree.parse(path)  # noqa: S314 - files of a package that the developer chose to install
    except ElementTree.ParseError:
        return []
    title = next((node.text for node in tree.iter(f"{_DC}title") if node.text and node.text.strip()), None)
    keywords = [node.text for node in tree.iter(f"{_RDF}li") if node.text and node.text.strip()]
    return [title, *keywords] if title else []


def _tidy(title: str) -> str:
    """Undo file-name habits: underscores and trailing counters."""
    return re.sub(r"[\s_]*\d+$", "", title).replace("_", " ").strip().lower()


def _is_english(title: str, wordnet: WordNet) -> bool:
    words = normalise(_tidy(title)).split()
    return 0 < len(words) <= 10 and len("".join(words)) > 2 and all(wordnet.knows(word) or word in _SMALL_WORDS for word in words)


def _emoji_texts(raw: Path) -> dict[str, tuple[str, ...]]:
    """Emoji label and tags by squashed label (`redapple`), from emojibase."""
    rows = json.loads((raw / "emojibase-data/package/en/data.json").read_text("utf-8"))
    return {_squash(row["label"]): (row["label"], *row.get("tags", ())) for row in rows}


def _squash(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _icons(raw: Path, icon_set: str, emoji: dict[str, tuple[str, ...]], wordnet: WordNet) -> Iterator[Record]:
    """Icons with English names; skin tones, flags and families are left out, numbered variants share their name."""
    icons = json.loads((raw / f"{ICON_PREFIX}{icon_set}/package/icons.json").read_text("utf-8"))["icons"]
    for name in sorted(icons):
        if _SKIN_OR_VARIANT.search(name) or _FLAG.search(name):
            continue
        base = _COUNTER.sub("", name)
        texts = emoji.get(_squash(name)) or emoji.get(_squash(base)) or (base.replace("-", " "),)
        if all(wordnet.knows(word) or word in _SMALL_WORDS for word in normalise(texts[0]).split()):
            yield Record(f"{icon_set}/{name}", icon_set, name, unique_texts(texts))
