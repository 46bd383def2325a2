"""Pairs per second of the cross-encoder through Triton and in this process, on the same cores, and the overhead of a call.

    python benchmarks/serving.py                    coop-small, batches of 1, 4, 16 and 64 pairs, 1 to 16 clients (about a minute)
    python benchmarks/serving.py --seconds 5 --json
    python benchmarks/serving.py --server triton://host:8001    a running server, on GPUs for example

Both sides use one thread per run. Triton is the one of the nvidia-pytriton wheel with its Python backend, started here. Clients and
server share the machine. Both sides take turns, so that a busy machine favours neither. The pairs are one query against random
image tokens, as `CoopSearch` sends them. The second table has 1 to 16 clients with one pair per request: with dynamic batching as
exported, with one instance per model (whose batcher sometimes sleeps for 500 ms during a request), and without batching.
"""

from __future__ import annotations

import json
import platform
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
import tritonclient.grpc as triton
from tritonclient.grpc._utils import _get_inference_request
from tritonclient.utils import np_to_triton_dtype

from milvus_coop import Backend, Bundle, load_bundle
from milvus_coop.bundle import CROSS_ENCODER, IMAGE_TOKEN_SCALES, IMAGE_TOKENS
from milvus_coop.bundle.folder import TOKENIZER
from milvus_coop.bundle.wire import wire_of
from milvus_coop.config import Settings
from milvus_coop.cores import available_cores
from milvus_coop.models.backends import open_backend
from milvus_coop.models.backends.onnx import OnnxBackend
from milvus_coop.models.encoder import BundleEncoder
from milvus_coop.models.preprocess.texts import Tokenizer
from milvus_coop.serving.triton import Endpoints, TritonServer, Tuning, export_repository, find_triton
from milvus_coop.types import Array

TEXT = "two dogs playing on a sandy beach"
BATCHES = (1, 4, 16, 64)
CLIENTS = (1, 2, 4, 8, 16)
TURN_S = 0.1
"""Seconds that one side runs before the other has its turn."""
LOAD_TURN_S = 0.5
AIMS = {16: 0.85, 64: 0.95}
PORT = 17001

Inputs = Mapping[str, Array]


@dataclass(frozen=True, slots=True)
class BatchRow:
    """The results of one batch size: pairs per second of both sides, and the extra time of the median call through Triton."""

    batch: int
    in_process: float
    triton: float
    overhead_ms: float
    bytes_per_pair: float

    @property
    def ratio(self) -> float:
        """Triton's rate divided by the rate in process."""
        return self.triton / self.in_process


def pairs(bundle: Bundle, backend: Backend, n: int) -> Inputs:
    """One query against n random images, in the form that the cross-encoder takes."""
    tokens = bundle.spec.tokens
    rng = np.random.default_rng(0)
    side = BundleEncoder(backend, Tokenizer(bundle.path(TOKENIZER), bundle.spec.text)).encode_texts([TEXT]).text_side
    return {
        **side,
        IMAGE_TOKENS: rng.integers(-127, 127, (n, tokens.count, tokens.dim), dtype=np.int8),
        IMAGE_TOKEN_SCALES: rng.random((n, tokens.count), dtype=np.float32) / 64,
    }


def message_bytes(bundle: Bundle, inputs: Inputs) -> dict[str, int]:
    """The size of the gRPC request in bytes, and the size of each input in it."""
    parts, n = [], len(inputs[IMAGE_TOKENS])
    wire = wire_of(bundle.spec.graph(CROSS_ENCODER))
    sent = wire.pack(inputs, n) if wire else {name: a if len(a) == n else np.repeat(a, n, axis=0) for name, a in inputs.items()}
    for name, array in sent.items():
        tensor = triton.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
        parts.append(tensor.set_data_from_numpy(array))
    request = _get_inference_request(  # the client itself calls this
        model_name=CROSS_ENCODER,
        inputs=parts,
        model_version="",
        request_id="",
        outputs=None,
        sequence_id=0,
        sequence_start=False,
        sequence_end=False,
        priority=0,
        timeout=None,
        parameters=None,
    )
    return {"all": request.ByteSize(), **{name: array.nbytes for name, array in sent.items()}}


def take_turns(runs: Mapping[str, Callable[[], object]], seconds: float) -> dict[str, list[float]]:
    """The seconds of every call, by side. Each side gets `seconds` in turns of TURN_S."""
    took: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        for _ in range(5):
            run()
    for _ in range(max(1, round(seconds / TURN_S))):
        for name, run in runs.items():
            end = time.perf_counter() + TURN_S
            while (start := time.perf_counter()) < end:
                run()
                took[name].append(time.perf_counter() - start)
    return took


def compare(bundle: Bundle, local: Backend, served: Backend, batch: int, seconds: float) -> BatchRow:
    inputs = pairs(bundle, local, batch)
    took = take_turns(
        {
            "local": lambda: local.run(CROSS_ENCODER, inputs),
            "triton": lambda: served.run(CROSS_ENCODER, inputs),
        },
        seconds,
    )
    mean = {name: statistics.fmean(values) for name, values in took.items()}
    overhead_s = statistics.median(took["triton"]) - statistics.median(took["local"])
    return BatchRow(
        batch, batch / mean["local"], batch / mean["triton"], 1000 * overhead_s, message_bytes(bundle, inputs)["all"] / batch
    )


