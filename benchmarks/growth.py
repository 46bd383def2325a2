"""The cost of a growing collection: bi-encoder, Coop and exhaustive cross-encoder at pools of 1k to 1M items, and ANN recall.

    python benchmarks/growth.py                         1k, 10k and 100k on a Milvus server (10 minutes on 2 cores, 2 GB of disk)
    python benchmarks/growth.py --pools 1000 --pools 1000000 --plot docs/growth.svg --json > growth.json
    python benchmarks/growth.py --lite                  also 1k and 10k in Milvus Lite
    python benchmarks/growth.py --read growth.json --plot docs/growth.svg       an earlier result, drawn again

The server is that of the wheel `milvus`, started here on `--work`. Inserted items stay there, so a second run only measures. 1M
items take 9 GB of memory, 30 GB of disk and an hour; delete `--work` afterwards. Rows are inserted, as the new
rows of an ingest are. `--uri` takes a running server.

The items are the images of `--images`, ingested as by users, and distractors. A distractor is a mixture of two seeds, renormalised,
plus noise. A seed is a random crop of one image or a collage of two, through the bundle's image encoder. So the ANN search is not
easier than among real images. Among 5,354 real clip arts the nearest, 10th and 50th neighbours have the cosines 0.84, 0.65 and
0.52; among as many distractors 0.81, 0.69 and 0.62. The cosines to a caption are 0.41, 0.30 and 0.24 for clip arts, and 0.37, 0.33
and 0.28 for distractors. The local dimensions are 10 and 16, respectively. A distractor's tokens are those of its first seed. They
serve to measure cost, not quality, and no quality is reported.

Times are those of `CoopSearch.query`, one query at a time, and of `query_many` with 64 texts, divided by 64. "1 %" is a search
with a filter that leaves every hundredth distractor. No text is remembered. The contestants take turns, after Milvus has built and
loaded all indexes. Recall is the share of the exact 10, 50 and 200 nearest items (by numpy) that the product's search parameters
find, also within the filter. The exhaustive cross-encoder reads every item of the pool for one query, with decoded tokens in
memory. "From the images" it also runs the image encoder on each item, on pixels in memory, as needed where tokens are not
stored. Times above `--longest` are extrapolated from the rate of pairs in the same run and marked "~" or hollow.
"""

from __future__ import annotations

import json
import platform
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import Any

import click
import numpy as np
from PIL.Image import Image
from pymilvus import MilvusClient
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.growth_results import COOP, Percentiles, PoolTimes, QueryTime, draw, duration, read
from milvus_coop import CoopIngest, CoopSearch, QueryOptions, Store
from milvus_coop.bundle.spec import PIXELS
from milvus_coop.config import Settings
from milvus_coop.cores import available_cores
from milvus_coop.ingest.items import Item, hash_of
from milvus_coop.ingest.sources import open_sources, read_sources
from milvus_coop.models.open import Models, open_models
from milvus_coop.models.tokens import pack
from milvus_coop.store import CollectionView
from milvus_coop.store.rows import records
from milvus_coop.types import Array, Row, StoredTokens
from tests.servers.milvus import MilvusServer

EXAMPLES = Path(__file__).parents[1] / "examples"
POOLS = (1_000, 10_000, 100_000)
LITE_MOST = 10_000
BLOCK = 2_000
"""Number of distractors that are made and written at a time: 9 MB."""
NOISE = 0.4
"""Length of the noise on a mixture of length 1."""
LIMIT = 10
KS = (20, 50, 200)
RECALL_AT = (10, 50, 200)
FILTER_K = 50
"""The k of the searches with a filter and of `query_many`."""
PARTS = 100
"""Distractor i belongs to part i % PARTS, so a filter for one part leaves 1 % of the items."""
PART = 7
FILTER = f"part == {PART}"
MANY = 64
"""Number of texts in one call of `query_many`."""
MANY_EVERY = 10
"""One call of `query_many` for so many rounds of single queries."""
WARM_UP = 20
STAGES = ("encode", "retrieve", "rerank", "total")
ENCODE_BATCH = 16
CE_CHUNK = 256
PROBE_S = 3.0
TIMEOUT_S = 600.0
SETTLE_S = 3 * 3600.0
QUIET_S = 75.0
"""Milvus checks its segments every 60 s, merges them and indexes them again. After this time without work it has finished."""

