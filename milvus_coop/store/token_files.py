"""The place of a collection's token files, and what happens to them when the collection is created, opened and dropped."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

from milvus_coop.elsewhere.location import Location, parse_location
from milvus_coop.errors import InvalidArgumentError, TokenStoreError
from milvus_coop.store.address import Address
from milvus_coop.store.schema import Header
from milvus_coop.store.token_store import Owner, TokenStore

BESIDE = ".tokens"
"""Suffix of the folder beside a Milvus Lite database."""


def location_of(address: Address, name: str, header: Header, token_store: str) -> Location:
    """The folder of a collection's token files.

    Args:
        address: the address of Milvus.
        name: the name of the collection.
        header: the header of the collection.
        token_store: the setting; '' means the place that the collection was created with.

    Raises:
        InvalidArgumentError: neither the setting nor the header names a place, and Milvus is a server.
    """
    if given := token_store or header.token_store:
        return parse_location(given) / name
    if address.folder is None:
        raise InvalidArgumentError(
            f"the image tokens of bundle {header.bundle} are too large for Milvus at {address.label}",
            expected="a place for token files that all who search can read, such as s3://bucket/tokens, or a shared folder",
            run="--token-store, or MILVUS_COOP_TOKEN_STORE",
        )
    return _beside(address.folder) / name


def check_new(location: Location, header: Header) -> None:
    """Check that a new collection can have its token files at a location.

    Files beside a Milvus Lite database belong to a collection that no longer exists, and are removed.

    Raises:
        TokenStoreError: the location holds the tokens of another collection, or cannot be reached.
    """
    store = TokenStore.at(location)
    if not header.token_store:
        store.clear()
    elif store.owner() is not None or not store.is_empty():
        raise TokenStoreError(
            f"{location} is a token store already, of a collection that is not here",
            expected="an empty place",
            run="another --token-store or another name, or remove it if nobody needs it",
        )


def open_tokens(location: Location, name: str, header: Header, is_new: Callable[[], bool]) -> TokenStore:
    """Open the token files of a collection; for the errors, see `TokenStore.open`."""
    return TokenStore.open(location, _owner(name, header), is_new=is_new)


def drop_tokens(address: Address, location: Location, name: str, header: Header) -> str:
    """Remove the token files of a dropped collection. Files of another collection stay.

    Returns:
        A note for people if the files are not there; else ''.

    Raises:
        TokenStoreError: the files could not be removed.
    """
    try:
        store = TokenStore.at(location)
        if store.owner() != _owner(name, header):
            return (
                f"no token files of '{name}' were found at {location}; if they were moved or lost their marker, remove their folder"
            )
        store.clear()
        if address.folder is not None:
            with contextlib.suppress(OSError):  # the folder is not empty: it holds files of other collections
                Path(str(_beside(address.folder))).rmdir()
        return ""
    except TokenStoreError as exc:
        raise TokenStoreError(
            f"the collection '{name}' is dropped, but its token files may still be there: {exc.given}", run=f"remove {location}"
        ) from exc


def _beside(folder: Path) -> Location:
    return parse_location(f"{folder}{BESIDE}")


def _owner(name: str, header: Header) -> Owner:
    return Owner(name, header.bundle, header.fingerprint, header.token_id)
