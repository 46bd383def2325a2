"""Where the recipe keeps its files, and the rule by which a step is skipped when its output is complete."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

MODULE_FOLDER = Path(__file__).resolve().parent
STAMPS_TEST_FILE = MODULE_FOLDER / "stamps_test.txt"


@dataclass(frozen=True)
class Workspace:
    """The folders below `root`, which lies outside the package (`build/coop-small` by default)."""

    root: Path

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

    def mark_done(self, step: str) -> None:
        """Leave the mark of a finished `step`."""
        (self.root / f".done-{step}").touch()
