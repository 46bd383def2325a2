"""A folder of images that changes, and a list of the same images, with the versions that an ingest of either must store."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.campaign.history import Call
from milvus_coop.ingest.items import Item
from tests.toy_bundle import draw

UNKNOWN = -1
"""Stands for the version of an item of which nothing is certain."""


class Images:
    """Images by name, each drawn from a version."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        self.folder.mkdir(parents=True, exist_ok=True)
        self.list = self.folder.with_suffix(".jsonl")
        self.versions: dict[str, int] = {}
        self._gone: set[str] = set()
        self._ids: dict[str, str] = {}

    def path(self, name: str) -> Path:
        return self.folder / f"{name}.png"

    def id(self, name: str) -> str:
        """The id of the item in a collection."""
        if name not in self._ids:
            self._ids[name] = Item(self.path(name).as_posix()).id
        return self._ids[name]

    def draw(self, versions: dict[str, int]) -> None:
        """Draw new images, and new versions of known ones."""
        for name, version in versions.items():
            path = draw(self.path(name), version)
            # Two versions may have the same size and be drawn within one tick of the file system's clock.
            os.utime(path, ns=(10**18 + version, 10**18 + version))
        self.versions |= versions
        self._gone -= set(versions)

    def remove(self, names: Iterable[str]) -> None:
        """Remove images; `gone` then has them."""
        for name in names:
            self.path(name).unlink()
            del self.versions[name]
            self._gone.add(name)

    def write_list(self) -> Path:
        """Write the list anew, and return its path."""
        lines = [json.dumps({"path": str(self.path(name)), "n": version}) + "\n" for name, version in self.versions.items()]
        self.list.write_text("".join(lines), encoding="utf-8")
        return self.list

    def arguments(self, *, prune: bool = False) -> dict[str, object]:
        """What an ingest of the folder or the list writes, as the arguments of a call."""
        items = {self.id(name): version for name, version in self.versions.items()}
        return {"items": items, "gone": sorted(map(self.id, self._gone)) if prune else []}


class Settled:
    """What one collection holds for certain, so that the history of many ingests has only what each of them may have changed."""

    def __init__(self, call: Call) -> None:
        self._versions: dict[str, int | None] = {}
        self.add(call)

    def changes(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments of a write without the items whose version is already there for certain."""
        items = {id: version for id, version in arguments["items"].items() if self._versions.get(id) != version}
        gone = [id for id in arguments["gone"] if self._versions.get(id, UNKNOWN) is not None]
        return {"items": items, "gone": gone}

    def add(self, call: Call) -> None:
        """Learn from a write. After one that failed, nothing is certain of its items."""
        versions = {**call.arguments["items"], **dict.fromkeys(call.arguments["gone"])}
        if call.error is None:
            self._versions |= versions
        else:
            for id in versions:
                self._versions.pop(id, None)
