"""The address of a folder of this machine, or of a place in an object store that fsspec supports."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from milvus_coop.errors import InvalidArgumentError

LOCAL = ("file", "local")
DRIVERS = {"s3": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "az": "adlfs", "abfs": "adlfs"}
"""The package that each protocol needs."""
MEMORY = "memory"
"""A store in the memory of this process, for tests."""
EXPECTED = f"a folder, or one of {', '.join(f'{name}://' for name in DRIVERS)}"


@dataclass(frozen=True, slots=True)
class Location:
    """A folder on this machine or in an object store."""

    protocol: str
    """`file`, a protocol of `DRIVERS`, or `memory`."""
    url: str
    """An absolute path, or an address with its protocol, without a slash at the end."""

    @property
    def folder(self) -> Path | None:
        """The folder on this machine; None for any other place."""
        return Path(self.url) if self.protocol == LOCAL[0] else None

    def __truediv__(self, name: str) -> Location:
        return Location(self.protocol, f"{self.url}/{name}")

    def __str__(self) -> str:
        return self.url


def parse_location(text: str | Path, what: str = "token store") -> Location:
    """Parse the address of a folder; `what` is its name in messages.

    Raises:
        InvalidArgumentError: the setting is empty, has a protocol that is not allowed (http, ftp, chains of fsspec), holds a
            password or `..`, names a host in the address of a folder, or names no bucket.
    """
    given = str(text).strip()
    protocol, mark, rest = given.partition("://")
    protocol = protocol.lower() if mark else LOCAL[0]
    if not given or "\0" in given or "::" in given:
        raise InvalidArgumentError(f"the {what} is {given[:100]!r}", expected=EXPECTED)
    if protocol in LOCAL:
        if mark and not rest.startswith(("/", "~")):
            raise InvalidArgumentError(  # the message does not show the host, which may hold a password
                f"the {what} at {protocol}:// names a host", expected=f"{protocol}:///folder, or {EXPECTED}"
            )
        path = Path(rest if mark else given).expanduser().absolute()
        return Location(LOCAL[0], path.as_posix().rstrip("/") or "/")
    if protocol not in (*DRIVERS, MEMORY):
        raise InvalidArgumentError(f"a {what} cannot be at {protocol[:20]}://", expected=EXPECTED)
    if holds_password(given):
        raise InvalidArgumentError(
            f"the address of the {what} at {protocol}:// holds a password",
            expected="credentials where its driver looks for them",
        )
    bucket, *folders = rest.rstrip("/").split("/")
    if not bucket or ".." in (bucket, *folders):
        raise InvalidArgumentError(
            f"the {what} at {protocol}:// {'holds a segment ..' if bucket else 'names no bucket'}",
            expected=f"{protocol}://bucket/folder",
        )
    return Location(protocol, f"{protocol}://{rest.strip('/')}")


def holds_password(address: str) -> bool:
    """True if the host of an address such as s3://user:password@bucket/folder comes after a user and a password."""
    return ":" in address.partition("://")[2].partition("/")[0].rpartition("@")[0]
