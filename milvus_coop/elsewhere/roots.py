"""Roots: folders, and prefixes of object stores, below which images may be read. Nothing else is, whatever a row names."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote

from milvus_coop.elsewhere.location import parse_location
from milvus_coop.elsewhere.objects import LONGEST, RemoteFile, remote_file
from milvus_coop.errors import InvalidArgumentError
from milvus_coop.models.preprocess.uris import is_url
from milvus_coop.printable import escaped

SHOWN_BYTES = 64 * 2**20
SHOWN_S = 10.0
"""Limits for an image that is read only to be shown or sent: its size, and the time of each of the two requests that it takes."""
SHOWN_AT_ONCE = 8
"""Maximum number of images that are read at the same time to be shown or sent."""


def folders_of(roots: Sequence[str]) -> tuple[Path, ...]:
    """The folders among the roots, with symbolic links resolved.

    Raises:
        InvalidArgumentError: one of them is not a folder.
    """
    folders = tuple(Path(root) for root in roots if "://" not in root)
    for folder in folders:
        if not folder.is_dir():
            raise InvalidArgumentError(
                f"the root {folder} is not a folder", expected="an existing folder of images, or s3://bucket/prefix"
            )
    return tuple(folder.resolve() for folder in folders)


def prefixes_of(roots: Sequence[str]) -> tuple[RemoteFile, ...]:
    """The prefixes of object stores among the roots.

    Raises:
        InvalidArgumentError, SourceError: one of them cannot be used; see `shown_root`.
    """
    return tuple(shown_root(root) for root in roots if "://" in root)


def shown_root(address: str) -> RemoteFile:
    """The prefix at an address, below which images may be read to be shown; see `below_root`.

    Raises:
        InvalidArgumentError: it is not the address of a prefix in an object store.
        SourceError: the driver is not installed.
    """
    location = parse_location(address, "root")
    if location.folder is not None:
        raise InvalidArgumentError(
            f"the root {escaped(address)[:LONGEST]} is a folder", expected="s3://bucket/prefix, or gs://, az://"
        )
    return replace(remote_file(location.url), limit_bytes=SHOWN_BYTES, limit_s=SHOWN_S)


def below_root(root: RemoteFile, uri: str) -> RemoteFile | None:
    """The object below a prefix that a uri names; None if it may be another one. The store is not asked.

    Only the part of the uri after the root is used. A relative uri is a path below the root. A uri with a segment `..` is refused,
    also where it is percent-encoded, because drivers and servers differ in what they make of it.
    """
    protocol, mark, rest = uri.partition("://")
    if mark:
        name = f"{protocol.lower()}://{rest}"
        if not name.startswith(f"{root.name}/"):
            return None
        path = name[len(root.name) + 1 :]
    elif uri.startswith(("/", "\\")) or is_url(uri):
        return None
    else:
        path = uri
    decoded = path
    while (once := unquote(decoded)) != decoded:
        decoded = once
    if not path or any(c < " " for c in decoded) or not {".", ".."}.isdisjoint(re.split(r"[/\\]", decoded)):
        return None
    return root.below(path)
