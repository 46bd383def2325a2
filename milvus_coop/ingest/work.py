"""The work on items: reading one item, and encoding a batch of items. There is one class for images and one for texts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Protocol

import numpy as np

from milvus_coop.bundle.spec import IMAGE_TOKEN_SCALES
from milvus_coop.bundle.text_states import text_states
from milvus_coop.elsewhere.outages import may_pass
from milvus_coop.errors import ImageError, InvalidArgumentError, reason_of
from milvus_coop.ingest.images import HALF, NO_VERSION, StoredImage, read, stored
from milvus_coop.ingest.items import Item, checked, hash_of, hash_of_metadata
from milvus_coop.models.encoder import EncodedImages, Encoder, Pixels, join_pixels
from milvus_coop.models.preprocess.images import name_in_errors
from milvus_coop.models.preprocess.texts import check_text
from milvus_coop.models.text_states import pack_states
from milvus_coop.models.tokens import pack, to_bytes
from milvus_coop.store.schema import VARCHAR_BYTES
from milvus_coop.store.token_store import TokenStore, token_key
from milvus_coop.types import Array, Content, Failure, ImageFile, Kind, Row, Stamp, StoredText, StoredTokens, TokenFile


@dataclass(frozen=True, slots=True)
class Ready:
    """An item that was read and will be encoded."""

    item: Item
    digest: str
    size: int
    mtime_ns: int
    known: bool
    """True if the collection already has the item."""
    pixels: Pixels = field(default_factory=dict)
    """The inputs of the image encoder for this image; empty for a text."""
    renews: bool = False
    """True if the collection has this content already, with other metadata or another time. Then it is not encoded again."""
    same_metadata: bool = False
    """True if its metadata is that in the collection, or not known."""

    def is_of(self, row: Row | None) -> bool:
        """True if the row has the content of this item."""
        return row is not None and row.digest[:HALF] == self.digest[:HALF]

    def renewed(self, row: Row) -> Row:
        """The row of the collection, with the stamp and the metadata of this item."""
        metadata = row.metadata if self.item.metadata is None else self.item.metadata
        return replace(row, uri=self.item.uri, digest=self.digest, size=self.size, mtime_ns=self.mtime_ns, metadata=metadata)


@dataclass(frozen=True, slots=True)
class Encoded:
    """The rows of a batch."""

    rows: list[Row | Failure]
    """The row of each item; a failure in its place if the model returned numbers for it that are not finite."""
    save: Callable[[], None] | None = None
    """Writes the token files that the rows name, and has to be called before the rows are written; None if they name none."""


class Work(Protocol):
    """The work of an ingest on items of one kind."""

    def prepare(self, item: Item, stamp: Stamp | None, force: bool) -> Ready | Failure | None:
        """Read one item. This is called in several threads.

        Args:
            item: the item to read.
            stamp: the item's stamp in the collection; None if the item is new.
            force: encode the item even if it is unchanged.

        Returns:
            The item to encode, a `Failure` if it cannot be read, or None if it is unchanged.
        """

    def encode(self, batch: Sequence[Ready]) -> Encoded:
        """Encode a batch. This may be called in several threads.

        Raises:
            BackendError: the model failed.
        """


def work_for(kind: Kind, encoder: Encoder, tokens: TokenStore | None = None) -> Work:
    """The work for a collection of that kind.

    Raises:
        InvalidArgumentError: the bundle keeps tokens in files, and `tokens` is None.
    """
    if kind == "text":
        return TextWork(encoder)
    if encoder.spec.tokens.keep == "store" and tokens is None:
        raise InvalidArgumentError(
            f"bundle {encoder.spec.label} keeps image tokens in files, and no token store is given", expected="Collection.tokens"
        )
    return ImageWork(encoder, tokens)


class ImageWork:
    """Reads, decodes and shrinks images in threads, and runs the image encoder on batches."""

    def __init__(self, encoder: Encoder, tokens: TokenStore | None = None) -> None:
        self._encoder = encoder
        self._tokens = tokens

    def prepare(self, item: Item, stamp: Stamp | None, force: bool) -> Ready | Failure | None:
        """See `Work.prepare`."""
        if isinstance(problem := checked(item), Failure):
            return problem
        try:
            return self._prepare(item, stamp, force)
        except ImageError as exc:
            name = name_in_errors(item.uri)
            return Failure(item.uri, str(exc).removeprefix(f"{name}: ").removeprefix(f"{name} "))
        except OSError as exc:
            return Failure(item.uri, f"cannot be read: {reason_of(exc)}", may_pass(exc))
        except (MemoryError, ValueError) as exc:
            return Failure(item.uri, f"cannot be read: {exc or type(exc).__name__}")

    def _prepare(self, item: Item, stamp: Stamp | None, force: bool) -> Ready | Failure | None:
        image = stored(item.image)
        version = image.version() if isinstance(image, StoredImage) else None
        metadata = hash_of_metadata(item.metadata)
        same_metadata = stamp is not None and (item.metadata is None or stamp.digest[HALF:] == metadata)
        skip = same_metadata and not force
        if stamp and skip and version == (stamp.size, stamp.mtime_ns):
            return None
        with read(image, self._encoder, item.uri) as found:
            size, mtime_ns = version or (found.n_bytes, NO_VERSION)
            if stamp and not force and stamp.digest[:HALF] == found.digest:
                if same_metadata and version is None:
                    return None
                digest = found.digest + (stamp.digest[HALF:] if item.metadata is None else metadata)
                return Ready(item, digest, size, mtime_ns, known=True, renews=True, same_metadata=same_metadata)
            if stamp and item.metadata is None and stamp.digest[HALF:] != metadata:
                return Failure(item.uri, "an update from here would lose its metadata, which came from a list; ingest that list")
            pixels = self._encoder.pixels([found.decode()])
        # The image itself is no longer needed, and a batch of images may be large.
        return Ready(replace(item, image=None), found.digest + metadata, size, mtime_ns, stamp is not None, pixels)

    def encode(self, batch: Sequence[Ready]) -> Encoded:
        """See `Work.encode`."""
        encoded = self._encoder.encode_pixels(join_pixels([ready.pixels for ready in batch]))
        contents, save = self._contents(batch, encoded)
        return Encoded(_rows(batch, contents, encoded.embeddings, encoded.image_side.get(IMAGE_TOKEN_SCALES)), save)

    def _contents(self, batch: Sequence[Ready], encoded: EncodedImages) -> tuple[Sequence[Content], Callable[[], None] | None]:
        """The contents of the rows, and the function that writes the token files if there are any."""
        if self._encoder.spec.tokens.keep == "nowhere":
            return [ImageFile(ready.item.uri) for ready in batch], None
        if self._tokens is None:
            return [StoredTokens(string) for string in pack(encoded.tokens, encoded.scales)], None
        keys = [token_key(ready.item.id, ready.digest) for ready in batch]
        files = dict(zip(keys, to_bytes(encoded.tokens, encoded.scales), strict=True))
        return [TokenFile(key) for key in keys], partial(self._tokens.write, files)


class TextWork:
    """Checks texts, and runs the text encoder on batches."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self._states = text_states(encoder.spec)

    def prepare(self, item: Item, stamp: Stamp | None, force: bool) -> Ready | Failure | None:
        """See `Work.prepare`."""
        if item.text is None:
            return Failure(item.uri, "the item has no text")
        if isinstance(problem := checked(item), Failure):
            return problem
        try:
            check_text(item.text)
        except InvalidArgumentError as exc:
            return Failure(item.uri, str(exc))
        content = item.text.encode()
        if len(content) > VARCHAR_BYTES:
            return Failure(item.uri, f"the text has {len(content):,} bytes; expected: at most {VARCHAR_BYTES:,}")
        digest = hash_of(content) + hash_of_metadata(item.metadata)
        if stamp and not force and stamp.digest == digest:
            return None
        if stamp and not force and stamp.digest[:HALF] == digest[:HALF]:
            return Ready(replace(item, metadata=item.metadata or {}), digest, len(content), 0, known=True, renews=True)
        return Ready(item, digest, len(content), 0, known=stamp is not None)

    def encode(self, batch: Sequence[Ready]) -> Encoded:
        """See `Work.encode`."""
        encoded = self._encoder.encode_texts(texts := [ready.item.text or "" for ready in batch])
        contents = map(StoredText, texts, pack_states(self._states, encoded.text_side, len(texts)))
        return Encoded(_rows(batch, contents, encoded.embeddings))


def _rows(
    batch: Sequence[Ready], contents: Iterable[Content], embeddings: Array, scales: Array | None = None
) -> list[Row | Failure]:
    rows: list[Row | Failure] = []
    for i, (ready, content) in enumerate(zip(batch, contents, strict=True)):
        if np.isfinite(embeddings[i]).all() and (scales is None or np.isfinite(scales[i]).all()):
            rows.append(_row(ready, embeddings[i], content))
        else:
            rows.append(Failure(ready.item.uri, "the model returned numbers that are not finite"))
    return rows


def _row(ready: Ready, embedding: Array, content: Content) -> Row:
    item = ready.item
    return Row(
        id=item.id,
        uri=item.uri,
        digest=ready.digest,
        size=ready.size,
        mtime_ns=ready.mtime_ns,
        embedding=embedding,
        content=content,
        metadata=item.metadata or {},
    )
