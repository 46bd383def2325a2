"""The HTTP gateway against the SDK: requests per second and latency at several concurrencies, and the memory of a long run.

    python benchmarks/gateway.py                    10,000 items in Milvus Lite, k = 50 (about five minutes)
    python benchmarks/gateway.py --items 1000 --requests 200 --long 0 --json

`milvus-coop serve` runs in its own process and gets requests over loopback from another process. The SDK is `CoopSearch.query`,
called by as many threads in a third process, on a copy of the same database. Both answer the same texts with the same settings and
take turns, block by block. Items are random, as in `benchmarks/query.py`.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click
import numpy as np
import psutil

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.query import TEXTS, rows
from milvus_coop import CoopSearch, Store, load_bundle

COLLECTION = "images"
BLOCKS = 6
"""Number of turns of each side at each concurrency."""
POINTS = 10
"""Number of measurements of memory in the long run."""

Block = list[float]
"""The milliseconds of each request."""


def text_of(i: int) -> str:
    """A text for request i, different for each request so that no cache helps."""
    return f"{TEXTS[i % len(TEXTS)]} {i}"


async def ask(address: str, n: int, concurrency: int) -> Block:
    """Send n requests over `concurrency` connections, with as little work on the client's side as HTTP allows."""
    parts = urlsplit(address)
    took: Block = []
    numbers = iter(range(n))

    async def client() -> None:
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
        for i in numbers:
            body = json.dumps({"text": text_of(i)}).encode()
            began = time.perf_counter()
            writer.write(
                b"POST /v1/search HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
                % (len(body), body)
            )
            head = await reader.readuntil(b"\r\n\r\n")
            found = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
            assert head.startswith(b"HTTP/1.1 200"), head
            assert found
            await reader.readexactly(int(found[1]))
            took.append(1000 * (time.perf_counter() - began))
        writer.close()

    await asyncio.gather(*(client() for _ in range(concurrency)))
    return took


def call(search: CoopSearch, n: int, concurrency: int) -> Block:
    """Query with the SDK n times from `concurrency` threads."""

    def one(i: int) -> float:
        began = time.perf_counter()
        search.query(text_of(i))
        return 1000 * (time.perf_counter() - began)

    with ThreadPoolExecutor(concurrency) as pool:
        return list(pool.map(one, range(n)))


def timed(run: Callable[[], Block]) -> tuple[Block, float]:
    """A block, and its time in seconds."""
    began = time.perf_counter()
    took = run()
    return took, time.perf_counter() - began


@contextmanager
def serving(uri: Path, threads: int) -> Iterator[tuple[str, psutil.Process]]:
    """Run a service, and yield its address and its process."""
    command = [
        sys.executable,
        "-m",
        "milvus_coop",
        "serve",
        "--port",
        "0",
        "--uri",
        str(uri),
        "--threads",
        str(threads),
        "--log",
        "json",
    ]
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(command, stderr=log)
        try:
            address = None
            while address is None:
                time.sleep(0.2)
                log.seek(0)
                address = re.search(r"http://[^\s\"]+", log.read())
                assert process.poll() is None
            yield address[0], psutil.Process(process.pid)
        finally:
            process.terminate()
            process.wait()


def fill(uri: Path, items: int) -> None:
    """Write random items into a collection, and flush it."""
    bundle = load_bundle("coop-small")
    with Store(uri) as store:
        collection = store.create(COLLECTION, bundle.spec)
        for some in rows(bundle, items):
            collection.upsert(some)
        collection.flush()


def sdk_worker(uri: str, threads: int, pipe: Any) -> None:
    """Run blocks of SDK queries on request."""
    with CoopSearch(COLLECTION, uri=uri, threads=threads) as search:
        call(search, 20, 1)
        pipe.send("ready")
        while (asked := pipe.recv()) is not None:
            pipe.send(timed(lambda: call(search, *asked)))


def line(blocks: list[tuple[Block, float]]) -> dict[str, float]:
    """The requests per second and the percentiles of several blocks."""
    took = np.concatenate([block for block, _ in blocks])
    p50, p95, p99 = np.percentile(took, (50, 95, 99))
    return {"per_s": len(took) / sum(s for _, s in blocks), "p50_ms": p50, "p95_ms": p95, "p99_ms": p99}


def compare(address: str, sdk: Any, requests: int, concurrency: int) -> dict[str, dict[str, float]]:
    """Measure gateway and SDK in turns at one concurrency."""
    n = max(concurrency, requests // BLOCKS)
    http_blocks, sdk_blocks = [], []
    for _ in range(BLOCKS):
        http_blocks.append(timed(lambda: asyncio.run(ask(address, n, concurrency))))
        sdk.send((n, concurrency))
        sdk_blocks.append(sdk.recv())
    return {"http": line(http_blocks), "sdk": line(sdk_blocks)}


def memory(address: str, process: psutil.Process, requests: int) -> list[tuple[int, float]]:
    """The resident memory of the service in MB after parts of a long run."""
    points = []
    for part in range(1, POINTS + 1):
        asyncio.run(ask(address, requests // POINTS, 8))
        points.append((part * (requests // POINTS), process.memory_info().rss / 1e6))
    return points


@click.command(help=__doc__)
@click.option("--items", default=10_000, show_default=True)
@click.option("--requests", default=600, show_default=True, help="Number of requests per concurrency, for gateway and SDK each.")
@click.option("--concurrency", default=(1, 4, 16, 64), multiple=True, show_default=True)
@click.option("--long", "long_run", default=10_000, show_default=True, help="Number of requests of the long run; 0: no long run.")
@click.option("--threads", default=1, show_default=True, help="Threads of the models on each side.")
@click.option("--json", "as_json", is_flag=True)
def main(items: int, requests: int, concurrency: tuple[int, ...], long_run: int, threads: int, as_json: bool) -> None:
    with tempfile.TemporaryDirectory(prefix="milvus-coop-benchmark-") as folder:
        ours, theirs = Path(folder, "sdk.db"), Path(folder, "service.db")
        fill(ours, items)
        shutil.copytree(ours, theirs)
        here, there = multiprocessing.get_context("spawn").Pipe()
        worker = multiprocessing.get_context("spawn").Process(target=sdk_worker, args=(str(ours), threads, there), daemon=True)
        worker.start()
        assert here.recv() == "ready"
        with serving(theirs, threads) as (address, process):
            asyncio.run(ask(address, 50, 1))
            doors = {n: compare(address, here, requests, n) for n in concurrency}
            points = memory(address, process, long_run) if long_run else []
        here.send(None)
        worker.join()
    if as_json:
        click.echo(json.dumps({"items": items, "doors": doors, "memory_mb": points}))
        return
    click.echo("concurrency  door    req/s   p50 ms   p95 ms   p99 ms")
    for n, found in doors.items():
        for door, at in found.items():
            click.echo(f"{n:11}  {door:4}  {at['per_s']:7.1f}  {at['p50_ms']:7.1f}  {at['p95_ms']:7.1f}  {at['p99_ms']:7.1f}")
        ratio, more = found["http"]["per_s"] / found["sdk"]["per_s"], found["http"]["p50_ms"] - found["sdk"]["p50_ms"]
        click.echo(f"             http / sdk: {ratio:.2f} x the requests/s, p50 {more:+.1f} ms")
    for done, megabytes in points:
        click.echo(f"after {done:6,} requests: {megabytes:,.0f} MB")


if __name__ == "__main__":
    main()
