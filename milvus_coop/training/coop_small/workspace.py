"""Where the recipe keeps its files, and the rule by which a step is skipped when its output is complete."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from milvus_coop.bundle.folder import SHIPPED

MODULE_FOLDER = Path(__file__).resolve().parent
STAMPS_TEST_FILE = MODULE_FOLDER / "stamps_test.txt"


@dataclass(frozen=True)
class Workspace:
    """The folders below `root`, which lies outside the package (`build/coop-small` by default), and the bundle's folder."""

    root: Path
    bundle: Path = SHIPPED / "coop-small"

    def folder(self, name: str) -> Path:
        """The sub-folder `name`, created if it is not there."""
        path = self.root / name
        path.mkdir(parents=True, exist_ok=True)
        return path

    @property
    def downloads(self) -> Path:
        """Packages as they came: .deb, .tgz, .whl."""
        return self.folder("downloads")

    @property
    def raw(self) -> Path:
        """One folder per unpacked package."""
        return self.folder("raw")

    @property
    def features(self) -> Path:
        """Cached outputs of the frozen towers."""
        return self.folder("features")

    @property
    def models(self) -> Path:
        """Trained parts, as safetensors."""
        return self.folder("models")

    def is_done(self, step: str) -> bool:
        """Whether `step` left its mark, that is, finished."""
        return (self.root / f".done-{step}").is_file()

    def note_cost(self, step: str, seconds: float) -> None:
        """Remember how long a step took, for the card."""
        self.write("costs.json", {**self.read("costs.json"), step: round(seconds)})

    def write(self, name: str, content: dict[str, Any]) -> None:
        """Write a JSON object into a file right below the root."""
        (self.root / name).write_text(json.dumps(content, indent=2), "utf-8")

    def read(self, name: str) -> dict[str, Any]:
        """The JSON object in a file right below the root; empty if it is not there."""
        path = self.root / name
        content: dict[str, Any] = json.loads(path.read_text("utf-8")) if path.is_file() else {}
        return content

    def mark_done(self, step: str) -> None:
        """Leave the mark of a finished `step`."""
        (self.root / f".done-{step}").touch()