RESTART_S = 30.0
"""For some seconds after a restart, Milvus 2.3 looks for the node that served a collection before, and cannot load it."""

Status = Callable[[str], object]


@dataclass(frozen=True, slots=True)
class World:
    """The data from which pools are made."""

    models: Models
    images: str
    target_ids: list[str]
    targets: Array
    """Embeddings of the targets, float32 of shape (targets, dim)."""
    pixels: Array
    """Pixels of the targets, in the form that the image encoder takes."""
    captions: list[str]
    seeds: Array
    """Embeddings of the seeds, float32 of shape (seeds, dim), unit rows."""
    values: Array
    """int8 tokens of the seeds."""
    scales: Array

    @property
    def label(self) -> str:
        """A label that changes with the sources of the items, so that no pool mixes items of different sources."""
        content = [self.models.encoder.spec.fingerprint, *self.target_ids, str(len(self.seeds))]
        return hash_of("\n".join(content).encode() + self.pixels.tobytes())[:8]

    def block(self, start: int, stop: int) -> tuple[list[str], Array, Array]:
        """Distractors `start` to `stop`, within one block: ids, float32 vectors, and the seeds whose tokens they have."""
        rng = np.random.default_rng([0, start // BLOCK])
        first, second = rng.integers(0, len(self.seeds), (2, BLOCK))
        share = rng.uniform(0.5, 1.0, (BLOCK, 1)).astype(np.float32)
        mixed = unit(share * self.seeds[first] + (1 - share) * self.seeds[second])
        vectors = unit(mixed + NOISE / np.sqrt(mixed.shape[1]) * rng.standard_normal(mixed.shape, dtype=np.float32))
        kept = slice(start % BLOCK, start % BLOCK + stop - start)
        return [f"distractor-{i:09d}" for i in range(start, stop)], vectors[kept], first[kept]

    def blocks(self, start: int, stop: int) -> Iterator[tuple[list[str], Array, Array]]:
        """The blocks from that of `start`. All except the last one are whole."""
        if start < stop:
            for at in range(start - start % BLOCK, stop, BLOCK):
                yield self.block(at, min(at + BLOCK, stop))


class KeptServer(MilvusServer):
    """The tests' Milvus server, on a folder that is kept."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        shutil.rmtree(self.folder)
        self.folder = folder.resolve()  # the server changes its folder
        folder.mkdir(parents=True, exist_ok=True)

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()


def unit(vectors: Array) -> Array:
    normalised: Array = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return normalised


def seed_image(images: Sequence[Image], size: int, rng: np.random.Generator) -> Image:
    """A crop of one image, or a collage of crops of two."""

    def crop() -> Image:
        image = images[int(rng.integers(len(images)))]
        box = [int(side * part) for side, part in zip(image.size, rng.uniform(0.3, 1.0, 2), strict=True)]
        left, top = (int(rng.integers(side - cut + 1)) for side, cut in zip(image.size, box, strict=True))
        return image.crop((left, top, left + box[0], top + box[1])).resize((size, size))

    collage = crop()
    if rng.random() < 0.7:
        cut = int(size * rng.uniform(0.3, 0.7))
        collage.paste(crop().crop((0, 0, cut, size) if rng.random() < 0.5 else (0, 0, size, cut)), (0, 0))
    return collage


def make_world(models: Models, images: str, captions: Path, n_seeds: int) -> World:
    encoder = models.encoder
    items = [entry for entry in read_sources(open_sources([images], "image"), set()) if isinstance(entry, Item)]
    decoded = [encoder.decode(item.image) for item in items if isinstance(item.image, Path)]
    pixels = encoder.pixels(decoded)[PIXELS]
    targets = [
        encoder.encode_pixels({PIXELS: pixels[start : start + ENCODE_BATCH]}).embeddings
        for start in range(0, len(pixels), ENCODE_BATCH)
    ]
    rng = np.random.default_rng(0)
    parts = []
    for start in range(0, n_seeds, ENCODE_BATCH):
        some = [seed_image(decoded, encoder.spec.image.size, rng) for _ in range(min(ENCODE_BATCH, n_seeds - start))]
        parts.append(encoder.encode_images(some))
    return World(
        models,
        images,
        [item.id for item in items],
        np.concatenate(targets),
        pixels,
        [line.strip() for line in captions.read_text(encoding="utf-8").splitlines() if line.strip()],
        np.concatenate([part.embeddings for part in parts]),
        np.concatenate([part.tokens for part in parts]),
        np.concatenate([part.scales for part in parts]),
    )


def fill(uri: str, name: str, items: int, world: World, say: Status) -> None:
    """Fill a collection up to that many items. Items of an earlier run are kept, even of one that was killed."""
    with CoopIngest(name, uri=uri, models=world.models.backend, timeout_s=TIMEOUT_S) as ingest:
        ingest.run([world.images])
    contents = [StoredTokens(string) for string in pack(world.values, world.scales)]
    distractors = items - len(world.targets)
    with Store(uri, timeout_s=TIMEOUT_S) as store:
        collection = store.open(name, world.models.encoder.spec)
        written = collection.count() - len(world.targets)
        if "://" in uri and written < distractors:
            release(uri, name)  # a server that serves a collection while it is written takes twice the memory
        began = time.perf_counter()
        for ids, vectors, seeds in world.blocks(written, distractors):
            rows = [distractor(i, vector, contents[seed]) for i, vector, seed in zip(ids, vectors, seeds, strict=True)]
            if number_of(ids[0]) < written:  # a run that was killed wrote a part of this block
                collection.upsert(rows)
            else:  # `Collection.insert` also counts the rows, which needs a loaded collection
                collection._write("insert", records(rows, collection._own()))
            done = number_of(ids[-1]) + 1
            rate = (done - written) / (time.perf_counter() - began)
            say(f"{name}: {done:,} of {distractors:,} written, {rate:,.0f} rows/s")
        collection.flush()


def number_of(id: str) -> int:
    """The number of a distractor; -1 for an image."""
    return int(id.partition("-")[2]) if id.startswith("distractor-") else -1


def distractor(id: str, vector: Array, content: StoredTokens) -> Row:
    return Row(id, f"growth://{id}", id, 1, 0, vector, content, metadata={"part": number_of(id) % PARTS})


def settle(uri: str, name: str, say: Status) -> None:
    """Wait until a server has merged and indexed everything, and load the collection. This is its usual state in practice."""
    client = MilvusClient(uri, timeout=TIMEOUT_S)
    client.flush(name, timeout=SETTLE_S)
    job = client.compact(name)
    began = quiet_since = time.monotonic()
    while time.monotonic() - quiet_since < QUIET_S:
        pending = int(client.describe_index(name, "embedding")["pending_index_rows"])
        if pending or client.get_compaction_state(job) != "Completed":
            quiet_since = time.monotonic()
        if time.monotonic() - began > SETTLE_S:
            raise click.ClickException(f"Milvus has not indexed {name} within {duration(SETTLE_S)}")
        say(f"{name}: {pending:,} rows to index, after {duration(time.monotonic() - began)}")
        time.sleep(1.0)
    client.close()
    release(uri, name)


def release(uri: str, name: str) -> None:
    """Remove a collection from a server's memory. Opening it loads it again."""
    client = MilvusClient(uri, timeout=TIMEOUT_S)
    client.release_collection(name)
    client.close()


def exact(queries: Array, items: int, world: World, part: int | None = None) -> list[list[str]]:
    """The ids of the nearest items of each query, nearest first; with `part`, only of the distractors of that part."""
    depth = max(RECALL_AT)
    best = np.full((len(queries), 0), 0.0, dtype=np.float32)
    names = np.empty((len(queries), 0), dtype=object)
    targets = (world.target_ids, world.targets, world.seeds)
    for ids, vectors, _ in chain([targets], world.blocks(0, items - len(world.targets))):
        kept = [i for i, id in enumerate(ids) if part is None or (number_of(id) >= 0 and number_of(id) % PARTS == part)]
        best = np.hstack([best, queries @ vectors[kept].T])
        names = np.hstack([names, np.broadcast_to(np.array([ids[i] for i in kept], dtype=object), (len(queries), len(kept)))])
        order = np.argsort(-best, axis=1)[:, :depth]
        best, names = np.take_along_axis(best, order, 1), np.take_along_axis(names, order, 1)
    return [list(row) for row in names]


def recall(collection: CollectionView, items: int, world: World) -> dict[str, float]:
    """The recall by `@k`, and within the filter by `@k, 1 %`."""
    queries = world.models.encoder.encode_texts(world.captions).embeddings
    nearest, within = exact(queries, items, world), exact(queries, items, world, PART)
    shares = {f"@{k}": recall_at(collection, queries, nearest, k, "") for k in RECALL_AT}
    return {**shares, f"@{FILTER_K}, 1 %": recall_at(collection, queries, within, FILTER_K, FILTER)}


def recall_at(collection: CollectionView, queries: Array, nearest: Sequence[Sequence[str]], k: int, filter: str) -> float:
    found = collection.search(queries, k, filter=filter, with_tokens=False)
    hits = [len({c.id for c in some} & set(true[:k])) for some, true in zip(found, nearest, strict=True)]
    return sum(hits) / sum(len(true[:k]) for true in nearest)


def latencies(search: CoopSearch, captions: Sequence[str], queries: int) -> dict[str, dict[str, Percentiles]]:
    """Milliseconds per query, by contestant and stage."""
    contestants: dict[str, QueryOptions] = {
        "BE": QueryOptions(limit=LIMIT, k=LIMIT, rerank=False),
        **{f"Coop {k}": QueryOptions(limit=LIMIT, k=k) for k in KS},
        f"Coop {FILTER_K}, 1 %": QueryOptions(limit=LIMIT, k=FILTER_K, filter=FILTER),
    }
    many = QueryOptions(limit=LIMIT, k=FILTER_K)
    samples: dict[str, list[list[float]]] = {name: [] for name in contestants}
    of_many: list[list[float]] = []
    for i in range(WARM_UP + queries):
        for name, options in contestants.items():
            result = search.query(captions[i % len(captions)], options=options)
            if i >= WARM_UP:
                samples[name].append([getattr(result.timings, f"{stage}_ms") for stage in STAGES])
        if i % MANY_EVERY == 0:
            timings = search.query_many([captions[(i + j) % len(captions)] for j in range(MANY)], options=many)[0].timings
            of_many.append([getattr(timings, f"{stage}_ms") / MANY for stage in STAGES])
    samples[f"Coop {FILTER_K}, {MANY} at once"] = of_many[1:]
    return {name: dict(zip(STAGES, percentiles(taken), strict=True)) for name, taken in samples.items()}


def percentiles(samples: Sequence[Sequence[float]]) -> list[Percentiles]:
    """The p50 and p99 of each column."""
    p50, p99 = np.percentile(np.asarray(samples), (50, 99), axis=0)
    return [(float(a), float(b)) for a, b in zip(p50, p99, strict=True)]


class Exhaustive:
    """The cross-encoder on every item of a pool."""

    def __init__(self, world: World, longest_s: float) -> None:
        self._world = world
        self._longest_s = longest_s

    def tokens(self, n: int) -> Array:
        """Match probabilities of `n` items for one caption. The tokens of the seeds are used in turn."""
        world = self._world
        side = world.models.encoder.encode_texts(world.captions[:1]).text_side
        scores = []
        for start in range(0, n, CE_CHUNK):
            rows = np.arange(start, min(start + CE_CHUNK, n)) % len(world.seeds)
            scores.append(world.models.reranker.score(side, world.values[rows], world.scales[rows]))
        best: Array = np.argsort(-np.concatenate(scores))[:LIMIT]
        return best

    def images(self, n: int) -> Array:
        """The same probabilities from pixels."""
        world = self._world
        side = world.models.encoder.encode_texts(world.captions[:1]).text_side
        scores = []
        for start in range(0, n, ENCODE_BATCH):
            rows = np.arange(start, min(start + ENCODE_BATCH, n)) % len(world.pixels)
            images = world.models.encoder.encode_pixels({PIXELS: world.pixels[rows]})
            scores.append(world.models.reranker.score(side, images.tokens, images.scales))
        best: Array = np.argsort(-np.concatenate(scores))[:LIMIT]
        return best

    def cost(self, run: Callable[[int], Array], items: int) -> QueryTime:
        """The cost, measured on the whole pool, or extrapolated from the rate of a part that takes some seconds."""
        part = min(items, 64)
        while (took := timed(run, part)) < min(PROBE_S, self._longest_s) and part < items:
            part = min(items, 4 * part)
        if took * items / part > self._longest_s and part < items:
            return QueryTime(took * items / part, measured=False)
        took = took if part == items else timed(run, items)
        return QueryTime(float(np.median([took, timed(run, items), timed(run, items)])) if took < PROBE_S else took, measured=True)


def timed(run: Callable[[int], Array], n: int) -> float:
    began = time.perf_counter()
    run(n)
    return time.perf_counter() - began


def measure(store: str, uri: str, items: int, queries: int, world: World, longest_s: float, say: Status) -> PoolTimes:
    name = f"growth_{items}_{world.label}"
    fill(uri, name, items, world, say)
    if store == "server":
        settle(uri, name, say)
    say(f"{name}: loading")
    backend = world.models.backend
    options: dict[str, Any] = {"uri": uri, "models": backend, "timeout_s": TIMEOUT_S, "remembered_texts": 0}
    with Store(uri, timeout_s=TIMEOUT_S) as opened, CoopSearch(name, **options) as search:
        if (found := search.info().count) != items:
            raise click.ClickException(f"{name} holds {found:,} items, not {items:,}; remove --work and start again")
        say(f"{name}: searching")
        latency = latencies(search, world.captions, queries)
        say(f"{name}: searching exactly")
        shares = recall(opened.open(name, world.models.encoder.spec), items, world)
    if store == "server":
        release(uri, name)
    say(f"{name}: the cross-encoder on everything")
    exhaustive = Exhaustive(world, longest_s)
    costs = [exhaustive.cost(run, items) for run in (exhaustive.tokens, exhaustive.images)]
    return PoolTimes(store, items, latency, shares, *costs)


@contextmanager
def stores(work: Path, uri: str | None, lite: bool) -> Iterator[dict[str, str]]:
    """The addresses by kind of store."""
    more = {"lite": str(work / "lite.db")} if lite else {}
    if uri is not None:
        yield {"lite" if "://" not in uri else "server": uri, **more}
        return
    again = (work / "milvus").exists()
    with KeptServer(work / "milvus") as server:
        if again:
            time.sleep(RESTART_S)
        yield {"server": server.uri, **more}


@contextmanager
def progress() -> Iterator[Status]:
    """Show progress: on a terminal in one line that changes, elsewhere in a new line every ten seconds."""
    console = Console(stderr=True)
    if console.is_terminal:
        with console.status("making distractors") as status:
            yield status.update
        return
    last_s = 0.0

    def log(text: str) -> None:
        nonlocal last_s
        if time.monotonic() - last_s > 10:
            last_s = time.monotonic()
            print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)

    yield log


def as_text(pools: Sequence[PoolTimes]) -> str:
    return json.dumps({"pools": [asdict(pool) for pool in pools]})


def cell(p: Percentiles) -> str:
    return f"{p[0]:.1f} ({p[1]:.1f})"


def show(pools: Sequence[PoolTimes]) -> None:
    table = Table(title="milliseconds, p50 (p99); time for one query on everything; ~ extrapolated")
    table.add_column("pool", justify="right", no_wrap=True)
    table.add_column("store", no_wrap=True)
    contestants, recalls = list(pools[0].latency), [f"recall\n{name}" for name in pools[0].recall]
    for name in (*(c.replace(", ", "\n") for c in contestants), *STAGES[:-1], *recalls, "CE\non all", "CE from\nimages"):
        table.add_column(name, justify="right", no_wrap=True)
    for pool in pools:
        times = pool.latency
        table.add_row(
            f"{pool.items:,}",
            pool.store,
            *(cell(times[name]["total"]) for name in times),
            *(cell(times[COOP][stage]) for stage in STAGES[:-1]),
            *(f"{share:.3f}" for share in pool.recall.values()),
            str(pool.exhaustive),
            str(pool.from_images),
        )
    Console(width=None if sys.stdout.isatty() else 220).print(table)
    print(f"the stages are those of {COOP}; {platform.machine()}, {available_cores()} cores")


@click.command()
@click.option("--pools", multiple=True, type=int, default=POOLS, show_default=True, help="Number of items in all; repeatable.")
@click.option("--queries", default=300, show_default=True, help="Number of queries per contestant and pool.")
@click.option("--uri", help="A Milvus server, or a path for Milvus Lite. [default: a server, started here]")
@click.option("--lite", is_flag=True, help=f"Also measure Milvus Lite, up to {LITE_MOST:,} items.")
@click.option(
    "--images",
    default=str(EXAMPLES / "images"),
    help="Images, in a form that `milvus-coop ingest` takes. [default: examples/images]",
)
@click.option(
    "--captions", type=click.Path(path_type=Path, exists=True), default=EXAMPLES / "captions.txt", help="Queries, one per line."
)
@click.option("--seeds", default=2000, show_default=True, help="Number of seed images for the distractors.")
@click.option("--longest", default=60.0, show_default=True, help="Maximum seconds of a measurement; longer times are extrapolated.")
@click.option(
    "--work", type=click.Path(path_type=Path), default=Path("build/growth"), show_default=True, help="Folder that keeps the pools."
)
@click.option(
    "--read", "earlier", type=click.Path(path_type=Path, exists=True), help="Show an earlier result of --json and measure nothing."
)
@click.option("--plot", type=click.Path(path_type=Path), help="Draw the plot as .svg or .png.")
@click.option("--json", "as_json", is_flag=True)
def main(
    pools: tuple[int, ...],
    queries: int,
    uri: str | None,
    lite: bool,
    images: str,
    captions: Path,
    seeds: int,
    longest: float,
    work: Path,
    earlier: Path | None,
    plot: Path | None,
    as_json: bool,
) -> None:
    """Measure growth; see the top of this file."""
    if earlier is not None:
        measured = read(earlier.read_text(encoding="utf-8"))
    else:
        work.mkdir(parents=True, exist_ok=True)
        with progress() as say, stores(work, uri, lite) as addresses:
            world = make_world(open_models(Settings()), images, captions, seeds)
            largest_first = sorted(pools, reverse=True)  # so that nothing is indexed while a smaller pool is measured
            wanted = [(s, u, n) for s, u in addresses.items() for n in largest_first if s == "server" or n <= LITE_MOST]
            measured = []
            for s, u, n in wanted:
                measured.append(measure(s, u, n, queries, world, longest, say))
                (work / "measured.json").write_text(as_text(measured), encoding="utf-8")  # kept if a later pool fails
            measured.sort(key=lambda pool: (list(addresses).index(pool.store), pool.items))
            world.models.close()
    if as_json:
        print(as_text(measured))
    else:
        show(measured)
    if plot is not None:
        draw(measured, plot)


if __name__ == "__main__":
    main()
