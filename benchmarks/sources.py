"""Every source and both engines: whether they fill the same collection, their rates, the driver's memory, and its limit.

    python benchmarks/sources.py --out sources.json                          everything (more than an hour on 2 cores)
    python benchmarks/sources.py --step rates --images photos/ --out sources.json      one step; the others in the file stay
    python benchmarks/sources.py --read sources.json                         an earlier result, as tables
    python benchmarks/sources.py --small --out sources.json                  all steps in a few minutes; the figures mean little

It needs the extras `ray` and `dev`. Each ingest has a process, and a Ray, of its own. The S3 store is moto's server on this
machine, and the Milvus server that of the wheel `milvus`, if it is installed. The images are the JPEGs of `--images`, and crops of
them if there are too few; `--work` keeps them.

equality  `--items` images through a folder, an S3 prefix, tar shards and Parquet files, with the local engine and with Ray. All
          rows are compared with the names and contents of the files, between the engines, and between the sources; so are the
          hits of 20 queries.
rates     `--rate-items` images of a folder into Milvus Lite: the local engine with two threads, and Ray with one and with two
          workers of one thread. They take turns. The steady rate leaves out the start of Ray and of the models and the last parts.
memory    the driver with 5,000 and with 50,000 items of 32 x 32 pixels and a bundle of a few kilobytes.
scaling   workers of Ray that read and decode such items and sleep instead of encoding: with a growing number of workers, the rate
          follows their number until something else is the limit. The last two runs of each Milvus have workers that hardly sleep.
          The driver's share of a core is that of its process; where it is far below one, the CPU of the driver is not the limit.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import signal
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import click
import numpy as np
import psutil

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.sources_data import SOURCES, contents, jpegs, make_images, make_tiny_images
from benchmarks.sources_run import Job, NotEnoughMemoryError, run
from benchmarks.sources_state import State, across_sources, against_truth, same_source
from milvus_coop.bundle import load_bundle
from milvus_coop.cores import available_cores
from milvus_coop.ingest.items import hash_of
from tests.servers import s3
from tests.servers.milvus import MilvusServer
from tests.toy_bundle import make_bundle

EXAMPLES = Path(__file__).parents[1] / "examples"
QUERIES = 20
LENGTH = 512
"""Maximum number of items of a part, and the engine's default."""
WORKER_PER_S = 16.0
"""Images per second of a worker in the simulation: a slow core. A faster worker would stand for several of them."""
KEEP_FREE_GB = 6.0
FEWER = 40
"""Number of workers if there is not enough memory for more; each then sleeps less, so that together they do as much."""
ENGINES: tuple[Literal["local", "ray"], ...] = ("local", "ray")

Say = Callable[[str], None]
Record = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Plan:
    """The sizes of all steps."""

    items: int = 20_000
    rate_items: int = 2_000
    turns: int = 3
    memory_items: tuple[int, ...] = (5_000, 50_000)
    sleepers: tuple[int, ...] = (1, 10, 100)
    simulated_s: float = 20.0
    """Length of each simulated ingest, if nothing but the workers limits it."""


SMALL = Plan(items=500, rate_items=300, turns=3, memory_items=(500, 2_000), sleepers=(1, 4), simulated_s=10.0)


@contextmanager
def stores(work: Path, wanted: Sequence[str], say: Say) -> Iterator[dict[str, Callable[[], str]]]:
    """By name, a function that gives the address of an empty Milvus."""
    with ExitStack() as stack:

        def lite() -> str:
            path = work / "milvus.db"
            shutil.rmtree(path, ignore_errors=True)
            path.unlink(missing_ok=True)
            return str(path)

        def server() -> str:
            stack.close()
            return stack.enter_context(MilvusServer()).uri

        found: dict[str, Callable[[], str]] = {"Milvus Lite": lite}
        if "server" in wanted:
            try:
                server()
                stack.close()  # until it is measured
                found[f"Milvus server {version('milvus')}"] = server
            except (OSError, RuntimeError, PackageNotFoundError) as exc:
                say(f"no Milvus server: {exc}")
        yield found


