"""Opens the bundle and the backend that `--bundle` and `--models` name: a bi-encoder and a cross-encoder, ready to run."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from milvus_coop.bundle.folder import CE_TOKENIZER, TOKENIZER, Bundle, load_bundle
from milvus_coop.config import Settings
from milvus_coop.cores import thread_count
from milvus_coop.errors import BundleMismatchError, InvalidArgumentError, MilvusCoopError, quoted
from milvus_coop.models.backends import Backend, open_backend
from milvus_coop.models.encoder import BundleEncoder, Encoder
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


IN_PROCESS = ("onnx", "onnx:cpu")
"""The names of the backend whose runs share the cores of this process."""


def open_models(settings: Settings, backend: Backend | None = None, *, runs: int = 1) -> Models:
    """Open the bundle that the settings name and run it with `backend`; without one, with the backend that the settings name.

    Args:
        settings: the settings.
        backend: the backend, which the caller has to close.
        runs: number of batches that the caller would encode at the same time. A backend that is opened here, and runs on the cores
            of this process, divides its threads among them. With any other, `Encoder.runs` is 1.

    Raises:
        BundleError: the bundle cannot be used.
        BundleMismatchError: `backend` runs another bundle.
        InvalidArgumentError, BackendUnavailableError: see `open_backend`.
        BackendError: the embedder that the settings name does not answer; see `open_embedder`.
    """
    if settings.embedder:
        return _open_embedder(settings, backend)
    bundle = load_bundle(settings.bundle)
    if backend is None and settings.models in IN_PROCESS:
        threads = thread_count(settings.threads)
        runs = min(runs, threads)
        settings = settings.override(threads=threads // runs)
    else:
        runs = 1
    opened = backend or open_backend(settings, bundle)
    if opened.spec.fingerprint != bundle.spec.fingerprint:
        raise BundleMismatchError(
            f"the backend runs {opened.spec.label} ({opened.spec.fingerprint})",
            expected=f"{bundle.spec.label} ({bundle.spec.fingerprint})",
        )
    encoder = open_encoder(bundle, opened, settings.max_pixels, settings.remembered_texts, runs)
    return Models(opened, encoder, Reranker(opened), owned=backend is None)


def _open_embedder(settings: Settings, backend: Backend | None) -> Models:
    from milvus_coop.models.remote.embedder import open_embedder
    from milvus_coop.models.remote.server import embed_server_of

    server = embed_server_of(settings)
    assert server is not None  # noqa: S101 - the settings name one
    if backend is not None:
        raise InvalidArgumentError(f"there is a backend and the embedder {server.server.label}", expected="one of them")
    opened, encoder = open_embedder(server, settings)
    return Models(opened, encoder, Reranker(opened), owned=True)


@contextmanager
def loading(backend: Backend, graphs: Sequence[str]) -> Iterator[None]:
    """Load graphs while the `with` block does something else, such as connecting to Milvus. ONNX Runtime leaves a core to it.

    It raises nothing by itself: a graph that cannot be loaded raises its error when it is loaded again.
    """

    def load() -> None:
        with suppress(MilvusCoopError):
            backend.load(graphs)

    thread = threading.Thread(target=load, name="milvus-coop-load", daemon=True)
    thread.start()
    try:
        yield
    finally:
        thread.join()


def split_models(
    settings: Settings | None, collection: str | None, models: str | Backend | None, overrides: Mapping[str, object]
) -> tuple[Settings, Backend | None]:
    """The settings and the backend object that the arguments of a constructor stand for.

    Raises:
        UnknownArgumentError, InvalidArgumentError: see `Settings.override`; or `models` is neither a string nor a backend.
    """
    named, backend = (models, None) if isinstance(models, str) else (None, models)
    if backend is not None and not isinstance(backend, Backend):
        raise InvalidArgumentError(f"models is {quoted(models)}", expected="onnx, triton://host:8001, or a backend object")
    return Settings.of(settings).override(collection=collection, models=named, **overrides), backend


def open_encoder(
    bundle: Bundle, backend: Backend, max_pixels: int = MAX_PIXELS, remembered_texts: int = 0, runs: int = 1
) -> Encoder:
    """The bi-encoder of a bundle on a backend, with the bundle's tokenizers; for the other arguments, see `BundleEncoder`."""
    spec = bundle.spec
    ce_tokenizer = None if spec.ce_text is None else Tokenizer(bundle.path(CE_TOKENIZER), spec.ce_text)
    tokenizer = Tokenizer(bundle.path(TOKENIZER), spec.text)
    return BundleEncoder(backend, tokenizer, ce_tokenizer, max_pixels=max_pixels, remembered_texts=remembered_texts, runs=runs)
