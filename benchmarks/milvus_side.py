"""The same query reranked by the client and by Milvus: milliseconds, and bytes over each wire, in one run.

    python benchmarks/milvus_side.py                10,000 items in Milvus Lite (about a minute)
    python benchmarks/milvus_side.py --items 2000 --rounds 10 --json

The items are random, as in `benchmarks/query.py`. `milvus-coop serve` runs in its own process on the same machine. The two
ways take turns, query by query. Milvus Lite runs in the process of the client and sends ten times `limit` candidates to the
service. The client reranks the same number, and for comparison its usual 50. Bytes to and from the service are the sizes of bodies
that it logged. Bytes to the client are the token strings, which it needs for each candidate if it reranks itself.
"""

from __future__ import annotations

import json
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import numpy as np
from pymilvus import MilvusClient

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.query import TEXTS, rows
from milvus_coop import CoopSearch, Store, load_bundle

COLLECTION = "benchmark_milvus_side"
LIMITS = (5, 10, 50)
OVERSAMPLING = 10
"""Number of candidates per hit that Milvus Lite 3.2 sends to a rerank service."""
USUAL_K = 50
WARM_UP = 5
SAME = 1e-5


@contextmanager
def serving(log: Path) -> Iterator[str]:
    """Run `milvus-coop serve` on a free port with its log in a file, and yield its address."""
    command = [sys.executable, "-m", "milvus_coop", "serve", "--models-only", "--port", "0", "--log", "json"]
    with log.open("wb") as output, subprocess.Popen(command, stderr=output) as process:
        try:
            yield _address(log, process)
        finally:
            process.terminate()


def _address(log: Path, process: subprocess.Popen[bytes]) -> str:
    while process.poll() is None:
        words = log.read_text(encoding="utf-8").split()
        if "serves" in words and len(words) > words.index("serves") + 1:
            return words[words.index("serves") + 1].strip('",')
        time.sleep(0.05)
    raise click.ClickException(f"the service did not start: {log.read_text(encoding='utf-8')}")


def median_ms(times_s: list[float]) -> float:
    return round(1000 * float(np.median(times_s)), 1)


def measure(search: CoopSearch, client: MilvusClient, url: str, limit: int, rounds: int) -> dict[str, Any]:
    k = min(OVERSAMPLING * limit, search.info().count)

    def by_milvus(text: str) -> list[float]:
        vector = search.encoder.encode_texts([text]).embeddings[0]
        ranker = search.ranker(text, endpoint=url)
        (hits,) = client.search(COLLECTION, data=[vector], limit=limit, ranker=ranker, output_fields=["uri"])
        return [hit["distance"] for hit in hits]

    def by_client(k: int) -> Callable[[str], list[float]]:
        return lambda text: [hit.ce_score or 0.0 for hit in search.query(text, limit=limit, k=k)]

    ways = {"milvus": by_milvus, "client": by_client(k), "client_usual_k": by_client(max(USUAL_K, limit))}
    times_s: dict[str, list[float]] = {name: [] for name in ways}
    for i in range(WARM_UP + rounds):
        text = TEXTS[i % len(TEXTS)]
        answers = {}
        for name, way in ways.items():
            began_s = time.perf_counter()
            answers[name] = way(text)
            if i >= WARM_UP:
                times_s[name].append(time.perf_counter() - began_s)
        if not np.allclose(answers["milvus"], answers["client"], atol=SAME):
            raise click.ClickException(f"the scores differ: {answers}")
    return {"limit": limit, "candidates": k} | {f"{name}_ms": median_ms(found) for name, found in times_s.items()}


def logged_bytes(log: Path) -> list[tuple[int, int]]:
    """The bytes into and out of the service for each rerank request."""
    lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines() if line.startswith("{")]
    return [(line["bytes_in"], line["bytes_out"]) for line in lines if line.get("path") == "/v2/rerank"]


@click.command(help=__doc__)
@click.option("--items", type=click.IntRange(500), default=10_000, show_default=True, help="Number of rows of the collection.")
@click.option("--rounds", type=click.IntRange(1), default=20, show_default=True, help="Number of queries per way and limit.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def main(items: int, rounds: int, as_json: bool) -> None:
    bundle = load_bundle("coop-small")
    found = []
    with tempfile.TemporaryDirectory() as folder:
        uri, log = Path(folder) / "lite.db", Path(folder) / "log"
        with Store(uri) as store:
            collection = store.create(COLLECTION, bundle.spec)
            for some in rows(bundle, items):
                collection.upsert(some)
            collection.flush()
        with serving(log) as url, CoopSearch(COLLECTION, uri=uri) as search:
            client = MilvusClient(str(uri))
            for limit in LIMITS:
                one = measure(search, client, url, limit, rounds)
                inwards, outwards = logged_bytes(log)[-1]
                one |= {"to_service_bytes": inwards, "from_service_bytes": outwards}
                one["to_client_bytes"] = one["candidates"] * 4 * -(-bundle.spec.tokens.n_bytes // 3)
                found.append(one)
            client.close()
    if as_json:
        print(json.dumps({"items": items, "rounds": rounds, "machine": platform.machine(), "limits": found}))
        return
    for one in found:
        print("  ".join(f"{name} {value:,}" for name, value in one.items()))


if __name__ == "__main__":
    main()
