"""The files of a bundle from anyone: they lie inside its folder, are plain files, and have a bounded size, before one is opened."""

from __future__ import annotations

import hashlib
import stat
from pathlib import Path

from milvus_coop.bundle.spec import FileSpec
from milvus_coop.errors import BundleInvalidError, reason_of

RECORD_BYTES = 2**20
GRAPH_BYTES = 8 * 2**20
"""Maximum size of the record, and of a graph without its large weights, which are in weights.bin."""
TOKENIZER_BYTES = 128 * 2**20
"""Maximum size of a tokenizer. Gemma's, with 256,000 words, has 34 MB."""

_AGAIN = "copy the whole bundle folder again"


def checked_size(folder: Path, name: str, maximum: int | None = None) -> int:
    """Size of a file of a bundle in bytes. The file is not opened, so that a named pipe cannot block.

    Raises:
        BundleInvalidError: the file is missing, is no plain file, is larger than `maximum`, or is a link to outside the folder.
    """
    path = folder / name
    try:
        inside = path.resolve(strict=True).is_relative_to(folder.resolve())
        facts = path.stat()
    except FileNotFoundError as exc:
        raise BundleInvalidError(f"{path} is missing", run=_AGAIN) from exc
    except (OSError, RuntimeError) as exc:  # RuntimeError: a link that leads to itself, before Python 3.13
        raise BundleInvalidError(f"{path} cannot be read: {reason_of(exc)}", run=_AGAIN) from exc
    if not inside:
        raise BundleInvalidError(f"{path} is a link to a file outside the bundle", expected="a file in the folder")
    if not stat.S_ISREG(facts.st_mode):
        raise BundleInvalidError(f"{path} is no plain file", run=_AGAIN)
    if maximum is not None and facts.st_size > maximum:
        raise BundleInvalidError(f"{path} has {facts.st_size:,} bytes", expected=f"at most {maximum:,}")
    return facts.st_size


def read_checked(folder: Path, name: str, maximum: int) -> bytes:
    """Content of a small file of a bundle; see `checked_size`."""
    checked_size(folder, name, maximum)
    try:
        with (folder / name).open("rb") as file:
            return file.read(maximum)
    except OSError as exc:
        raise BundleInvalidError(f"{folder / name} cannot be read: {reason_of(exc)}", run=_AGAIN) from exc


def hash_file(path: Path) -> FileSpec:
    """Size and SHA-256 of a file, read in blocks of 1 MiB."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return FileSpec(n_bytes=path.stat().st_size, sha256=digest.hexdigest())


def hash_content(content: bytes) -> FileSpec:
    """Size and SHA-256 of the content of a file."""
    return FileSpec(n_bytes=len(content), sha256=hashlib.sha256(content).hexdigest())


def damaged_error(path: Path) -> BundleInvalidError:
    """The error for a file with another content than bundle.json says."""
    return BundleInvalidError(f"{path} is damaged: its content hash is not the one in bundle.json", run=_AGAIN)
