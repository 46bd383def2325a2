"""The true scores: every image is drawn again, embedded in this process, and compared with every text without any index.

A version is the number from which an image is drawn (`tests.toy_bundle.draw`); no two versions are alike.
"""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from benchmarks.campaign.history import Call
from milvus_coop.config import Settings
from milvus_coop.ingest.items import hash_of
from milvus_coop.models.encoder import EncodedImages, join_pixels
from milvus_coop.models.open import open_models
from milvus_coop.types import Array
from tests.toy_bundle import WORDS, draw

TEXTS = tuple(f"{a} {b} {c} the {d}" for a in ("a", "red") for b in WORDS[3:6] for c in WORDS[6:9] for d in ("beach", "cat", "dog"))


def versions_of(calls: Iterable[Call]) -> set[int]:
    """All versions that calls have written."""
    return {version for call in calls for version in call.arguments.get("items", {}).values()}


BATCH = 1000
"""Number of images that are encoded at once."""


class Truth:
    """The scores that one bundle gives, for all versions that were made known. Safe to share between threads."""

    def __init__(self, bundle: Path | str, versions: Iterable[int] = ()) -> None:
        self._models = open_models(Settings(bundle=str(bundle), threads=1))
        self.fingerprint = self._models.encoder.spec.fingerprint
        self.keep = self._models.encoder.spec.tokens.keep
        self._rows: dict[int, int] = {}
        self._digests: dict[str, int] = {}
        self._embeddings: Array = np.empty((0, self._models.encoder.spec.dim), np.float32)
        self._side: dict[str, Array] = {}
        self._scores: dict[str, tuple[Array, Array]] = {}
        self._lock = threading.Lock()
        self.add(versions)

    def add(self, versions: Iterable[int]) -> None:
        """Make versions known."""
        with self._lock:
            new = [version for version in dict.fromkeys(versions) if version not in self._rows]
            parts = [self._encode(new[start : start + BATCH]) for start in range(0, len(new), BATCH)]
            if not parts:
                return
            self._rows |= {version: len(self._rows) + i for i, version in enumerate(new)}
            self._embeddings = np.concatenate([self._embeddings, *(part.embeddings for part in parts)])
            sides = [*([self._side] if self._side else []), *(part.image_side for part in parts)]
            self._side, self._scores = {name: np.concatenate([side[name] for side in sides]) for name in sides[0]}, {}

    def _encode(self, versions: Sequence[int]) -> EncodedImages:
        pixels = []
        with tempfile.TemporaryDirectory() as folder:
            for version in versions:
                content = draw(Path(folder, "image.png"), version).read_bytes()
                self._digests[hash_of(content)] = version
                images = [self._models.encoder.decode(content)]
                pixels.append({**self._models.encoder.pixels(images), **self._models.encoder.ce_pixels(images)})
        return self._models.encoder.encode_pixels(join_pixels(pixels))

    def version_of(self, digest: str) -> int | None:
        """The version whose file has this content hash; None if there is none."""
        return self._digests.get(digest[:32])

    def embedding(self, version: int) -> Array:
        """float32 of shape (dim,), unit length."""
        embedding: Array = self._embeddings[self._rows[version]]
        return embedding

    def scores(self, text: str) -> tuple[Array, Array]:
        """Cosine and match probability of a text with every known version; see `row`."""
        with self._lock:
            if text not in self._scores:
                encoded = self._models.encoder.encode_texts([text])
                found = self._models.reranker.score_matrix(encoded.text_side, self._side)
                self._scores[text] = (self._embeddings @ encoded.embeddings[0], found.probability[0])
            return self._scores[text]

    def row(self, version: int) -> int:
        """The place of a version in the arrays of `scores`."""
        return self._rows[version]

    def close(self) -> None:
        self._models.close()
