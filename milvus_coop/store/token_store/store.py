"""`TokenStore`: the image tokens of one collection, in one file per item."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from milvus_coop.elsewhere.files import Files
from milvus_coop.elsewhere.location import Location
from milvus_coop.errors import TokenStoreError
from milvus_coop.store.token_store.keys import is_key, is_left_over
from milvus_coop.store.token_store.marker import MARKER, Owner, check_owner, read_owner


@dataclass(frozen=True, slots=True)
class Entry:
    """One file of a token store."""

    name: str
    written_s: float
    """Time when the file was written, in seconds since 1970."""
    n_bytes: int

    @property
    def is_key(self) -> bool:
        """True if a row may refer to the file; False if a killed process left it over."""
        return is_key(self.name)


class TokenStore:
    """Reads, writes and removes token files by key. Safe to share between threads.

    A file holds the bytes of `tokens.to_bytes`: `count * dim` int8 values, then `count` little-endian float16 scales.
    """

    def __init__(self, files: Files) -> None:
        self._files = files

    @property
    def location(self) -> Location:
        """The place of the files."""
        return self._files.location

    def __repr__(self) -> str:
        return f"<TokenStore {self.location}>"

    @classmethod
    def at(cls, location: Location) -> TokenStore:
        """The files at a location, whatever collection owns them. Use this to inspect or remove them.

        Raises:
            TokenStoreError: the driver of the protocol is not installed.
        """
        return cls(Files(location))

    @classmethod
    def open(cls, location: Location, owner: Owner, *, is_new: Callable[[], bool]) -> TokenStore:
        """Open the tokens of a collection.

        Args:
            location: a folder that holds only the files of this collection.
            owner: the collection.
            is_new: a function that returns True if the collection has no rows yet. An empty location then becomes its own.

        Raises:
            TokenStoreError: there are no tokens, they belong to another collection, or the location cannot be reached.
        """
        store = cls.at(location)
        marker = store._files.read(MARKER)
        if marker == owner.to_json().encode():
            return store
        if marker is None:
            label = f"the token store of '{owner.collection}'"
            if not store.is_empty():
                raise TokenStoreError(
                    f"{label} is at {location}, but its {MARKER} is missing",
                    expected=f"a folder with a {MARKER}",
                    run=f"{MARKER} from a backup, or drop the collection, remove that folder and ingest again",
                )
            if not is_new():
                raise store._lost(label)
            store._files.write(MARKER, owner.to_json().encode())
            return store
        check_owner(read_owner(marker, str(location)), owner, str(location))
        return store

    def _lost(self, what: str) -> TokenStoreError:
        return TokenStoreError(
            f"{what} is not at {self.location}",
            expected=f"a folder with a {MARKER}",
            run="--token-store with the place where it is now",
        )

    def owner(self) -> Owner | None:
        """The collection that owns these tokens; None if there is no marker.

        Raises:
            TokenStoreError: the marker is damaged, or the place cannot be reached.
        """
        marker = self._files.read(MARKER)
        return None if marker is None else read_owner(marker, str(self.location))

    def write(self, tokens: Mapping[str, bytes]) -> None:
        """Write tokens by key. A file appears only when it is complete, and replaces the old file of that key.

        Raises:
            TokenStoreError: a key is not valid, or the place cannot be written to.
        """
        if wrong := [key for key in tokens if not is_key(key)]:
            raise TokenStoreError(f"{wrong[0][:100]!r} cannot name a token file", expected="what token_key() returns")
        self._files.write_many(tokens)

    def read(self, keys: Sequence[str], n_bytes: int, *, timeout_s: float | None = None) -> list[bytes | None]:
        """The tokens of these keys, in their order; None if a file is missing or damaged, and for a text that is not a key.

        Args:
            keys: keys from rows. Only texts with the form of a key are looked up, so that a row cannot name any other file.
            n_bytes: size of each file, from the bundle.
            timeout_s: time limit for an object store.

        Raises:
            TokenStoreError: the place cannot be reached, no longer exists, or did not answer in time.
        """
        known = [key for key in dict.fromkeys(keys) if is_key(key)]
        start = time.monotonic()
        found = dict(zip(known, self._files.read_many(known, n_bytes, timeout_s), strict=True))
        if known and not any(found.values()):  # if no file is found, the place itself is probably wrong
            left_s = None if timeout_s is None else max(0.0, timeout_s - (time.monotonic() - start))
            if not self._files.has(MARKER, left_s):
                raise self._lost("the token store")
        return [found.get(key) for key in keys]

    def copy(self, keys: Sequence[str], target: TokenStore) -> list[str]:
        """Copy the files of these keys into another token store; return the keys whose file is missing.

        Raises:
            TokenStoreError: one of the places cannot be reached.
        """
        found = {key: content for key in dict.fromkeys(keys) if is_key(key) and (content := self._files.read(key)) is not None}
        target.write(found)
        return [key for key in keys if key not in found]

    def remove(self, keys: Sequence[str]) -> None:
        """Remove the files of these keys. Texts that are not keys are ignored.

        Raises:
            TokenStoreError: the place cannot be written to.
        """
        self._files.remove_many([key for key in dict.fromkeys(keys) if is_key(key) or is_left_over(key)])

    def remove_older(self, keys: Sequence[str], before_s: float) -> int:
        """Remove the files of these keys that were last written before `before_s`, in seconds since 1970; return their number.

        Raises:
            TokenStoreError: the place cannot be written to.
        """
        return self._files.remove_older([key for key in keys if is_key(key) or is_left_over(key)], before_s)

    def entries(self) -> Iterator[Entry]:
        """All token files. Other files are left out.

        Raises:
            TokenStoreError: the place cannot be listed.
        """
        for name, written_s, n_bytes in self._files.listing():
            if is_key(name) or is_left_over(name):
                yield Entry(name, written_s, n_bytes)

    def is_empty(self) -> bool:
        """True if there are no token files."""
        return next(self.entries(), None) is None

    def clear(self) -> None:
        """Remove all token files and the marker. Other files stay.

        Raises:
            TokenStoreError: the place cannot be written to.
        """
        self._files.remove_many([*(entry.name for entry in self.entries()), MARKER])
        self._files.remove_folders()
