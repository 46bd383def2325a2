"""`CoopModel`: both roles of a bundle, applied to texts and images in memory, without a collection."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np

from milvus_coop.arguments import check_names
from milvus_coop.bundle.spec import TEXT_ENCODER, BundleSpec
from milvus_coop.config import ModelArguments, Settings
from milvus_coop.errors import BackendUnavailableError
from milvus_coop.models.backends import Backend
from milvus_coop.models.encoder import EncodedImages, EncodedTexts
from milvus_coop.models.open import open_models, split_models
from milvus_coop.models.preprocess.images import ImageInput
from milvus_coop.models.scoring.inputs import OnError, check_images, check_lengths, check_texts, lengths_differ
from milvus_coop.models.scoring.reader import Batch, Reader
from milvus_coop.types import Array

if TYPE_CHECKING:
    from typing_extensions import Unpack

Take = Callable[[Batch, EncodedImages], None]


@dataclass(frozen=True, slots=True)
class Comparison:
    """The scores of every text with every image."""

    similarity: Array
    """Cosines by the bi-encoder, float32 of shape (texts, images)."""
    score: Array
    """Match probabilities in [0, 1] by the cross-encoder, float32 of shape (texts, images)."""


class CoopModel:
    """Embeds texts and images and scores how well they match, without Milvus and without a collection.

    Texts and images are lists or any other iterables, generators included. A single text or image is refused: put it into a list.
    Each text and each image is encoded only once, whatever the number of pairs. Images are read and encoded a few at a time, so
    that the pixels of only a few images are in memory.

    Safe to share between threads. Close it, or use it as a context manager, to free the model.
    """

    def __init__(
        self,
        bundle: str | Path | None = None,
        *,
        models: str | Backend | None = None,
        settings: Settings | None = None,
        **overrides: Unpack[ModelArguments],
    ) -> None:
        """Open a bundle. Arguments that are None come from `settings`.

        A graph is loaded when it is first needed, and a model server is first contacted then.

        Args:
            bundle: name of a shipped bundle (default `coop-small`), or a bundle's folder.
            models: the backend that runs the bundle: `onnx`, `onnx:cuda`, triton://host:8001, or a backend object. The caller has
                to close a backend object.
            settings: default the environment (MILVUS_COOP_BUNDLE, ...), and the built-in defaults for variables that are not set.
            overrides: other values for fields of the settings that models need: `timeout_s=60`, `threads=1`, `max_pixels=`, ... The
                docstrings of `Settings` say what each one is.

        Raises:
            BundleError: the bundle cannot be used.
            InvalidArgumentError: an argument has the wrong type, is out of range, or is unknown (then also a TypeError).
            BackendUnavailableError: the backend that `models` names cannot be used.
        """
        check_names(overrides, ModelArguments.__annotations__)
        settings, backend = split_models(settings, None, models, {"bundle": bundle, **overrides})
        self._timeout_s = settings.timeout_s
        self._models = open_models(settings, backend)
        self._is_closed = False

    @property
    def spec(self) -> BundleSpec:
        """The record of the bundle in use: `spec.dim`, `spec.label`, ..."""
        return self._models.encoder.spec

    def embed_texts(self, texts: Iterable[str]) -> Array:
        """Embed texts. Long texts are cut at the bundle's text length.

        Returns:
            float32 of shape (n, dim), unit rows.

        Raises:
            InvalidArgumentError: `texts` is a single text, or one of the texts is blank or not a string.
            BackendError: the model or its server failed.
        """
        return self._join([encoded.embeddings for encoded in self._encode_texts(check_texts(texts))])

    def embed_images(self, images: Iterable[ImageInput], *, on_error: OnError | None = None) -> Array:
        """Embed images.

        Args:
            images: paths, bytes of image files, open files, or Pillow images.
            on_error: a function that is called with the position of each image that cannot be used, and the error. The row of such
                an image is NaN. Without this function, the first such image raises an error.

        Returns:
            float32 of shape (n, dim), unit rows.

        Raises:
            InvalidArgumentError: `images` is a single image, or one of its elements has a type that cannot be an image.
            ImageError: an image cannot be used; the message has its position, and its path if it has one.
            BackendError: the model or its server failed.
        """
        found: list[tuple[Array, Array]] = []

        def take(batch: Batch, encoded: EncodedImages) -> None:
            found.append((batch.places, encoded.embeddings[batch.rows]))

        n = self._encode_images(images, take, on_error, with_ce=False)
        embeddings = np.full((n, self.spec.dim), np.nan, np.float32)
        for places, rows in found:
            embeddings[places] = rows
        return embeddings

    def similarity(self, texts: Iterable[str], images: Iterable[ImageInput], *, on_error: OnError | None = None) -> Array:
        """Cosines of texts and images, as in the search of a collection.

        Arguments and errors are those of `embed_texts` and `embed_images`; the column of an image that cannot be used is NaN.

        Returns:
            float32 of shape (texts, images), in [-1, 1].
        """
        images = check_images(images)  # before any work
        embeddings = self.embed_texts(texts)
        return np.asarray(embeddings @ self.embed_images(images, on_error=on_error).T)

    def score(self, texts: Iterable[str], images: Iterable[ImageInput], *, on_error: OnError | None = None) -> Array:
        """Match probabilities of every text with every image, the `ce_score` of hits.

        Arguments and errors are those of `embed_texts` and `embed_images`; the column of an image that cannot be used is NaN.

        Returns:
            float32 of shape (texts, images), in [0, 1].
        """
        return self.compare(texts, images, on_error=on_error).score

    def compare(self, texts: Iterable[str], images: Iterable[ImageInput], *, on_error: OnError | None = None) -> Comparison:
        """Both `similarity` and `score`, in the time that `score` takes alone; arguments and errors are the same."""
        images = check_images(images)
        encoded = list(self._encode_texts(check_texts(texts)))
        embeddings = self._join([some.embeddings for some in encoded])
        found: list[tuple[Array, Array, Array]] = []

        def take(batch: Batch, images: EncodedImages) -> None:
            scores = [
                self._models.reranker.score_matrix(some.text_side, images.image_side, timeout_s=self._timeout_s).probability
                for some in encoded
            ]
            cosines = embeddings @ images.embeddings.T
            found.append((batch.places, cosines[:, batch.rows], np.concatenate(scores)[:, batch.rows] if scores else cosines))

        n = self._encode_images(images, take, on_error, with_ce=True)
        similarity, score = (np.full((len(embeddings), n), np.nan, np.float32) for _ in range(2))
        for places, cosines, probabilities in found:
            similarity[:, places] = cosines
            score[:, places] = probabilities
        return Comparison(similarity, score)

    def score_pairs(self, texts: Iterable[str], images: Iterable[ImageInput], *, on_error: OnError | None = None) -> Array:
        """Match probabilities of pairs: text i with image i.

        A text or a path that is repeated several times in a row, such as an image with its five captions, is encoded only once.
        Other arguments and errors are those of `embed_texts` and `embed_images`; the score of an image that cannot be used is NaN.

        Returns:
            float32 of shape (n,), in [0, 1].

        Raises:
            InvalidArgumentError: the numbers of texts and images differ.
        """
        listed = check_texts(texts)
        check_lengths(len(listed), check_images(images))
        scores = np.full(len(listed), np.nan, np.float32)

        def take(batch: Batch, images: EncodedImages) -> None:
            if batch.places[-1] >= len(listed):
                raise lengths_differ(len(listed), f"more than {len(listed):,}")
            row_of = {text: row for row, text in enumerate(dict.fromkeys(listed[place] for place in batch.places))}
            side = self._models.encoder.text_side(self._models.encoder.tokenise(list(row_of)), timeout_s=self._timeout_s)
            rows = np.array([row_of[listed[place]] for place in batch.places])
            pairs = self._models.reranker.score_rows(side, rows, images.image_side, batch.rows, timeout_s=self._timeout_s)
            scores[batch.places] = pairs.probability

        n = self._encode_images(images, take, on_error, with_ce=True)
        if n != len(listed):
            raise lengths_differ(len(listed), f"{n:,}")
        return scores

    def close(self) -> None:
        """Free the model. Safe to call twice."""
        self._is_closed = True
        self._models.close()

    def __enter__(self) -> CoopModel:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _encode_texts(self, texts: list[str]) -> Iterator[EncodedTexts]:
        self._check_open()
        step = self.spec.graph(TEXT_ENCODER).max_batch
        for start in range(0, len(texts), step):
            yield self._models.encoder.encode_texts(texts[start : start + step], timeout_s=self._timeout_s)

    def _encode_images(self, images: Iterable[ImageInput], take: Take, on_error: OnError | None, *, with_ce: bool) -> int:
        """Encode the images, call `take` with each batch, and return the number of images."""
        self._check_open()
        encoder = self._models.encoder
        with closing(Reader(encoder, with_ce=with_ce, on_error=on_error)) as reader:
            for batch in reader.batches(check_images(images)):
                take(batch, encoder.encode_pixels(batch.pixels, timeout_s=self._timeout_s))
            return reader.n_seen

    def _join(self, embeddings: list[Array]) -> Array:
        return np.concatenate(embeddings) if embeddings else np.empty((0, self.spec.dim), np.float32)

    def _check_open(self) -> None:
        if self._is_closed:
            raise BackendUnavailableError("this CoopModel was closed", run="CoopModel(...), to open another")
