"""Opens the sources that a user names, and reads their items."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from milvus_coop.elsewhere.objects import RemoteFile, is_remote, remote_file
from milvus_coop.errors import SourceError
from milvus_coop.ingest.items import Entry, Item, hash_of, hash_of_metadata, uri_of
from milvus_coop.ingest.sources.documents import DOCUMENTS, Documents, document_glob, document_range, has_range, one_document
from milvus_coop.ingest.sources.files import LocalFile, PassedOver, PassOver, Reading, SourceFile
from milvus_coop.ingest.sources.http import HttpFile, is_http
from milvus_coop.ingest.sources.lists import DEFAULT
from milvus_coop.ingest.sources.source import Folder, Prefix, SingleImage, Source
from milvus_coop.ingest.sources.tables import TABLES
from milvus_coop.ingest.sources.walk import is_glob, split_glob, suffix_of
from milvus_coop.models.preprocess.formats import INSTALL_AVIF, INSTALL_HEIC, SUFFIXES
from milvus_coop.models.preprocess.uris import local_path
from milvus_coop.printable import escaped
from milvus_coop.types import Failure, Kind

SHOWN = 300
"""Maximum number of characters of a source that an error repeats."""

AVIF = frozenset({".avif", ".avifs"})
HEIC = frozenset({".heic", ".heics", ".heif", ".heifs", ".hif"})


def how_to_read(suffix: str) -> str:
    """The command that installs a decoder for files with that suffix; '' if there is none."""
    return INSTALL_HEIC if suffix in HEIC else INSTALL_AVIF if suffix in AVIF else ""


def listed(sources: str | os.PathLike[str] | Iterable[str | os.PathLike[str]]) -> list[str]:
    """The sources as a list of paths and patterns. A single path is one source.

    Raises:
        SourceError: there are none, or one is empty or not a path.
    """
    if isinstance(sources, str | os.PathLike):
        sources = [sources]
    if isinstance(sources, bytes) or not isinstance(sources, Iterable):
        raise SourceError(f"the sources are of type {type(sources).__name__}", expected="paths, as texts or Path objects")
    paths = []
    for source in sources:
        path = os.fspath(source) if isinstance(source, str | os.PathLike) else source
        if not isinstance(path, str):
            raise SourceError(f"a source is of type {type(source).__name__}", expected="a path, as text or a Path object")
        if not path.strip():
            raise SourceError("the name of a source is empty", expected="the path of a folder, a file or a list; . is this folder")
        paths.append(path)
    return paths


def open_sources(
    sources: str | os.PathLike[str] | Iterable[str | os.PathLike[str]], kind: Kind, reading: Reading = DEFAULT
) -> list[Source]:
    """Open and check all sources before any work is done.

    Raises:
        SourceError: a source is missing, empty, of an unknown type, or cannot be read.
    """
    if not (paths := listed(sources)):
        raise SourceError("no sources were named", expected=_expected(kind))
    if reading.image_column is not None and not any(suffix_of(path) in TABLES for path in paths):
        raise SourceError(
            f"an image column '{reading.image_column[:80]}' is named, and no source is a table",
            expected="a .parquet file, or a glob",
        )
    return [_checked(path, _open(path, kind, reading), kind) for path in paths]


def check_sources(
    sources: str | os.PathLike[str] | Iterable[str | os.PathLike[str]], kind: Kind, reading: Reading = DEFAULT
) -> None:
    """Check all sources; for the errors, see `open_sources`."""
    open_sources(sources, kind, reading)


def read_sources(
    sources: Sequence[Source], seen: set[str], pass_over: PassOver | None = None, *, for_gone: bool = False
) -> Iterator[Entry]:
    """The items of all sources, without repetition. `seen` is filled with their ids if an item could be repeated.

    `pass_over` is called with what is passed over: images of a kind that cannot be read, and more. If `for_gone`, `seen` is also
    filled for a source that needs it to recognise items that are gone; 1 million ids take about 120 MB.

    Lists come first, because the metadata of a list counts even if a folder holds the same image. A repeated line is skipped. A
    list with two different lines for one uri yields a `Failure`.
    """
    # A single folder, prefix, table or shard has no repetitions that would do harm, so no ids are kept.
    alone = len(sources) == 1 and sources[0].distinct and not (for_gone and sources[0].gone_by_ids)
    for source in sorted(sources, key=lambda source: not isinstance(source, Documents)):
        said: dict[str, str] = {}
        for entry in source.entries(pass_over):
            if isinstance(entry, Item) and not alone:
                key = entry.id
                if not source.distinct:
                    content = hash_of(_content_of(entry).encode(errors="replace")) + hash_of_metadata(entry.metadata)
                    if said.setdefault(key, content) != content:
                        yield Failure(entry.uri, "the list names it more than once, with different content; the first line counts")
                        continue
                if key in seen:
                    continue
                seen.add(key)
            yield entry


def _content_of(item: Item) -> str:
    """The text of an item, or the place of its image."""
    place = item.image if isinstance(item.image, str | Path) else getattr(item.image, "name", "")
    return item.text if item.text is not None else str(place)


def _open(source: str, kind: Kind, reading: Reading) -> Source:
    if "://" in source and (path := local_path(source)) is not None:
        source = str(path)
    try:
        if is_remote(source):
            return _remote(source, kind, reading)
        return _web(source, kind, reading) if is_http(source) else _local(source, kind, reading)
    except (OSError, ValueError) as exc:  # a name that is too long, a zero character, a folder that may not be entered
        if isinstance(exc, SourceError):
            raise
        raise SourceError(
            f"{_named(source)} cannot be read: {getattr(exc, 'strerror', None) or exc}", expected=_expected(kind)
        ) from exc


def _local(source: str, kind: Kind, reading: Reading) -> Source:
    documents = DOCUMENTS[kind]
    if is_glob(source):
        root, parts = split_glob(source)
        root = Path(uri_of(root))
        is_folder = kind == "image" and suffix_of(parts[-1]) not in documents
        return Folder(root, parts) if is_folder else document_glob(root, parts, kind, reading)
    path = Path(uri_of(source))
    suffix = path.suffix.lower()
    if has_range(source) and suffix in documents and not path.exists():
        return document_range(path.as_posix(), lambda name: LocalFile(Path(name)), kind, reading)
    if not path.exists():
        raise SourceError(f"there is no {_named(path.as_posix())}", expected=_expected(kind))
    if kind == "image" and path.is_dir():
        return Folder(path)
    if path.is_file() and (found := _file(LocalFile(path), suffix, kind, reading)) is not None:
        return found
    raise SourceError(
        f"{_named(path.as_posix())} is {'a folder' if path.is_dir() else 'of another type'}",
        expected=_expected(kind),
        run=how_to_read(suffix) if kind == "image" and path.is_file() else "",
    )


def _remote(source: str, kind: Kind, reading: Reading) -> Source:
    root = remote_file(source)
    suffix, documents = suffix_of(root.path), DOCUMENTS[kind]
    start = source.index("://") + 3
    if any(c in source[start:] for c in "*?[") and not root.is_there():
        before, parts = _split(source)
        root = remote_file(before)
        if kind == "image" and suffix not in documents:
            return Prefix(root, parts)
        return document_glob(root, parts, kind, reading)
    if has_range(source) and suffix in documents and not root.is_there():
        return document_range(root.name, remote_file, kind, reading)
    if not source.endswith("/") and (found := _file(root, suffix, kind, reading)) is not None:
        if not root.is_there():
            raise SourceError(f"there is no {_named(root.name)}", expected=_expected(kind))
        return found
    if kind == "image":
        return Prefix(root)
    raise SourceError(f"{_named(source)} is not a list, table or shard", expected=_expected(kind))


def file_elsewhere(address: str, reading: Reading = DEFAULT) -> RemoteFile | HttpFile | None:
    """The file at an address of an object store or of HTTP; None if it is a path, or an address that is not supported.

    Raises:
        SourceError: it is an HTTP address and `reading` does not allow them, or the driver is not installed.
    """
    if is_remote(address):
        return remote_file(address)
    return _http_file(address, reading) if is_http(address) else None


def _http_file(address: str, reading: Reading) -> HttpFile:
    if reading.web is None:
        raise SourceError(
            f"{_named(address)} is an HTTP address", expected="--allow-http to fetch it (in Python: an ingest with allow_http=True)"
        )
    return HttpFile(address, reading.web)


def _web(source: str, kind: Kind, reading: Reading) -> Source:
    file = _http_file(source, reading)
    try:
        suffix = suffix_of(urlsplit(source).path)
    except ValueError as exc:
        raise SourceError(f"{_named(source)} is not an address: {exc}", expected="https://host/path") from exc
    found = _file(file, suffix, kind, reading)
    if found is None and kind == "image":
        return SingleImage(file)
    if found is None:
        raise SourceError(f"{_named(source)} is not a list, table or shard", expected=_expected(kind))
    return found


def _file(file: SourceFile, suffix: str, kind: Kind, reading: Reading) -> Source | None:
    if suffix in DOCUMENTS[kind]:
        return one_document(file, kind, reading)
    return SingleImage(file) if kind == "image" and suffix in SUFFIXES else None


def _split(pattern: str) -> tuple[str, tuple[str, ...]]:
    """The address where a pattern's search starts, and the parts of the pattern below it."""
    protocol, _, rest = pattern.partition("://")
    parts = rest.split("/")
    first = next(i for i, part in enumerate(parts) if any(c in part for c in "*?["))
    return f"{protocol}://{'/'.join(parts[:first])}", tuple(parts[first:])


