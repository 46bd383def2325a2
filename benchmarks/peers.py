"""Side by side in one run: milvus-coop, and what people would use instead of it.

    python benchmarks/peers.py --work DIR --out peers.json       a first run makes models and databases in DIR
    python benchmarks/peers.py --work DIR --clip-python PYTHON   also clip-retrieval, from an environment of its own
    python benchmarks/peers.py --read peers.json                 print the table of a run

Every contestant runs in its own process with as many threads as this process has cores. One works at a time, and they take turns.
A first turn warms up and does not count. A ratio is the time of a contestant divided by ours in the same turn: its median, and the
smallest and largest over the turns. The ratio of CPU times depends less on what else the machine does. Weights are random, of true
shapes. All that encode share one CLIP checkpoint, BLIP shares its checkpoint with ours, and the `CrossEncoder` reads a LLaVA of
BLIP's shape. In the search, embeddings are random too, so the recall of the ANN index is that of a hard case.

What is not installed, or does not run, is in the table with the reason. For all of them, beside the development environment:

    pip install 'sentence-transformers>=5.4' fastembed
    pip install --no-deps mmt-retrieval==0.1.2
    pip install clip-retrieval==2.45.0 'setuptools<81'     in another environment, because it needs numpy < 2

The ONNX backend of sentence-transformers 6.2.0 cannot be installed: it needs transformers >= 5, and optimum-onnx 0.1.0 needs
transformers < 4.58.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.peers_kit import Contestant, DoesNotRunError  # noqa: E402
from benchmarks.peers_table import table  # noqa: E402

PARTS = ("encoding", "reranking", "search")
N_TEXTS, N_SINGLE, N_QUERIES, N_MANY = 16, 4, 4, 32
K = 50
TEXT = "two dogs on a beach"


@dataclass(frozen=True)
class Entry:
    """A contestant of a part: the class, its arguments, and the pieces of work that it does, by the name in the table."""

    where: str
    works: Mapping[str, tuple[Any, ...]]
    options: Mapping[str, Any] = field(default_factory=dict)
    python: str | None = None


class Run:
    """A run: what is the same for all contestants, and the results so far."""

    def __init__(self, work: Path, cores: int, turns: int, out: Path | None) -> None:
        self.work, self.cores, self.turns, self.out = work, cores, turns, out
        self.start = time.time()
        self.results: list[dict[str, Any]] = []

    def measured(self) -> dict[str, Any]:
        minutes = round((time.time() - self.start) / 60, 1)
        return {"machine": machine(self.cores), "turns": self.turns, "minutes": minutes, "results": self.results}

    def compare(self, part: str, entries: Mapping[str, Entry], **facts: Any) -> None:
        """Start the contestants, let them take turns, and add their results; the first is ours."""
        found: dict[str, dict[str, Any]] = {name: {"part": part, "system": name, **facts} for name in entries}
        with ExitStack() as stack:
            running: dict[str, Contestant] = {}
            for name, entry in entries.items():
                options = {"work": str(self.work), "cores": self.cores, **entry.options}
                try:
                    running[name] = Contestant(entry.where, options, self.cores, self.work / f"{part}.log", entry.python)
                    stack.callback(running[name].kill)
                    found[name]["facts"] = {key: value for key, value in running[name].facts.items() if key != "started"}
                except (DoesNotRunError, OSError) as exc:
                    found[name]["not_run"] = str(exc)
            for turn in range(self.turns + 1):
                for name in [*running]:
                    click.echo(f"{time.strftime('%H:%M:%S')} {part} {facts.get('items', '')} turn {turn}: {name}", err=True)
                    try:
                        self._turn(running[name], entries[name], found[name], turn)
                    except DoesNotRunError as exc:
                        found[name]["not_run"] = str(exc)
                        del running[name]
            for name, contestant in running.items():
                found[name] |= contestant.end()
        self.results += found.values()

    def save(self) -> None:
        if self.out:
            self.out.write_text(json.dumps(self.measured(), indent=1) + "\n", "utf-8")

    @staticmethod
    def _turn(contestant: Contestant, entry: Entry, found: dict[str, Any], turn: int) -> None:
        for label, (method, *arguments) in entry.works.items():
            answer = contestant.turn(method, *[value(turn) if callable(value) else value for value in arguments])
            answers = found.setdefault("answers", {}).setdefault(label, {})
            if turn == 0:
                answers.update({key: value for key, value in answer.items() if key not in ("seconds", "cpu_s")})
                continue
            for key in ("seconds", "cpu_s", "retrieve_s", "rerank_s"):
                if key in answer:
                    found.setdefault("works", {}).setdefault(label, {}).setdefault(key, []).append(round(answer[key], 5))


def encoding(run: Run, count: int, clip_python: str | None) -> None:
    photos = str(run.work / f"photos-{count}")
    with tempfile.TemporaryDirectory(prefix="milvus-coop-peers-") as folder:

        def works(name: str, *, with_texts: bool = True) -> dict[str, tuple[Any, ...]]:
            images = {"images": ("images", photos, f"{folder}/{name}-images.npy")}
            texts = {
                "texts": ("texts", N_TEXTS, f"{folder}/{name}-texts.npy"),
                "one text": ("each_text", N_SINGLE, f"{folder}/x.npy"),
            }
            return {**images, **(texts if with_texts else {})}

        mine, st = "peers_encoders:Ours", "peers_encoders:SentenceTransformers"
        entries = {
            "milvus-coop, encoder": Entry(mine, works("ours")),
            "milvus-coop, ingest": Entry("peers_encoders:OurIngest", {"images": ("images", photos, "")}),
            "sentence-transformers": Entry(st, works("st")),
            "sentence-transformers, ONNX": Entry(st, works("st-onnx"), {"backend": "onnx"}),
            "fastembed": Entry("peers_encoders:FastEmbed", works("fastembed", with_texts=False)),
            "clip-retrieval": Entry("peers_encoders:ClipRetrieval", works("clip", with_texts=False), python=clip_python),
        }
        run.compare("encoding", entries, images=count, counts={"images": count, "texts": N_TEXTS, "one text": N_SINGLE})
        _agreement(run.results, Path(folder))
    run.save()


def _agreement(results: list[dict[str, Any]], folder: Path) -> None:
    """Add the smallest cosine of a contestant's embedding of an image or text and ours."""
    names = {
        "sentence-transformers": "st",
        "sentence-transformers, ONNX": "st-onnx",
        "fastembed": "fastembed",
        "clip-retrieval": "clip",
    }
    for result in results:
        for what in ("images", "texts"):
            theirs, ours = folder / f"{names.get(result['system'])}-{what}.npy", folder / f"ours-{what}.npy"
            if theirs.exists() and ours.exists():
                cosines = (np.load(theirs).astype(np.float64) * np.load(ours)).sum(axis=1)
                result.setdefault("smallest_cosine", {})[what] = round(float(cosines.min()), 4)


