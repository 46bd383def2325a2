"""Opens the bundle and the backend that `--bundle` and `--models` name: a bi-encoder and a cross-encoder, ready to run."""

from __future__ import annotations

from dataclasses import dataclass

from milvus_coop.bundle.folder import CE_TOKENIZER, TOKENIZER, Bundle, load_bundle
from milvus_coop.config import Settings
from milvus_coop.errors import BundleMismatchError
from milvus_coop.models.backends import Backend, open_backend
from milvus_coop.models.encoder import Encoder
from milvus_coop.models.preprocess.images import MAX_PIXELS
from milvus_coop.models.preprocess.texts import Tokenizer
from milvus_coop.models.reranker import Reranker


@dataclass(frozen=True, slots=True)
class Models:
    """The bi-encoder and the cross-encoder of one bundle, on one backend."""

    backend: Backend
    encoder: Encoder
    reranker: Reranker
    owned: bool
    """True if the backend was opened here; `close` then closes it."""

    def close(self) -> None:
        """Close the backend if it was opened here."""
        if self.owned:
            self.backend.close()


def open_models(settings: Settings, backend: Backend | None = None) -> Models:
    """Open the bundle that the settings name and run it with `backend`; without one, with the backend that the settings name.

    Raises:
        BundleError: the bundle cannot be used.
        BundleMismatchError: `backend` runs another bundle.
        InvalidArgumentError, BackendUnavailableError: see `open_backend`.
    """
    bundle = load_bundle(settings.bundle)
    opened = backend or open_backend(settings, bundle)
    if opened.spec.fingerprint != bundle.spec.fingerprint:
        raise BundleMismatchError(
            f"the backend runs {opened.spec.label} ({opened.spec.fingerprint})",
            expected=f"{bundle.spec.label} ({bundle.spec.fingerprint})",
        )
    return Models(opened, open_encoder(bundle, opened, settings.max_pixels), Reranker(opened), owned=backend is None)


def open_encoder(bundle: Bundle, backend: Backend, max_pixels: int = MAX_PIXELS) -> Encoder:
    """The bi-encoder of a bundle on a backend, with the bundle's tokenizers; see `decode` for `max_pixels`."""
    spec = bundle.spec
    ce_tokenizer = None if spec.ce_text is None else Tokenizer(bundle.path(CE_TOKENIZER), spec.ce_text)
    return Encoder(backend, Tokenizer(bundle.path(TOKENIZER), spec.text), ce_tokenizer, max_pixels=max_pixels)