def _checked(name: str, source: Source, kind: Kind) -> Source:
    if isinstance(source, SingleImage) and not isinstance(source.file, LocalFile | RemoteFile):
        return source  # it is fetched once
    passed = PassedOver()
    problem = ""
    for entry in source.entries(passed):
        # A list with a broken first line is a valid source. A folder that holds only unreadable folders is not, nor is a list whose
        # header cannot be used.
        if isinstance(entry, Item) or entry.uri.rpartition(":")[2].isdecimal():
            return source
        problem = problem or f": {entry.reason}"
    if not problem and passed.counts:
        problem = f": {', '.join(f'{n:,} {kind}' for kind, n in passed.counts.items())} cannot be read"
    run = next(filter(None, map(how_to_read, passed.counts)), "")
    raise SourceError(
        f"{_named(name)} has no {'images' if kind == 'image' else 'texts'}{problem}", expected=_expected(kind), run=run
    )


def _named(source: str) -> str:
    return escaped(source)[:SHOWN]


def _expected(kind: Kind) -> str:
    documents = ", ".join(sorted(DOCUMENTS[kind]))
    if kind == "image":
        return (
            f"a folder, a glob, an image ({', '.join(sorted(SUFFIXES))}), a list, table or shard ({documents}), "
            "or a prefix such as s3://bucket/photos/"
        )
    return f"a file of texts or a glob of them ({documents})"
