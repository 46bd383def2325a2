"""Items of a source. An item has the name, the content and the metadata that go into a collection."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from milvus_coop.errors import InvalidArgumentError, quoted
from milvus_coop.ingest.images import HALF, ImageLike
from milvus_coop.printable import escaped
from milvus_coop.store.metadata import plain_metadata
from milvus_coop.store.schema import URI_BYTES
from milvus_coop.types import Failure


@dataclass(frozen=True, slots=True)
class Item:
    """One image or one text, to be ingested.

    Raises:
        InvalidArgumentError: `uri` is no text or is empty, or another field has the wrong type.
    """

    uri: str
    """The name in the collection; the id is derived from it. An item with the uri of an earlier one replaces it."""
    image: ImageLike | None = None
    """The image: the path of a file, the bytes of a file, or an image of Pillow's. None for texts."""
    text: str | None = None
    """The text; None for images."""
    metadata: Mapping[str, Any] | None = None
    """None if the source has no metadata (a folder). Metadata is then no reason to update an item."""

    def __post_init__(self) -> None:
        """Check the types, so that a mistake is found where the item is made."""
        if not isinstance(self.uri, str) or not self.uri:
            raise InvalidArgumentError(f"the uri of an item is {quoted(self.uri)}", expected="a text that names it")
        if not isinstance(self.text, str | None):
            raise InvalidArgumentError(f"the text of {quoted(self.uri)} is of type {type(self.text).__name__}", expected="a text")
        if not isinstance(self.metadata, Mapping | None):
            raise InvalidArgumentError(
                f"the metadata of {quoted(self.uri)} is of type {type(self.metadata).__name__}", expected="a dict, or None"
            )

    @property
    def id(self) -> str:
        """Primary key: 32 hex digits of SHA-256 over the uri."""
        return hash_of(self.uri.encode(errors="surrogatepass"))


Entry = Item | Failure
"""An element of a source: an item, or a `Failure` for a part of the source that cannot be read, such as a broken line."""


def hash_of(content: bytes) -> str:
    """The first 32 hex digits of the SHA-256 of the content."""
    return hashlib.sha256(content).hexdigest()[:HALF]


def hash_of_metadata(metadata: Mapping[str, Any] | None) -> str:
    """Hash of metadata, 32 hex digits. It does not depend on the order of the keys.

    The digest of an item is the hash of its content followed by this hash, so that each half can be compared alone.
    """
    return hash_of(json.dumps(metadata or {}, sort_keys=True, separators=(",", ":")).encode())


def uri_of(path: str | Path) -> str:
    """The uri of a local file: its absolute path with forward slashes; symbolic links are not followed."""
    return Path(os.path.abspath(path)).as_posix()  # noqa: PTH100 - Path.absolute keeps "..", Path.resolve follows links


def checked(item: Item, where: str = "") -> Entry:
    """The item with plain metadata, or a `Failure` that says why no collection can hold it. `where` names the line of a list."""
    named = where or escaped(item.uri)
    try:
        n_bytes = len(item.uri.encode())
        if any(c < " " for c in item.uri):
            return Failure(named, "its name has control characters")
        if n_bytes > URI_BYTES:
            return Failure(where or item.uri, f"the uri has {n_bytes:,} bytes; expected: at most {URI_BYTES:,}")
        return item if not item.metadata else replace(item, metadata=plain_metadata(item.metadata)[0])
    except UnicodeEncodeError:
        return Failure(named, "its name is not valid Unicode")
    except InvalidArgumentError as exc:
        return Failure(named, str(exc))
