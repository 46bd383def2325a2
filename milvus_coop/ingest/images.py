"""The images of items. An image is read when its turn comes, wherever it is: in a file, in memory, or elsewhere."""

from __future__ import annotations

import hashlib
import io
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol, runtime_checkable

from PIL import Image

from milvus_coop.elsewhere.objects import Version
from milvus_coop.errors import ImageUnreadableError, InvalidArgumentError
from milvus_coop.models.encoder import Encoder

HALF = 32
"""Number of hex digits of an id, and of each half of a digest: 128 bits."""
CHUNK_BYTES = 1 << 20
NO_VERSION = 0
"""The `mtime_ns` of an item whose content alone shows whether it changed."""


@runtime_checkable
class StoredImage(Protocol):
    """The file of an image that is kept elsewhere. Its methods are called in several threads, and raise OSError or ImageError."""

    def version(self) -> Version | None:
        """The version of the file; None if only its content can tell whether it changed."""

    def open(self) -> IO[bytes]:
        """The file, opened for reading at its start. It can seek."""


ImageLike = str | os.PathLike[str] | bytes | bytearray | memoryview | Image.Image | StoredImage
"""An image of an item: the path of a file, the bytes of a file, an image of Pillow's, or a `StoredImage`."""


@dataclass(frozen=True, slots=True)
class ReadImage:
    """An image that was opened and hashed, and that can be decoded."""

    digest: str
    """Hash of the file, 32 hex digits; for an image of Pillow's, of its size and pixels."""
    n_bytes: int
    decode: Callable[[], Image.Image]


LARGEST_NS = 2**63 - 1
"""Maximum of a time that a collection can keep. Of a later time, which a wrong clock may give a file, 63 bits are kept."""


@dataclass(frozen=True, slots=True)
class LocalImage:
    """An image file of this machine."""

    path: Path

    def version(self) -> Version:
        """Size and modification time."""
        status = self.path.stat()
        if not stat.S_ISREG(status.st_mode):  # opening a pipe would block forever
            raise ImageUnreadableError("is a folder" if stat.S_ISDIR(status.st_mode) else "is not a regular file")
        changed = status.st_mtime_ns
        return status.st_size, changed if changed <= LARGEST_NS else changed & LARGEST_NS

    def open(self) -> IO[bytes]:
        """The file."""
        return self.path.open("rb")


@dataclass(frozen=True, slots=True)
class HeldImage:
    """The bytes of an image file, in memory."""

    content: bytes | bytearray | memoryview

    def version(self) -> None:
        """There is none."""

    def open(self) -> IO[bytes]:
        """The bytes as a file."""
        return io.BytesIO(self.content)


def stored(image: ImageLike | None) -> StoredImage | Image.Image:
    """The image as an object that can be opened.

    Raises:
        ImageUnreadableError: there is none.
        InvalidArgumentError: it is of another type.
    """
    if image is None:
        raise ImageUnreadableError("the item has no image")
    if isinstance(image, str | os.PathLike):
        return LocalImage(Path(image))
    if isinstance(image, bytes | bytearray | memoryview):
        return HeldImage(image)
    if isinstance(image, Image.Image | StoredImage):
        return image
    raise InvalidArgumentError(
        f"the image is of type {type(image).__name__}", expected="a path, the bytes of a file, or an image of Pillow's"
    )


@contextmanager
def read(image: StoredImage | Image.Image, encoder: Encoder, name: str) -> Iterator[ReadImage]:
    """The image, opened and hashed. It is decoded as the encoder's bundle needs it; `name` names it in errors."""
    if isinstance(image, Image.Image):
        decoded = encoder.decode(image, name=name)
        pixels = decoded.tobytes()
        digest = hashlib.sha256(f"{decoded.size}".encode() + pixels).hexdigest()[:HALF]
        yield ReadImage(digest, len(pixels), lambda: decoded)
        return
    with image.open() as file:
        sha, n_bytes = hashlib.sha256(), 0
        while chunk := file.read(CHUNK_BYTES):
            sha.update(chunk)
            n_bytes += len(chunk)
        file.seek(0)
        yield ReadImage(sha.hexdigest()[:HALF], n_bytes, lambda: encoder.decode(file, name=name))


def bytes_held(image: ImageLike | None) -> int:
    """The memory that an image takes while it waits for its turn, in bytes; 0 if it is kept elsewhere."""
    if isinstance(image, bytes | bytearray):
        return len(image)
    if isinstance(image, memoryview):
        return image.nbytes
    return 4 * image.width * image.height if isinstance(image, Image.Image) else 0
