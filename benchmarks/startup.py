"""Time and memory of the first query of a process, and how much of both is pymilvus, Milvus Lite and ONNX Runtime without us.

    python benchmarks/startup.py                    10,000 items in Milvus Lite (about a minute)
    python benchmarks/startup.py --items 1000 --turns 9 --out startup.json

The contestants are new processes that take turns; the first turn, which fills the disk cache, does not count. CPU seconds are those
of all threads, so they are the fair figure on a busy machine. The memory of the parts is measured in one process after each step:
RSS, PSS (shared pages divided by their users), and private pages.
"""

from __future__ import annotations

import json
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.query import COLLECTION, filled
from milvus_coop import load_bundle
from milvus_coop.cores import available_cores

BARE = """
import sys
import numpy as np
from pymilvus import MilvusClient
client = MilvusClient(sys.argv[1])
client.load_collection(sys.argv[2])
client.search(sys.argv[2], data=[np.full(int(sys.argv[3]), 0.05, np.float32)], limit=50, output_fields=["uri", "image_tokens"])
"""
"""The least that a program with the same answer has to do: pymilvus, Milvus Lite, one search."""

SESSIONS = """
import sys
import onnxruntime
for path in sys.argv[1:]:
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    onnxruntime.InferenceSession(path, options)
"""
"""ONNX Runtime loads the two graphs of a text query."""

STEPS = """
import json, sys
steps = {}
def note(name):
    lines = (line.split() for line in open("/proc/self/smaps_rollup"))
    kb = {line[0]: int(line[1]) for line in lines if line[-1] == "kB"}
    private = kb["Private_Clean:"] + kb["Private_Dirty:"]
    steps[name] = [round(kb["Rss:"] / 1024), round(kb["Pss:"] / 1024), round(private / 1024)]
uri, collection = sys.argv[1:3]
note("Python")
import numpy
note("+ numpy")
import pymilvus
note("+ pymilvus, pandas, pyarrow")
import milvus_lite.adapter.grpc.server
note("+ milvus_lite")
import onnxruntime, tokenizers
note("+ onnxruntime, tokenizers")
from milvus_coop.bundle import CROSS_ENCODER, TEXT_ENCODER
from milvus_coop.config import Settings
from milvus_coop.models.open import open_models
from milvus_coop.search import CoopSearch
models = open_models(Settings())
note("+ milvus_coop, bundle, tokenizer")
models.backend.load((TEXT_ENCODER, CROSS_ENCODER))
note("+ text encoder, cross-encoder")
search = CoopSearch(collection, uri=uri, models=models.backend)
note("+ collection: before the first query")
search.query("a red apple")
note("after the first query")
search.close()
print(json.dumps(steps))
"""


def run(command: list[str]) -> dict[str, float]:
    """Wall and CPU seconds of a process."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"wall_s": time.perf_counter() - start, "cpu_s": cpu_s}


def measure(commands: dict[str, list[str]], turns: int) -> dict[str, dict[str, list[float]]]:
    """The lowest value and the median of all turns but the first, by contestant and unit."""
    samples: dict[str, list[dict[str, float]]] = {name: [] for name in commands}
    for turn in range(1 + turns):
        for name, command in commands.items():
            sample = run(command)
            if turn:
                samples[name].append(sample)
    return {
        name: {
            unit: [min(values), statistics.median(values)] for unit in ("wall_s", "cpu_s") if (values := [s[unit] for s in taken])
        }
        for name, taken in samples.items()
    }


@click.command()
@click.option("--items", default=10_000, show_default=True)
@click.option("--turns", type=click.IntRange(min=1), default=5, show_default=True)
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Also write the result as JSON.")
def main(items: int, turns: int, out: Path | None) -> None:
    bundle, python = load_bundle("coop-small"), sys.executable
    graphs = [str(bundle.path(graph.file)) for graph in bundle.spec.graphs if graph.name != "image_encoder"]
    with tempfile.TemporaryDirectory() as folder:
        uri = str(Path(folder, "lite.db"))
        with filled(uri, bundle, items, keep=True):
            pass
        commands = {
            "milvus-coop query": [python, "-m", "milvus_coop", "query", "a red apple", "--uri", uri, "--collection", COLLECTION],
            "bare pymilvus, one search": [python, "-c", BARE, uri, COLLECTION, str(bundle.spec.dim)],
            "bare sessions": [python, "-c", SESSIONS, *graphs],
            "milvus-coop --help": [python, "-m", "milvus_coop", "--help"],
        }
        times = measure(commands, turns)
        parts = subprocess.run([python, "-c", STEPS, uri, COLLECTION], check=True, capture_output=True, text=True)
    memory = json.loads(parts.stdout)
    print(f"{items:,} items, {turns} turns, Milvus Lite, {platform.machine()}, {available_cores()} cores")
    print(f"{'seconds, lowest (median)':38}{'wall':>16}{'CPU':>16}")
    for name, units in times.items():
        print(f"{name:38}" + "".join(f"{f'{low:.2f} ({median:.2f})':>16}" for low, median in units.values()))
    print(f"\n{'MB':38}{'RSS':>16}{'PSS':>16}{'private':>16}")
    for name, sizes in memory.items():
        print(f"{name:38}" + "".join(f"{size:16}" for size in sizes))
    if out is not None:
        result = {"items": items, "turns": turns, "cores": available_cores(), "seconds": times, "memory_mb": memory}
        out.write_text(json.dumps(result, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