def equality(plan: Plan, work: Path, images: Path, say: Say) -> Record:
    """Compare the collections that all sources and engines fill."""
    n, spec = plan.items, load_bundle("coop-small").spec.tokens
    folder, queries = pool(work, images, n), (EXAMPLES / "captions.txt").read_text("utf-8").splitlines()[:QUERIES]
    digests, rows, first = contents(folder), [], None
    for source, hold in SOURCES.items():
        with s3.S3Server() as server, environment(server.environment), stores(work, (), say) as empty:
            held = hold(folder)
            truth = {hash_of((uri := held.uri(name)).encode()): (uri, digest) for name, digest in digests.items()}
            states = []
            for engine in ENGINES:
                say(f"equality: {n:,} images, {source}, {engine}")
                kept = work / "state.json"
                uri = empty["Milvus Lite"]()
                done = run(Job(engine, held.address, uri, length=length_for(n, 2), state=str(kept), queries=queries), work)
                states.append(State.load(kept))
                problems = against_truth(states[-1], truth)
                if engine == "ray":
                    problems += [f"not as local: {text}" for text in same_source(states[0], states[1], spec)]
                if first is not None:
                    problems += [f"not as the folder: {text}" for text in across_sources(first, states[-1], spec)]
                first = first or states[-1]
                rows.append({"source": source, "engine": engine, "rows": len(states[-1].facts), **done, "differences": problems})
    return {"queries": QUERIES, "workers": 2, "length": length_for(n, 2), "runs": rows}


def rates(plan: Plan, work: Path, images: Path, say: Say) -> Record:
    """Measure the engines in turns."""
    n, length = plan.rate_items, length_for(plan.rate_items, 2)
    folder = pool(work, images, n)
    ways: dict[str, tuple[Literal["local", "ray"], int]] = {
        "local, 2 threads": ("local", 2),
        "Ray, 1 worker": ("ray", 1),
        "Ray, 2 workers": ("ray", 2),
    }
    turns: list[dict[str, Record]] = []
    with stores(work, (), say) as empty:
        for turn in range(plan.turns):
            say(f"rates: {n:,} images, turn {turn + 1} of {plan.turns}")
            taken = {}
            for name in rotated(list(ways), turn):
                engine, workers = ways[name]
                taken[name] = run(Job(engine, str(folder), empty["Milvus Lite"](), workers=workers, length=length), work)
            turns.append(taken)
    return {"items": n, "length": length, "ways": list(ways), "turns": turns}


def memory(plan: Plan, work: Path, images: Path, say: Say) -> Record:
    """Measure the driver's memory at several numbers of items."""
    bundle, rows = toy(work), []
    with stores(work, ("server",), say) as empty:
        for store, new in empty.items():
            for engine in ENGINES:
                for n in plan.memory_items:
                    say(f"memory: {n:,} items, {store}, {engine}")
                    job = Job(engine, str(tiny(work, n)), new(), bundle, length=LENGTH)
                    rows.append({"store": store, "engine": engine, **run(job, work)})
    return {"length": LENGTH, "runs": rows}


def scaling(plan: Plan, work: Path, images: Path, say: Say) -> Record:
    """Measure how much of a core the driver takes for parts and for images, and whether sleeping workers reach their rate."""
    bundle, rows = toy(work), []
    # Parts of one batch make the driver's work for parts large; long ones, with quick workers, that for images.
    cases = [(workers, 16, WORKER_PER_S) for workers in plan.sleepers]
    cases += [(plan.sleepers[min(1, len(plan.sleepers) - 1)], 256, 4 * WORKER_PER_S), (2, 256, 2000.0), (2, 16, 2000.0)]
    with stores(work, ("server",), say) as empty:
        for store, new in empty.items():
            for workers, length, per_s in cases:
                rows.append({"store": store, **simulated(plan, work, bundle, new, workers, length, per_s, say)})
    return {"runs": rows, "limits": {store: limit([row for row in rows if row["store"] == store]) for store in empty}}


def simulated(
    plan: Plan, work: Path, bundle: str, new: Callable[[], str], workers: int, length: int, per_s: float, say: Say
) -> Record:
    """One simulated ingest; with fewer and quicker workers if there is not enough memory."""
    wanted = workers * per_s
    n = max(4 * length * workers, min(50_000, int(plan.simulated_s * wanted)))
    for processes in sorted({workers, min(workers, FEWER)}, reverse=True):
        say(f"scaling: {workers} workers of {per_s:g} images/s in {processes} processes, {n:,} items in parts of {length}")
        job = Job("ray", str(tiny(work, n)), new(), bundle, processes, length, min(16, length), sleep_ms=1000 * processes / wanted)
        try:
            done = run(job, work, keep_free_gb=KEEP_FREE_GB)
        except NotEnoughMemoryError:
            say("scaling: there was not enough memory")
            continue
        steady = done["steady_per_s"]
        return {
            "workers": workers,
            "actors": processes,
            "length": length,
            "wanted_per_s": wanted,
            **done,
            "parts_per_s": steady and steady / length,
        }
    raise NotEnoughMemoryError(f"{KEEP_FREE_GB:g} GB must stay free")


