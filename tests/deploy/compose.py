"""The compose files as data."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parent.parent.parent
DEPLOY = ROOT / "deploy"
ENV_EXAMPLE = DEPLOY / ".env.example"
FILES = (DEPLOY / "compose.yaml", DEPLOY / "compose.gpu.yaml")


class ComposeLoader(yaml.SafeLoader):  # type: ignore[misc]
    """Knows Compose's own tags, which say how a file goes over another."""


def _plain(loader: ComposeLoader, node: yaml.Node) -> Any:
    if isinstance(node, yaml.MappingNode):
        return loader.construct_mapping(node, deep=True)
    if isinstance(node, yaml.SequenceNode):
        return loader.construct_sequence(node, deep=True)
    return None


for _tag in ("!override", "!reset"):
    ComposeLoader.add_constructor(_tag, _plain)


def read(path: Path) -> dict[str, Any]:
    """One compose file."""
    loaded: dict[str, Any] = yaml.load(path.read_text(encoding="utf-8"), ComposeLoader)
    return loaded


def interpolated(path: Path) -> dict[str, str | None]:
    """Variables that a file reads, as `${NAME}` or as a key without a value; each with the default it names, or None."""
    text = path.read_text(encoding="utf-8")
    named: dict[str, str | None] = dict(re.findall(r"\$\{(\w+):-([^{}$]*)\}", text))
    for name in re.findall(r"\$\{?(\w+)", text):
        named.setdefault(name, None)
    for service in read(path)["services"].values():
        for name, value in service.get("environment", {}).items():
            if value is None:
                named.setdefault(name, None)
    return named


SERVICES: dict[str, Any] = read(FILES[0])["services"]
GPU_SERVICES: dict[str, Any] = read(FILES[1])["services"]
