"""Reads contents: the cross-encoder's inputs for items, from the place where their collection keeps them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from milvus_coop.bundle.spec import IMAGE_TOKEN_SCALES, IMAGE_TOKENS, TokenSpec
from milvus_coop.bundle.text_states import MASK, text_states
from milvus_coop.deadline import NEVER, Deadline
from milvus_coop.errors import InvalidArgumentError, TokensError, TokenStoreError
from milvus_coop.models.encoder import Encoder, join_pixels
from milvus_coop.models.preprocess.texts import check_text
from milvus_coop.models.text_states import unpack_states
from milvus_coop.models.tokens import arrange, decode
from milvus_coop.search.images import ImageOpener
from milvus_coop.store.token_store import TokenStore
from milvus_coop.types import Array, Content, ImageFile, Kind, StoredText, StoredTokens, TokenFile

NOTHING = "hold nothing that the cross-encoder can read"
"""The problem of rows that should hold a text or tokens themselves but hold none that can be used."""


@dataclass(frozen=True, slots=True)
class ReadContents:
    """The cross-encoder's inputs for the contents that could be read."""

    side: Mapping[str, Array] = field(default_factory=dict)
    """The inputs for n readable contents by input name, each of shape (n, ...)."""
    positions: Sequence[int] = ()
    """The positions of the n readable contents among all that were given, ascending."""


class ContentReader(Protocol):
    """Reads contents of one type. Safe to share between threads."""

    @property
    def lack(self) -> str:
        """The problem of items that cannot be read, as a phrase that follows `3 candidates`."""

    @property
    def n_bytes(self) -> int:
        """Memory for one content in bytes; 0 if it is small or in memory already."""

    def read(self, contents: Sequence[Content | None], timeout_s: float, deadline: Deadline = NEVER) -> ReadContents:
        """Read contents. Those that cannot be read, and those of another type, are left out.

        Args:
            contents: any number of contents, without repetition.
            timeout_s: time limit of each call to a server.
            deadline: the moment at which reading stops; the result must not be used then.

        Raises:
            BackendError, TokenStoreError: no content can be read now.
        """


def content_reader(encoder: Encoder, kind: Kind | None, tokens: TokenStore | None) -> ContentReader:
    """The reader for a collection of that kind, with its token files if it has any."""
    if kind != "image":
        return TextReader(encoder)
    if tokens is not None:
        return TokenFileReader(encoder.spec.tokens, tokens)
    if encoder.spec.tokens.keep == "nowhere":
        return ImageReader(encoder)
    return TokenReader(encoder.spec.tokens)


class TextReader:
    """Reads the states of texts that rows hold, and encodes the texts without states and those with damaged ones."""

    lack = NOTHING
    n_bytes = 0

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self._states = text_states(encoder.spec)

    def read(self, contents: Sequence[Content | None], timeout_s: float, deadline: Deadline = NEVER) -> ReadContents:
        """See `ContentReader.read`."""
        texts = {i: c for i, c in enumerate(contents) if isinstance(c, StoredText) and _is_readable(c.text)}
        if not texts:
            return ReadContents()
        inputs = self._encoder.tokenise([content.text for content in texts.values()])
        strings = [content.states for content in texts.values()]
        return ReadContents(self._side(inputs, strings, deadline.within(timeout_s)), list(texts))

    def _side(self, inputs: Mapping[str, Array], strings: Sequence[str], timeout_s: float) -> Mapping[str, Array]:
        if not self._states or not any(strings):
            return self._encoder.text_side(inputs, timeout_s=timeout_s)
        stored, sound = unpack_states(self._states, strings, inputs[MASK])
        if not sound.all():
            rest = {name: array[~sound] for name, array in inputs.items()}
            encoded = self._encoder.text_side(rest, timeout_s=timeout_s)
            if any(encoded[name].shape[1:] != array.shape[1:] for name, array in stored.items()):
                return self._encoder.text_side(inputs, timeout_s=timeout_s)  # no ingest made states for such a text encoder
            for name, array in stored.items():
                array[~sound] = encoded[name]
        return {name: stored[name] if name in stored else inputs[name] for name in self._encoder.spec.text_side}


class TokenReader:
    """Decodes the image tokens that rows hold."""

    lack = NOTHING
    n_bytes = 0

    def __init__(self, spec: TokenSpec) -> None:
        self._spec = spec

    def read(self, contents: Sequence[Content | None], timeout_s: float, deadline: Deadline = NEVER) -> ReadContents:
        """See `ContentReader.read`."""
        return _token_inputs(map(self._decoded, contents), self._spec)

    def _decoded(self, content: Content | None) -> bytes | None:
        try:
            return decode(content.encoded, self._spec) if isinstance(content, StoredTokens) else None
        except TokensError:
            return None


class TokenFileReader:
    """Reads image tokens from the files that rows name."""

    lack = "have no token file, or a damaged one"

    def __init__(self, spec: TokenSpec, store: TokenStore) -> None:
        self._spec = spec
        self._store = store
        self.n_bytes = spec.n_bytes

    def read(self, contents: Sequence[Content | None], timeout_s: float, deadline: Deadline = NEVER) -> ReadContents:
        """See `ContentReader.read`."""
        keys = [c.key if isinstance(c, TokenFile) else "" for c in contents]
        try:
            found = self._store.read(keys, self._spec.n_bytes, timeout_s=deadline.within(timeout_s))
        except TokenStoreError:
            if deadline.remaining() <= 0:
                return ReadContents()
            raise
        return _token_inputs(found, self._spec)


class ImageReader:
    """Opens the images themselves at their uris. This is slow, because each image is decoded for every query."""

    lack = "have no image that can be opened at their uri; only files of this machine are opened"

    def __init__(self, encoder: Encoder) -> None:
        self._opener = ImageOpener(encoder)
        self.n_bytes = self._opener.n_bytes

    def read(self, contents: Sequence[Content | None], timeout_s: float, deadline: Deadline = NEVER) -> ReadContents:
        """See `ContentReader.read`."""
        found = self._opener.open([c.uri if isinstance(c, ImageFile) else "" for c in contents], deadline)
        pixels = {i: arrays for i, arrays in enumerate(found) if arrays is not None}
        return ReadContents(join_pixels(list(pixels.values())), list(pixels)) if pixels else ReadContents()


def _is_readable(text: str) -> bool:
    """True if the encoder accepts the text."""
    try:
        check_text(text)
    except InvalidArgumentError:
        return False
    return True


def _token_inputs(found: Iterable[bytes | None], spec: TokenSpec) -> ReadContents:
    """The tokens of images from their bytes; None for an image without tokens."""
    raws = {i: raw for i, raw in enumerate(found) if raw is not None}
    if not raws:
        return ReadContents()
    tokens, scales = arrange(list(raws.values()), spec)
    return ReadContents({IMAGE_TOKENS: tokens, IMAGE_TOKEN_SCALES: scales}, list(raws))
