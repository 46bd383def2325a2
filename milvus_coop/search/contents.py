"""Contents: the cross-encoder's inputs for candidates, read from the place where their collection keeps them."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from milvus_coop.bundle.spec import IMAGE_TOKEN_SCALES, IMAGE_TOKENS, TokenSpec
from milvus_coop.errors import TokensError, TokenStoreError
from milvus_coop.models.encoder import Encoder
from milvus_coop.models.tokens import arrange, decode
from milvus_coop.search.pictures import Pictures
from milvus_coop.store.token_store import TokenStore
from milvus_coop.types import Array, Candidate, Kind

NOTHING = "hold nothing that the cross-encoder can read"
"""The problem of rows that should hold a text or tokens themselves but hold none that can be used."""


@dataclass(frozen=True, slots=True)
class Read:
    """The cross-encoder's inputs for the candidates that could be read."""

    side: Mapping[str, Array] = field(default_factory=dict)
    """The inputs for n readable candidates by input name, each of shape (n, ...)."""
    positions: Sequence[int] = ()
    """The positions of the n readable candidates among all candidates, ascending."""


class Contents(Protocol):
    """Reads candidates. Safe to share between threads."""

    @property
    def lack(self) -> str:
        """The problem of candidates that cannot be read, as a phrase that follows `3 candidates`."""

    @property
    def n_bytes(self) -> int:
        """Memory for one candidate's content in bytes; 0 if it is small or in memory already."""

    def read(self, candidates: Sequence[Candidate], timeout_s: float, deadline_s: float | None) -> Read:
        """Read candidates. Those that cannot be read are left out.

        Args:
            candidates: any number of candidates, without repetition.
            timeout_s: time limit of each call to a server.
            deadline_s: value of `time.perf_counter()` at which reading stops; the result must not be used then.

        Raises:
            BackendError, TokenStoreError: no candidate can be read now.
        """


def contents_of(encoder: Encoder, kind: Kind | None, tokens: TokenStore | None) -> Contents:
    """The reader for rows of a collection of that kind, with its token files if it has any."""
    if kind != "image":
        return Texts(encoder)
    if tokens is not None:
        return TokenFiles(encoder.spec.tokens, tokens)
    if encoder.spec.tokens.keep == "image":
        return PictureFiles(encoder)
    return Tokens(encoder.spec.tokens)


class Texts:
    """Reads and encodes the texts that rows hold."""

    lack = NOTHING
    n_bytes = 0

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder

    def read(self, candidates: Sequence[Candidate], timeout_s: float, deadline_s: float | None) -> Read:
        """See `Contents.read`."""
        texts = {i: c.payload for i, c in enumerate(candidates) if c.payload and c.payload.strip()}
        if not texts:
            return Read()
        left_s = timeout_s if deadline_s is None else min(timeout_s, deadline_s - time.perf_counter())
        return Read(self._encoder.encode_texts(list(texts.values()), timeout_s=left_s).text_side, list(texts))


class Tokens:
    """Reads the image tokens that rows hold themselves."""

    lack = NOTHING
    n_bytes = 0

    def __init__(self, spec: TokenSpec) -> None:
        self._spec = spec

    def read(self, candidates: Sequence[Candidate], timeout_s: float, deadline_s: float | None) -> Read:
        """See `Contents.read`."""
        raws = {i: raw for i, c in enumerate(candidates) if (raw := self._decoded(c)) is not None}
        return Read(_token_side(list(raws.values()), self._spec), list(raws)) if raws else Read()

    def _decoded(self, candidate: Candidate) -> bytes | None:
        try:
            return decode(candidate.payload or "", self._spec)
        except TokensError:
            return None


class TokenFiles:
    """Reads image tokens from the files that rows name."""

    lack = "have no token file, or a damaged one"

    def __init__(self, spec: TokenSpec, store: TokenStore) -> None:
        self._spec = spec
        self._store = store
        self.n_bytes = spec.n_bytes

    def read(self, candidates: Sequence[Candidate], timeout_s: float, deadline_s: float | None) -> Read:
        """See `Contents.read`."""
        left_s = timeout_s if deadline_s is None else max(0.0, min(timeout_s, deadline_s - time.perf_counter()))
        try:
            found = self._store.read([c.payload or "" for c in candidates], self._spec.n_bytes, timeout_s=left_s)
        except TokenStoreError:
            if deadline_s is not None and time.perf_counter() >= deadline_s:
                return Read()
            raise
        raws = {i: raw for i, raw in enumerate(found) if raw is not None}
        return Read(_token_side(list(raws.values()), self._spec), list(raws)) if raws else Read()


class PictureFiles:
    """Opens the images again at the uri of each row. This is slow, because each image is decoded for every query."""

    lack = "have no image that can be opened at their uri; only files of this machine are opened"

    def __init__(self, encoder: Encoder) -> None:
        self._pictures = Pictures(encoder)
        self.n_bytes = self._pictures.n_bytes

    def read(self, candidates: Sequence[Candidate], timeout_s: float, deadline_s: float | None) -> Read:
        """See `Contents.read`."""
        found = self._pictures.open([c.uri for c in candidates], deadline_s)
        pixels = {i: arrays for i, arrays in enumerate(found) if arrays is not None}
        return Read(self._pictures.together(list(pixels.values())), list(pixels)) if pixels else Read()


def _token_side(raws: Sequence[bytes], spec: TokenSpec) -> dict[str, Array]:
    tokens, scales = arrange(raws, spec)
    return {IMAGE_TOKENS: tokens, IMAGE_TOKEN_SCALES: scales}