def load(backend: Backend, inputs: Inputs, clients: int, seconds: float) -> list[float]:
    """The seconds of every request of so many threads. Each thread waits for its answer before the next request."""
    took: list[list[float]] = [[] for _ in range(clients)]
    end = time.perf_counter() + seconds

    def ask(mine: list[float]) -> None:
        while (start := time.perf_counter()) < end:
            backend.run(CROSS_ENCODER, inputs)
            mine.append(time.perf_counter() - start)

    threads = [threading.Thread(target=ask, args=(mine,)) for mine in took]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [t for mine in took for t in mine]


def concurrency(servers: Mapping[str, Backend], inputs: Inputs, clients: int, seconds: float) -> dict[str, dict[str, float]]:
    """Requests per second and the 99th percentile in milliseconds, by server. The servers take turns of half a second."""
    turns = max(1, round(seconds / LOAD_TURN_S))
    took: dict[str, list[float]] = {name: [] for name in servers}
    for _ in range(turns):
        for name, backend in servers.items():
            took[name] += load(backend, inputs, clients, LOAD_TURN_S)
    return {
        name: {"per_s": clients / statistics.fmean(values), "p99_ms": 1000 * float(np.percentile(values, 99))}
        for name, values in took.items()
    }


def serve(stack: ExitStack, bundle: Bundle, port: int, tuning: Tuning) -> Backend:
    """Start a server on its own ports, and return a client of it."""
    folder = stack.enter_context(tempfile.TemporaryDirectory())
    repository = export_repository(bundle, Path(folder, "models"), "python", tuning=tuning)
    endpoints = Endpoints(grpc=port, http=port + 1, metrics=port + 2)
    stack.enter_context(TritonServer(find_triton(), repository, endpoints=endpoints))
    backend = open_backend(Settings(models=f"triton://127.0.0.1:{port}"), bundle)
    stack.callback(backend.close)
    return backend


def table(rows: list[BatchRow], rates: Mapping[int, Mapping[str, Mapping[str, float]]], parts: Mapping[str, int]) -> None:
    print(f"one thread per run, {platform.machine()}, {available_cores()} cores, client and server on the same")
    print(f"{'pairs a call':>12}{'in process /s':>15}{'Triton /s':>11}{'ratio':>7}{'overhead ms':>13}{'bytes a pair':>14}")
    for row in rows:
        aim = f"   aim {AIMS[row.batch]}" if row.batch in AIMS else ""
        numbers = f"{row.batch:>12}{row.in_process:>15,.0f}{row.triton:>11,.0f}{row.ratio:>7.2f}{row.overhead_ms:>13.2f}"
        print(f"{numbers}{row.bytes_per_pair:>14,.0f}{aim}")
    print("of which: " + ", ".join(f"{name} {n:,}" for name, n in parts.items() if name != "all"))
    print(
        f"\n{'clients':>12}"
        + "".join(f"{name:>26}" for name in next(iter(rates.values())))
        + "   one pair a call: pairs/s (p99 ms)"
    )
    for clients, by_server in rates.items():
        cells = (f"{r['per_s']:,.0f} ({r['p99_ms']:.1f})" for r in by_server.values())
        print(f"{clients:>12}" + "".join(f"{cell:>26}" for cell in cells))


@click.command()
@click.option("--bundle", "name", default="coop-small", show_default=True)
@click.option("--seconds", default=3.0, show_default=True, help="Seconds per measurement and side.")
@click.option("--server", help="A running server, such as triton://host:8001, instead of those started here.")
@click.option("--json", "as_json", is_flag=True)
def main(name: str, seconds: float, server: str | None, as_json: bool) -> None:
    """Measure serving; see the top of this file."""
    bundle = load_bundle(name)
    with ExitStack() as stack:
        local = OnnxBackend(bundle, threads=1)
        servers = (
            {server: stack.enter_context(closing(open_backend(Settings(models=server), bundle)))}
            if server
            else {
                "as exported": serve(stack, bundle, PORT, Tuning()),
                "one instance": serve(stack, bundle, PORT + 10, Tuning(instances=1)),
                "without batching": serve(stack, bundle, PORT + 20, Tuning(queue_delay_us=None)),
            }
        )
        rows = [compare(bundle, local, next(iter(servers.values())), batch, seconds) for batch in BATCHES]
        one = pairs(bundle, local, 1)
        rates = {clients: concurrency(servers, one, clients, seconds) for clients in CLIENTS}
        parts = message_bytes(bundle, one)
    if as_json:
        print(
            json.dumps(
                {
                    "batches": [{**{f: getattr(row, f) for f in BatchRow.__slots__}, "ratio": row.ratio} for row in rows],
                    "clients": rates,
                    "bytes": parts,
                }
            )
        )
        return
    table(rows, rates, parts)


if __name__ == "__main__":
    main()
