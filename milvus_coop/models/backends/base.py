"""The interface of all backends: a backend takes named arrays, runs a graph of a bundle, and returns named arrays."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol, runtime_checkable

import numpy as np

from milvus_coop.bundle.spec import CROSS_ENCODER, BundleSpec, GraphSpec, TensorSpec
from milvus_coop.errors import BackendError, BackendInputError
from milvus_coop.types import Array


@runtime_checkable
class Backend(Protocol):
    """Runs the graphs of one bundle. Safe to share between threads."""

    @property
    def spec(self) -> BundleSpec:
        """The record of the bundle that is run."""

    def run(self, graph: str, inputs: Mapping[str, Array], *, timeout_s: float | None = None) -> dict[str, Array]:
        """Run one graph on one batch of any size. Batches beyond the graph's limit are split, and the outputs are joined.

        Args:
            graph: name of the graph: `text_encoder`, `image_encoder` or `cross_encoder`.
            inputs: one array per input of the graph's spec, each of shape (batch, ...). Inputs of the cross-encoder may have a
                single row, which then belongs to every row of the batch.
            timeout_s: time limit of the whole call; None means the backend's default. In-process backends cannot be interrupted
                and ignore it.

        Returns:
            One array per output of the graph's spec, each of shape (batch, ...).

        Raises:
            BackendInputError: an array is missing, or has the wrong dtype or shape.
            BackendUnavailableError, BackendTimeoutError: the server failed; only backends that call a server raise these.
        """

    def load(self, graphs: Sequence[str]) -> None:
        """Load graphs now, so that their first run is as fast as later runs.

        Raises:
            BundleInvalidError, BackendUnavailableError: a graph cannot be run.
        """

    def close(self) -> None:
        """Free threads, memory and connections. Safe to call twice."""


def check_inputs(graph: GraphSpec, inputs: Mapping[str, Array]) -> int:
    """Compare arrays with the graph's spec.

    Returns:
        The batch size.

    Raises:
        BackendInputError: an array does not fit; the message names the first one.
    """
    if missing := [t.name for t in graph.inputs if t.name not in inputs]:
        raise BackendInputError(f"{graph.name} got no '{missing[0]}'", expected=", ".join(t.name for t in graph.inputs))
    lengths = [len(inputs[tensor.name]) for tensor in graph.inputs]
    shares = graph.name == CROSS_ENCODER
    batch = next((length for length in lengths if length != 1 or not shares), 1)
    for tensor in graph.inputs:
        array = inputs[tensor.name]
        if not _fits(array, tensor, 1 if shares and len(array) == 1 else batch):
            raise BackendInputError(
                f"{graph.name} got '{tensor.name}' as {array.dtype} of shape {array.shape}", expected=_expected(tensor, batch)
            )
    return batch


def check_outputs(graph: GraphSpec, outputs: Mapping[str, Array], batch: int) -> None:
    """Compare what a run returned with the graph's spec. A graph of a stranger may compute anything.

    Raises:
        BackendError: an array does not fit; the message names the first one.
    """
    for tensor in graph.outputs:
        array = outputs[tensor.name]
        if not _fits(array, tensor, batch):
            raise BackendError(
                f"{graph.name} returned '{tensor.name}' as {array.dtype} of shape {array.shape}",
                expected=_expected(tensor, batch),
                run="another bundle, because the graph of this one is wrong",
            )


def _fits(array: Array, tensor: TensorSpec, batch: int) -> bool:
    shapes = array.ndim == len(tensor.shape) + 1 and all(
        want in (-1, have) for want, have in zip(tensor.shape, array.shape[1:], strict=True)
    )
    return shapes and str(array.dtype) == tensor.dtype and len(array) == batch


def _expected(tensor: TensorSpec, batch: int) -> str:
    return f"{tensor.dtype} of shape ({', '.join(map(str, (batch, *tensor.shape)))})"


def run_in_batches(
    graph: GraphSpec,
    inputs: Mapping[str, Array],
    batch: int,
    run: Callable[[Mapping[str, Array]], dict[str, Array]],
    *,
    map_parts: Callable[..., Iterable[dict[str, Array]]] = map,
    repeats: bool = True,
) -> dict[str, Array]:
    """Run a batch of any size in parts of at most `graph.max_batch` rows and join the outputs.

    Args:
        graph: the spec of the graph.
        inputs: arrays of shape (batch or 1, ...); arrays that are not inputs of the graph are ignored.
        batch: number of rows; 0 gives empty outputs without a run.
        run: the function that runs one part. What it returns is checked.
        map_parts: the function that applies `run` to all parts and returns the results in order.
        repeats: give `run` a single row as often as the part has rows. If False, it gets the single row.
    """
    wanted = {tensor.name: inputs[tensor.name] for tensor in graph.inputs}
    if batch == 0:
        return {t.name: np.empty((0, *(max(n, 0) for n in t.shape)), dtype=t.dtype) for t in graph.outputs}
    starts = range(0, batch, graph.max_batch)

    def rows(array: Array, start: int) -> Array:
        if len(array) == batch:
            return array[start : start + graph.max_batch]
        return np.repeat(array, min(graph.max_batch, batch - start), axis=0) if repeats else array

    parts = list(map_parts(run, [{name: rows(array, start) for name, array in wanted.items()} for start in starts]))
    for start, part in zip(starts, parts, strict=True):
        check_outputs(graph, part, min(graph.max_batch, batch - start))
    if len(parts) == 1:
        return parts[0]
    return {t.name: np.concatenate([part[t.name] for part in parts]) for t in graph.outputs}
