"""Files of vectors: JSON lines, or a NumPy array with a file beside it that names the items of the rows."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

import numpy as np

from milvus_coop.cli.outputs import check_file
from milvus_coop.errors import InvalidArgumentError, reason_of
from milvus_coop.types import Array

ARRAY, LINES = ".npy", ".jsonl"


class VectorFile:
    """Writes a file of vectors. It is used as a context manager.

    The complete file appears at the end, unless there was an error or there were no vectors. Until then an existing file stays.
    """

    def __init__(self, path: Path, dim: int) -> None:
        """Prepare to write. The errors are those of `check_output`.

        Args:
            path: the file, which ends in .npy or .jsonl.
            dim: the length of the vectors.
        """
        check_output(path)
        self.n = 0
        """Number of vectors that were added."""
        self._path = path
        self._lines_path = path.with_name(path.name + LINES) if path.suffix == ARRAY else path
        self._vectors = [np.empty((0, dim), np.float32)]

    def add(self, names: Sequence[Mapping[str, str]], vectors: Array) -> None:
        """Add vectors.

        Args:
            names: the item of each vector: `uri`, `text` or both.
            vectors: float32 of shape (n, dim).

        Raises:
            InvalidArgumentError: the file cannot be written.
        """
        with self._told():
            for name, vector in zip(names, vectors, strict=True):
                # The shortest digits that give the same float32. As float64 there would be twice as many.
                numbers = {} if self._path.suffix == ARRAY else {"vector": [float(str(value)) for value in vector]}
                self._lines.write(json.dumps({**name, **numbers}, ensure_ascii=False) + "\n")
        self.n += len(vectors)
        if self._path.suffix == ARRAY:
            self._vectors.append(vectors)

    def __enter__(self) -> VectorFile:
        with self._told():
            self._lines = _part(self._lines_path).open("w", encoding="utf-8")
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        try:
            with self._told():
                self._lines.close()
                if kind is None and self.n:
                    self._finish()
        finally:
            for path in (self._path, self._lines_path):
                _part(path).unlink(missing_ok=True)

    def _finish(self) -> None:
        if self._path.suffix == ARRAY:
            with _part(self._path).open("wb") as file:
                np.save(file, np.concatenate(self._vectors))
            _part(self._path).replace(self._path)
        _part(self._lines_path).replace(self._lines_path)

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except OSError as exc:
            problem = f"{self._path} cannot be written: {reason_of(exc)}"
            raise InvalidArgumentError(problem, expected="a file in a folder that exists and has room for it") from exc


def check_output(path: Path) -> None:
    """Refuse a file that cannot be written, before any work is done.

    Raises:
        InvalidArgumentError: the suffix is unknown, or the file cannot be written.
    """
    if path.suffix not in (ARRAY, LINES):
        raise InvalidArgumentError(f"--out is {path}", expected=f"a file that ends in {ARRAY} or {LINES}")
    check_file(path)


def _part(path: Path) -> Path:
    return path.with_name(f".{path.name}.part")
