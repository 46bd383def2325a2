"""The files and folders that commands write. They are checked before any work is done."""

from __future__ import annotations

import tempfile
from pathlib import Path

from milvus_coop.errors import InvalidArgumentError, reason_of


def check_file(path: Path | None) -> None:
    """Refuse a file that cannot be written. An existing file keeps its content.

    Raises:
        InvalidArgumentError: the file cannot be written.
    """
    if path is None:
        return
    try:
        existed = path.exists()
        if existed and not path.is_file() and not path.is_dir():
            return  # a pipe or a device; opening it here could block, or end what reads it
        with path.open("ab"):
            pass
        if not existed:
            path.unlink()
    except (OSError, ValueError) as exc:
        raise _unwritable(path, exc, "a file in a folder that exists and can be written") from exc


def write_file(path: Path, content: str) -> None:
    """Write a text file. Parts of file names that are not UTF-8 become escapes.

    Raises:
        InvalidArgumentError: the file cannot be written.
    """
    try:
        path.write_text(content, encoding="utf-8", errors="backslashreplace")
    except OSError as exc:
        raise _unwritable(path, exc, "a file in a folder that exists and has room for it") from exc


def check_folder(path: Path | None) -> None:
    """Refuse a folder in which nothing can be written. It need not exist, and is not made.

    Raises:
        InvalidArgumentError: the folder cannot be made or written.
    """
    if path is None:
        return
    try:
        place = path.absolute()
        while not place.exists() and place != place.parent:
            place = place.parent
        with tempfile.TemporaryDirectory(dir=place, prefix=".milvus-coop-"):
            pass
    except (OSError, ValueError) as exc:
        raise _unwritable(path, exc, "a folder that can be made and written") from exc


def _unwritable(path: Path, exc: Exception, expected: str) -> InvalidArgumentError:
    return InvalidArgumentError(f"{path} cannot be written: {reason_of(exc)}", expected=expected)
