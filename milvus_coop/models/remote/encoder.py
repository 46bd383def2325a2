"""`RemoteEncoder`: embeds texts and images with a server, in the place of the bundle's bi-encoder."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from PIL.Image import Image

from milvus_coop.arguments import many
from milvus_coop.bundle.spec import PIXELS, TEXT_ENCODER, BundleSpec
from milvus_coop.deadline import Deadline
from milvus_coop.errors import BackendError
from milvus_coop.models.encoder import EncodedImages, EncodedTexts, Encoder, Pixels
from milvus_coop.models.preprocess.texts import check_text
from milvus_coop.models.preprocess.thumbnails import thumbnail
from milvus_coop.models.remote.client import EmbedClient
from milvus_coop.models.remote.protocols import Role
from milvus_coop.models.text_memory import TextMemory
from milvus_coop.servers.parts import EDGE, Part
from milvus_coop.types import Array

AT_ONCE = 4
"""Maximum number of requests of one call that run at the same time, and of batches that an ingest encodes at the same time."""
QUALITY = 90
"""Quality of the JPEGs that are sent."""


class RemoteEncoder(Encoder):
    """Asks one server. Safe to share between threads.

    In the place of pixels, `pixels` returns the JPEG files that are sent, as an array of objects.

    Args:
        client: asks the server.
        spec: the facts about the server's model, in the form of a bundle.
        timeout_s: time limit of each request, for calls that give none.
        max_pixels: see `Encoder`.
        remembered_texts: see `Encoder`.
    """

    def __init__(
        self, client: EmbedClient, spec: BundleSpec, *, timeout_s: float, max_pixels: int, remembered_texts: int = 0
    ) -> None:
        super().__init__(max_pixels, runs=AT_ONCE)
        self._client = client
        self._spec = spec
        self._timeout_s = timeout_s
        self._memory = TextMemory(spec.graph(TEXT_ENCODER), remembered_texts)

    @property
    def spec(self) -> BundleSpec:
        """The facts about the server's model, in the form of a bundle."""
        return self._spec

    def encode_texts(self, texts: Iterable[str], *, timeout_s: float | None = None) -> EncodedTexts:
        """See `Encoder.encode_texts`. The server decides how much of a long text it reads."""
        return EncodedTexts(self._embed(_checked(texts), "item", timeout_s), {})

    def encode_query_texts(self, texts: Iterable[str], *, timeout_s: float | None = None) -> EncodedTexts:
        """See `Encoder.encode_query_texts`."""
        listed = _checked(texts)

        def run(rows: Sequence[int]) -> dict[str, Array]:
            return {"text_embedding": self._embed([listed[row] for row in rows], "query", timeout_s)}

        return EncodedTexts(self._memory.outputs(listed, 0, run)["text_embedding"], {})

    def text_side(self, inputs: Mapping[str, Array], *, timeout_s: float | None = None) -> dict[str, Array]:
        """Nothing: no cross-encoder belongs to the server."""
        return {}

    def tokenise(self, texts: Iterable[str]) -> dict[str, Array]:
        """Nothing, because the server tokenises."""
        _checked(texts)
        return {}

    def pixels(self, images: Sequence[Image]) -> dict[str, Array]:
        """The JPEG file of each image, with a longer edge of at most 768 pixels."""
        files = np.empty(len(images), dtype=object)
        files[:] = [thumbnail(image, EDGE, quality=QUALITY, max_pixels=self._max_pixels) for image in images]
        return {PIXELS: files}

    def ce_pixels(self, images: Sequence[Image]) -> dict[str, Array]:
        """Nothing: no cross-encoder belongs to the server."""
        return {}

    def encode_pixels(self, pixels: Pixels, *, timeout_s: float | None = None) -> EncodedImages:
        """See `Encoder.encode_pixels`."""
        return EncodedImages(self._embed(list(pixels[PIXELS]), "item", timeout_s), {})

    def _embed(self, parts: Sequence[Part], role: Role, timeout_s: float | None) -> Array:
        end = None if timeout_s is None else Deadline(timeout_s)
        portions = list(self._client.portions(parts))
        if len(portions) == 1:
            return self._embeddings(portions[0], role, end)
        if not portions:
            return np.empty((0, self.spec.dim), dtype=np.float32)
        with ThreadPoolExecutor(min(AT_ONCE, len(portions)), "milvus-coop-embed") as pool:
            return np.concatenate(list(pool.map(lambda portion: self._embeddings(portion, role, end), portions)))

    def _embeddings(self, portion: Sequence[Part], role: Role, end: Deadline | None) -> Array:
        found = self._client.embed(portion, role, end or Deadline(self._timeout_s))
        if found.shape[1] != self.spec.dim:
            raise BackendError(
                f"{self._client.label} returns embeddings of {found.shape[1]} dimensions",
                expected=f"{self.spec.dim}, as before, from the same model",
            )
        return found


def _checked(texts: Iterable[str]) -> list[str]:
    listed = many("texts", texts, "a list of texts")
    for text in listed:
        check_text(text)
    return listed
