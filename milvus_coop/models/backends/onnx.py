"""Runs a bundle in this process with ONNX Runtime."""

from __future__ import annotations

import contextlib
import functools
import sys
import threading
from collections.abc import Mapping, Sequence

import onnxruntime

from milvus_coop.bundle.folder import Bundle
from milvus_coop.bundle.spec import BundleSpec
from milvus_coop.cores import thread_count
from milvus_coop.errors import BackendError, BackendUnavailableError, BundleInvalidError
from milvus_coop.models.backends.base import check_inputs, run_in_batches
from milvus_coop.models.backends.heap import release_free_memory
from milvus_coop.types import Array

CPU = "CPUExecutionProvider"


class OnnxBackend:
    """The in-process backend. Each graph is loaded when it is first run. Threads share the sessions."""

    def __init__(self, bundle: Bundle, *, threads: int | None = None, providers: Sequence[str] = (CPU,)) -> None:
        """Prepare a backend; nothing is loaded yet.

        Args:
            bundle: the bundle to run.
            threads: number of threads of one run, at most one per core; None means one per core that this process may use.
            providers: ONNX Runtime execution providers, the preferred one first. If it cannot be used, loading a graph fails.
        """
        self._bundle = bundle
        self._providers = tuple(providers)
        self._threads = thread_count(threads)
        self._sessions: dict[str, onnxruntime.InferenceSession] = {}
        self._lock = threading.Lock()

    @property
    def spec(self) -> BundleSpec:
        """The record of the bundle that is run."""
        return self._bundle.spec

    def run(self, graph: str, inputs: Mapping[str, Array], *, timeout_s: float | None = None) -> dict[str, Array]:
        """See `Backend.run`. `timeout_s` is ignored, because a run in this process cannot be interrupted.

        Raises:
            BackendInputError: an array does not fit the spec.
            BundleInvalidError: the graph cannot be loaded.
            BackendError: ONNX Runtime failed.
        """
        spec = self.spec.graph(graph)
        batch = check_inputs(spec, inputs)
        session = self._session(graph)
        names = [tensor.name for tensor in spec.outputs]

        def run_one(part: Mapping[str, Array]) -> dict[str, Array]:
            try:
                return dict(zip(names, session.run(names, dict(part)), strict=True))
            except Exception as exc:  # ONNX Runtime has a class per status code, all direct children of Exception
                raise BackendError(f"running {graph} of bundle {self.spec.label} failed: {exc}") from exc

        return run_in_batches(spec, inputs, batch, run_one)

    def load(self, graphs: Sequence[str]) -> None:
        """See `Backend.load`."""
        for graph in graphs:
            self._session(graph)

    def close(self) -> None:
        """Free the sessions; a later run loads them again."""
        with self._lock:
            self._sessions.clear()

    def _session(self, graph: str) -> onnxruntime.InferenceSession:
        with self._lock:
            if graph not in self._sessions:
                self._sessions[graph] = self._load(graph)
            return self._sessions[graph]

    def _load(self, graph: str) -> onnxruntime.InferenceSession:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self._threads
        # Idle threads that spin would take the cores away from image decoding and from Milvus Lite.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        path = self._bundle.path(self.spec.graph(graph).file)
        if self._providers[0] != CPU:
            _load_cuda()
        try:
            # By default, a session that fails is opened again with other providers, and a note about it goes to standard output.
            session = onnxruntime.InferenceSession(str(path), options, providers=list(self._providers), enable_fallback=False)
        except Exception as exc:  # see `run`
            raise BundleInvalidError(
                f"{path} cannot be loaded: {exc}", run=f"milvus-coop bundle verify {self._bundle.folder}"
            ) from exc
        release_free_memory()
        if session.get_providers()[0] != self._providers[0]:
            raise BackendUnavailableError(
                f"ONNX Runtime cannot use {self._providers[0]} here; it wrote the reason above", run="milvus-coop doctor"
            )
        return session


@functools.cache
def _load_cuda() -> None:
    """Load the CUDA libraries that pip installed, if there are any; ONNX Runtime itself only looks for the system's."""
    if preload := getattr(onnxruntime, "preload_dlls", None):  # since 1.21
        with contextlib.redirect_stdout(sys.stderr):  # it prints what it does not find
            preload()


def devices() -> dict[str, str]:
    """The execution providers of the installed ONNX Runtime, by the name that `--models onnx:NAME` uses."""
    return {name.removesuffix("ExecutionProvider").lower(): name for name in onnxruntime.get_available_providers()}


def provider_of(device: str) -> str:
    """ONNX Runtime's name of an execution provider: `cuda` -> `CUDAExecutionProvider`.

    Raises:
        BackendUnavailableError: this installation of ONNX Runtime has no such provider.
    """
    if device.lower() not in devices():
        raise BackendUnavailableError(
            f"ONNX Runtime has no device '{device}' here",
            expected=f"one of {', '.join(sorted(devices()))}",
            run="milvus-coop doctor",
        )
    return devices()[device.lower()]
