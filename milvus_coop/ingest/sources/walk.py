"""Folders and globs: the files that they name, in a fixed order. Links that form a circle are not followed forever."""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from milvus_coop.errors import reason_of
from milvus_coop.ingest.sources.files import PassOver
from milvus_coop.models.preprocess.formats import SUFFIXES
from milvus_coop.printable import escaped
from milvus_coop.types import Failure

OTHER_IMAGES = (
    frozenset({".avif", ".avifs", ".heic", ".heics", ".heif", ".heifs", ".hif"})  # read only where a decoder is installed
    | frozenset({".svg", ".svgz", ".jxl", ".jp2", ".j2k", ".jpf", ".jpx", ".psd", ".psb", ".xcf", ".kra", ".eps", ".emf", ".wmf"})
    | frozenset({".ico", ".icns", ".tga", ".dds", ".exr", ".hdr", ".pcx", ".pbm", ".pgm", ".ppm", ".pnm", ".qoi", ".bpg", ".jxr"})
    | frozenset({".raw", ".dng", ".cr2", ".cr3", ".crw", ".nef", ".nrw", ".arw", ".srf", ".sr2", ".orf", ".rw2", ".raf", ".pef"})
    | frozenset({".srw", ".3fr", ".iiq", ".x3f", ".erf", ".kdc", ".mrw"})  # these and the line above: raw files of cameras
) - SUFFIXES
"""Suffixes of images that cannot be read. Folders and globs pass them over and count them."""

ANY_DEPTH = "**"


def suffix_of(name: str) -> str:
    """The suffix of a file name in lower case, with its point."""
    return name[name.rfind(".") :].lower()


def is_glob(source: str) -> bool:
    """True if the source is a pattern. An existing path is not a pattern, whatever its name."""
    return any(c in source for c in "*?[") and not os.path.lexists(source)


def split_glob(pattern: str) -> tuple[Path, tuple[str, ...]]:
    """The folder where a pattern's search starts, and the parts of the pattern below it."""
    parts = Path(pattern).parts
    first = next(i for i, part in enumerate(parts) if any(c in part for c in "*?["))
    return Path(*parts[:first]) if first else Path(), parts[first:]


def matches(parts: Sequence[str], names: Sequence[str]) -> bool:
    """True if a path below the folder matches a pattern: `*`, `?` and `[...]` within a name, `**` for any number of folders."""
    if not parts:
        return not names
    if parts[0] == ANY_DEPTH:
        return matches(parts[1:], names) or (bool(names) and matches(parts, names[1:]))
    return bool(names) and fnmatch.fnmatchcase(names[0], parts[0]) and matches(parts[1:], names[1:])


def walk(
    root: Path, parts: Sequence[str] = (ANY_DEPTH,), suffixes: frozenset[str] = SUFFIXES, *, pass_over: PassOver | None = None
) -> Iterator[Path | Failure]:
    """The files below a folder that match a pattern and have one of the suffixes.

    The files are sorted by name; the files of a folder come before its subfolders. Hidden files and folders are skipped. Links to
    folders are followed, but no folder is entered twice. `pass_over` is called with each file that matches and is one of
    `OTHER_IMAGES`.

    Yields:
        Paths below `root`, and a `Failure` for each folder that cannot be listed.
    """
    depth = None if ANY_DEPTH in parts else len(parts)
    entered: set[tuple[int, int]] = set()
    stack: list[tuple[Path, tuple[str, ...]]] = [(root, ())]
    while stack:
        folder, names = stack.pop()
        try:
            status = folder.stat()
            if (status.st_dev, status.st_ino) in entered:
                continue
            entered.add((status.st_dev, status.st_ino))
            files, folders = _listing(folder, suffixes | OTHER_IMAGES if pass_over else suffixes)
        except (OSError, ValueError) as exc:
            yield Failure(escaped(folder.as_posix()), f"the folder cannot be listed: {reason_of(exc)}")
            continue
        for name in files:
            if not matches(parts, (*names, name)):
                continue
            if pass_over and suffix_of(name) not in suffixes:
                pass_over(suffix_of(name), (folder / name).as_posix())
            else:
                yield folder / name
        if depth is None or len(names) + 1 < depth:
            stack.extend((folder / name, (*names, name)) for name in reversed(folders))


def _listing(folder: Path, suffixes: frozenset[str]) -> tuple[list[str], list[str]]:
    # Only names are kept, not directory entries: a folder may hold a million files.
    files: list[str] = []
    folders: list[str] = []
    links: list[str] = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if _is_folder(entry):
                (links if entry.is_symlink() else folders).append(entry.name)
            elif suffix_of(entry.name) in suffixes:
                files.append(entry.name)
    # Real folders come first, so that images get their name from the real folder and never from a link.
    return sorted(files), sorted(folders) + sorted(links)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that points to itself
        return False