def reranking(run: Run, k: int) -> None:
    works = {"query": ("query", TEXT, lambda turn: k if turn else 1)}
    entries = {
        "milvus-coop": Entry("peers_rerankers:Ours", works),
        "transformers, BLIP": Entry("peers_rerankers:Blip", works),
        "sentence-transformers, CrossEncoder": Entry("peers_rerankers:SentenceTransformersPairs", works),
    }
    run.compare("reranking", entries, k=k, counts={"query": 1})
    run.save()


def search(run: Run, items: int) -> None:
    with_service = items == 10_000

    def works(*methods: tuple[str, str]) -> dict[str, tuple[Any, ...]]:
        return {label: (method, lambda turn: turn * N_QUERIES, N_QUERIES, K) for label, method in methods}

    both = {"many": ("many", lambda turn: 1000 + turn * N_MANY, N_MANY, K)}
    service = works(("reranked by Milvus", "by_milvus")) if with_service else {}
    entries = {
        "milvus-coop": Entry(
            "peers_search:Ours", {**works(("query", "query")), **both, **service}, {"items": items, "with_service": with_service}
        ),
        "pymilvus": Entry("peers_search:Plain", works(("search only", "query")), {"items": items}),
        "MMT-Retrieval": Entry("peers_search:MmtRetrieval", works(("search only", "exact"), ("query", "query")), {"items": items}),
    }
    run.compare(
        "search",
        entries,
        items=items,
        k=K,
        counts={"many": N_MANY} | dict.fromkeys(("query", "search only", "reranked by Milvus"), N_QUERIES),
    )
    _recall(run.results[-len(entries) :])
    run.save()


def _recall(results: list[dict[str, Any]]) -> None:
    """Replace the ids of the answers by the share of the exact answer's ids."""
    exact = next(
        (r["answers"]["search only"].get("ids") for r in results if r["system"] == "MMT-Retrieval" and "answers" in r), None
    )
    for result in results:
        for answer in result.get("answers", {}).values():
            ids = answer.pop("ids", None)
            if ids and exact:
                shares = [len({*mine} & {*theirs}) / len(theirs) for mine, theirs in zip(ids, exact, strict=True)]
                answer["recall"] = round(float(np.mean(shares)), 3)


def machine(cores: int) -> dict[str, Any]:
    lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines() if Path("/proc/cpuinfo").exists() else []
    model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor())
    return {"cpu": model, "cores": cores, "python": platform.python_version(), "load": [round(load, 1) for load in os.getloadavg()]}


@click.command()
@click.option("--out", type=click.Path(path_type=Path), help="Write the result here as JSON.")
@click.option(
    "--read", "read", type=click.Path(path_type=Path, exists=True), help="Print the table of this result, and measure nothing."
)
@click.option("--work", type=click.Path(path_type=Path), help="Keep models and databases here. [default: a temporary folder]")
@click.option("--only", type=click.Choice(PARTS), multiple=True, help="Measure only this part.")
@click.option("--turns", default=5, show_default=True)
@click.option("--items", default="1000,10000,100000", show_default=True, help="Sizes of the search.")
@click.option("--images", default=8, show_default=True, help="Number of images that are encoded in a turn.")
@click.option("-k", default=4, show_default=True, help="Number of images that are reranked from pixels, at most 10.")
@click.option("--clip-python", help="The interpreter of an environment with clip-retrieval.")
def main(
    out: Path | None,
    read: Path | None,
    work: Path | None,
    only: Sequence[str],
    turns: int,
    items: str,
    images: int,
    k: int,
    clip_python: str | None,
) -> None:
    """Measure; see the top of this file."""
    if read:
        print(table(json.loads(read.read_text("utf-8"))))
        return
    cores, sizes = len(os.sched_getaffinity(0)), [int(size) for size in items.split(",")]
    parts = only or PARTS
    with ExitStack() as stack:
        folder = work or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="milvus-coop-peers-")))
        prepare = [
            sys.executable,
            "-m",
            "benchmarks.peers_prepare",
            str(folder.resolve()),
            ",".join(parts),
            *map(str, [images, *sizes]),
        ]
        subprocess.run(prepare, check=True, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)})
        run = Run(folder.resolve(), cores, turns, out)
        if "encoding" in parts:
            encoding(run, images, clip_python)
        if "reranking" in parts:
            reranking(run, k)
        for size in sizes if "search" in parts else []:
            search(run, size)
    print(table(run.measured()))


if __name__ == "__main__":
    main()