def limit(rows: Sequence[Record]) -> Record:
    """The driver's share of a core as a sum of three: always, for each part, and for each image; and where it is a whole one.

    This is an upper bound of the rate: the driver also waits, for Milvus and for Ray. The runs with workers that hardly sleep show
    the rate that was reached.
    """
    known = [row for row in rows if row["driver_share"] is not None]
    causes = np.array([[1.0, row["parts_per_s"], row["steady_per_s"]] for row in known]).reshape(-1, 3)
    shares = np.array([row["driver_share"] for row in known])
    if len(known) < causes.shape[1]:
        return {}
    from scipy.optimize import nnls

    (idle, per_part, per_image), off = nnls(causes, shares)
    spent = per_part / LENGTH + per_image
    return {
        "idle_share": idle,
        "part_ms": 1000 * per_part,
        "image_ms": 1000 * per_image,
        "off": off,
        "length": LENGTH,
        "per_s": (1 - idle) / spent if spent > 0 else None,
    }


STEPS = {"equality": equality, "rates": rates, "memory": memory, "scaling": scaling}


def length_for(n: int, workers: int) -> int:
    """A length of parts with which each worker gets at least eight."""
    return max(8, min(LENGTH, n // (8 * workers)))


def rotated(names: list[str], turn: int) -> list[str]:
    """The names in another order each turn, so that none always follows the same one."""
    at = turn % len(names)
    return names[at:] + names[:at]


def pool(work: Path, images: Path, n: int) -> Path:
    originals = jpegs(images)
    label = hash_of("\n".join(f"{path} {path.stat().st_size}" for path in originals).encode())[:8]
    return made(work / f"images-{n}-{label}", lambda folder: make_images(originals, folder, n))


def tiny(work: Path, n: int) -> Path:
    return made(work / f"tiny-{n}", lambda folder: make_tiny_images(folder, n))


def toy(work: Path) -> str:
    return str(made(work / "toy", lambda folder: make_bundle(folder)))


def made(folder: Path, make: Callable[[Path], object]) -> Path:
    """A folder of an earlier run, or a new one. A run that was killed leaves no half."""
    if not folder.exists():
        half = folder.with_name(f"{folder.name}.half")
        shutil.rmtree(half, ignore_errors=True)
        half.mkdir(parents=True)
        make(half)
        half.rename(folder)
    return folder


@contextmanager
def environment(values: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def facts() -> Record:
    packages = {}
    for name in ("ray", "milvus-lite", "pymilvus", "onnxruntime", "moto"):
        packages[name] = version(name)
    return {"machine": platform.machine(), "cores": available_cores(), "python": platform.python_version(), **packages}


def show(result: Record) -> None:
    """Print the result as Markdown."""
    for step, shower in (("equality", show_equality), ("rates", show_rates), ("memory", show_memory), ("scaling", show_scaling)):
        if step in result:
            load = result[step]["load_before"]
            print(f"\n{step}: {result[step]['cores']} cores, load before the step {load:.1f}\n")
            shower(result[step])


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    print("| " + " | ".join(head) + " |")
    print("|" + "---|" * len(head))
    for row in rows:
        print("| " + " | ".join(row) + " |")


def number(value: float | None, digits: int = 0) -> str:
    return "-" if value is None else f"{value:,.{digits}f}"


def show_equality(found: Record) -> None:
    head = ("source", "engine", "items", "rows", "s", "images/s", "driver, peak MB", "worker, MB", "same ids, rows and hits")
    rows = []
    for row in found["runs"]:
        cells = (
            row["source"],
            row["engine"],
            number(row["items"]),
            number(row["rows"]),
            number(row["seconds"]),
            number(row["per_s"]),
        )
        worker = row["private_mb"].get("worker")
        rows.append((*cells, number(row["peak_mb"]), number(worker), "yes" if not row["differences"] else "**no**"))
    table(head, rows)
    for row in found["runs"]:
        for text in row["differences"]:
            print(f"- {row['source']}, {row['engine']}: {text}")


def show_rates(found: Record) -> None:
    base = found["ways"][0]

    def over(name: str, key: str) -> str:
        ratios = [turn[name][key] / turn[base][key] for turn in found["turns"] if turn[name][key] and turn[base][key]]
        return f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})" if ratios else "-"

    def median(name: str, value: Callable[[Record], float | None]) -> float | None:
        values = [one for turn in found["turns"] if (one := value(turn[name])) is not None]
        return statistics.median(values) if values else None

    head = (
        "",
        "images/s, steady",
        "of local",
        "images/s, with the start",
        "of local",
        "driver, CPU ms per image",
        "steady, CPU ms per image",
    )
    rows = []
    for name in found["ways"]:
        steady = number(median(name, lambda run: run["steady_per_s"]), 1)
        whole = number(median(name, lambda run: run["per_s"]), 1)
        cpu = number(median(name, lambda run: 1000 * run["driver_cpu_s"] / run["items"]), 2)
        later = number(median(name, lambda run: run["steady_per_s"] and 1000 * run["driver_share"] / run["steady_per_s"]), 2)
        rows.append((name, steady, over(name, "steady_per_s"), whole, over(name, "per_s"), cpu, later))
    table(head, rows)
    turns = f"median of {len(found['turns'])} turns, with the least and the greatest"
    print(f"\n{found['items']:,} images in parts of {found['length']}; {turns}")


def show_memory(found: Record) -> None:
    head = ("Milvus", "engine", "items", "rows added", "driver, peak MB", "driver, private MB", "worker, private MB", "images/s")
    rows = [
        (
            row["store"],
            row["engine"],
            number(row["items"]),
            number(row["added"]),
            number(row["peak_mb"]),
            number(row["private_mb"]["driver"]),
            number(row["private_mb"].get("worker")),
            number(row["per_s"]),
        )
        for row in found["runs"]
    ]
    table(head, rows)


def show_scaling(found: Record) -> None:
    head = ("Milvus", "workers", "processes", "part", "wanted images/s", "reached", "parts/s", "driver, share of a core", "items")
    rows = []
    for row in found["runs"]:
        where = (row["store"], str(row["workers"]), str(row["actors"]), str(row["length"]), number(row["wanted_per_s"]))
        reached = (number(row["steady_per_s"]), number(row["parts_per_s"], 1), number(row["driver_share"], 2))
        rows.append((*where, *reached, number(row["items"])))
    table(head, rows)
    for store, at in found["limits"].items():
        if at:
            spent = f"{at['idle_share']:.2f} of a core, {at['part_ms']:.1f} ms for a part and {at['image_ms']:.3f} ms for an image"
            most = f"with parts of {at['length']} that is a whole core at {number(at['per_s'])} images/s"
            print(f"\n{store}: the driver's CPU takes {spent}; {most} (extrapolated; waiting is not in it)")


@click.command()
@click.option("--step", "steps", multiple=True, type=click.Choice(list(STEPS)), help="Measure only this; repeatable.")
@click.option(
    "--images",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    default=EXAMPLES / "images",
    help="A folder with JPEG files. [default: examples/images]",
)
@click.option("--items", type=click.IntRange(40), help=f"Images of the step equality. [default: {Plan().items:,}]")
@click.option("--rate-items", type=click.IntRange(40), help=f"Images of the step rates. [default: {Plan().rate_items:,}]")
@click.option("--turns", type=click.IntRange(1), help=f"Turns of the step rates. [default: {Plan().turns}]")
@click.option("--small", is_flag=True, help="A few minutes instead of hours.")
@click.option(
    "--work", type=click.Path(path_type=Path), default=Path("build/sources"), show_default=True, help="Folder that keeps images."
)
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Write the result as JSON after each step.")
@click.option(
    "--read", "earlier", type=click.Path(path_type=Path, exists=True), help="Show an earlier result of --out and measure nothing."
)
def main(
    steps: tuple[str, ...],
    images: Path,
    items: int | None,
    rate_items: int | None,
    turns: int | None,
    small: bool,
    work: Path,
    out: Path | None,
    earlier: Path | None,
) -> None:
    """Measure sources and engines; see the top of this file."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that no ingest and no server stays
    if earlier is not None:
        show(json.loads(earlier.read_text("utf-8")))
        return
    usual = SMALL if small else Plan()
    plan = Plan(
        items or usual.items,
        rate_items or usual.rate_items,
        turns or usual.turns,
        usual.memory_items,
        usual.sleepers,
        usual.simulated_s,
    )
    result: Record = json.loads(out.read_text("utf-8")) if out is not None and out.exists() else {}
    work.mkdir(parents=True, exist_ok=True)
    for step in steps or STEPS:
        before = {**facts(), "load_before": psutil.getloadavg()[0]}
        result[step] = {**before, **STEPS[step](plan, work.resolve(), images, lambda text: click.echo(text, err=True))}
        if out is not None:
            out.write_text(json.dumps(result, indent=1), "utf-8")
    show(result)


if __name__ == "__main__":
    main()
