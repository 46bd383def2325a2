"""Writing of evaluations: always to metrics.jsonl, and to TensorBoard if it is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Any

from milvus_coop.errors import TrainingError
from milvus_coop.offline.training.run.folder import RunFolder


class Tracker:
    """Writes one line per evaluation."""

    def __init__(self, folder: RunFolder, *, tensorboard: bool) -> None:
        """Open the files.

        Raises:
            TrainingError: TensorBoard is asked for but not installed.
        """
        self._folder = folder
        self._board: Any = None
        if tensorboard:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError as exc:
                raise TrainingError("TensorBoard is not installed", run="pip install tensorboard") from exc
            self._board = SummaryWriter(str(folder.path / "tensorboard"))

    def write(self, line: Mapping[str, Any]) -> None:
        """Append an evaluation."""
        self._folder.add_metrics(line)
        if self._board is None:
            return
        for part in ("losses", "dev"):
            for name, value in line[part].items():
                self._board.add_scalar(f"{part}/{name}", value, line["round"])
        for name in ("learning_rate", "pairs_per_s"):
            self._board.add_scalar(name, line[name], line["round"])
        self._board.flush()

    def __enter__(self) -> Tracker:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        if self._board is not None:
            self._board.close()
