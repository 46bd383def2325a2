"""Where the token files of a collection are, and what becomes of them when it is made, opened and dropped."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

from milvus_coop.errors import InvalidArgumentError, TokenStoreError
from milvus_coop.store.address import Address
from milvus_coop.store.schema import Header
from milvus_coop.store.token_store import Location, Owner, TokenStore, parse_location

BESIDE = ".tokens"
"""What the folder beside a Milvus Lite database is called after it."""


def location_of(address: Address, name: str, header: Header, token_store: str) -> Location:
    """The folder of a collection's token files.

    Args:
        address: of Milvus.
        name: of the collection.
        header: of the collection.
        token_store: the setting; '': where the collection was made with.

    Raises:
        InvalidArgumentError: neither names a place, and Milvus is a server.
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


def check_new(location: Location, name: str, header: Header) -> None:
    """Make sure that a new collection can have its token files there.

    Beside a Milvus Lite database what is found belongs to a collection that is no more, and is removed.

    Raises:
        TokenStoreError: another collection's tokens are there, or the place cannot be reached.
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
    """Open the token files of a collection; errors as `TokenStore.open`."""
    return TokenStore.open(location, _owner(name, header), is_new=is_new)


def drop_tokens(address: Address, location: Location, name: str, header: Header) -> str:
    """Remove the token files of a collection that was dropped; those of another collection stay.

    Returns:
        What is left to do, for people, if its files are not there; else ''.

    Raises:
        TokenStoreError: they could not be removed.
    """
    try:
        store = TokenStore.at(location)
        if store.owner() != _owner(name, header):
            return (
                f"no token files of '{name}' were found at {location}; if they were moved or lost their marker, remove their folder"
            )
        store.clear()
        if address.folder is not None:
            with contextlib.suppress(OSError):  # other collections have theirs there
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
