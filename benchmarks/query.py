"""Latency of `CoopSearch.query`, by stage, and its ratio to the sum of its bare parts measured in the same process.

    python benchmarks/query.py                      10,000 items in Milvus Lite, k = 50 (about a minute)
    python benchmarks/query.py --uri http://localhost:19530
    python benchmarks/query.py --items 50000 -k 20 --json
    python benchmarks/query.py --image-to-text      also searches as many texts with images (two minutes)
    python benchmarks/query.py --many 1000          also compares query_many with single queries (three minutes)

The items are random unit vectors with random tokens, as latency does not depend on the contents of images. The bare parts are an
ONNX Runtime run of the text encoder, a pymilvus search with the same output fields and parameters, and an ONNX Runtime run of the
cross-encoder, all on the same arrays. So the ratio shows the cost of our tokenisation, base64, checks and sorting. All take turns,
query by query. The texts have random states, and 5 to 17 tokens; they are searched with images of 640 x 480 pixels.
"""

from __future__ import annotations

import json
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import click
import numpy as np
import onnxruntime
from PIL import Image
from pymilvus import MilvusClient

from milvus_coop import Bundle, CoopSearch, Store, load_bundle
from milvus_coop.bundle import CROSS_ENCODER, IMAGE_TOKEN_SCALES, IMAGE_TOKENS, TEXT_ENCODER
from milvus_coop.bundle.folder import TOKENIZER
from milvus_coop.bundle.text_states import MASK, text_states
from milvus_coop.cores import available_cores
from milvus_coop.models.preprocess.texts import Tokenizer
from milvus_coop.models.text_states import pack_states
from milvus_coop.models.tokens import pack, quantise
from milvus_coop.store.schema import search_params
from milvus_coop.types import Array, Content, Kind, Row, StoredText, StoredTokens

COLLECTION, OF_TEXTS = "benchmark_query", "benchmark_query_texts"
IMAGE_TO_TEXT = "image to text"
TEXTS = ("a red apple", "two dogs playing on a sandy beach", "a boat", "an old stone bridge over a small river in autumn")
WORDS = sorted({word for text in TEXTS for word in text.split()})
WARM_UP = 10
TURNS = 3


def token_contents(bundle: Bundle, n: int, rng: np.random.Generator) -> list[Content]:
    spec = bundle.spec.tokens
    tokens = rng.standard_normal((n, spec.count, spec.dim)).astype(np.float32)
    return [StoredTokens(string) for string in pack(*quantise(tokens))]


def text_contents(bundle: Bundle, n: int, rng: np.random.Generator) -> list[Content]:
    texts = [" ".join(rng.choice(WORDS, count)) for count in rng.integers(3, 16, n)]
    inputs = Tokenizer(bundle.path(TOKENIZER), bundle.spec.text)(texts)
    states, longest = text_states(bundle.spec), inputs[MASK].shape[1]
    shapes = {state.name: (state.rows(longest), state.dim) if state.count else (state.dim,) for state in states}
    side = {name: rng.standard_normal((n, *shape)).astype(np.float32) for name, shape in shapes.items()}
    return [StoredText(*pair) for pair in zip(texts, pack_states(states, {**side, **inputs}, len(texts)), strict=True)]


def rows(bundle: Bundle, n: int, kind: Kind = "image") -> Iterator[list[Row]]:
    """`n` random items, in lists of 1,000."""
    rng = np.random.default_rng(0)
    spec, contents_of = bundle.spec, token_contents if kind == "image" else text_contents
    for start in range(0, n, 1000):
        vectors = rng.standard_normal((min(1000, n - start), spec.dim)).astype(np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        contents = contents_of(bundle, len(vectors), rng)
        ids = [f"{start + i:032x}" for i in range(len(vectors))]
        yield [Row(i, f"/photos/{i}.jpg", i, 1, 1, v, c) for i, v, c in zip(ids, vectors, contents, strict=True)]


def session(bundle: Bundle, graph: str) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = available_cores()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(str(bundle.path(bundle.spec.graph(graph).file)), options)


def bare_query(bundle: Bundle, client: MilvusClient, k: int) -> Callable[[str], dict[str, float]]:
    """The same work without this package. The returned function gives milliseconds per part."""
    text_session, cross_session = session(bundle, TEXT_ENCODER), session(bundle, CROSS_ENCODER)
    tokenizer = Tokenizer(bundle.path(TOKENIZER), bundle.spec.text)
    text_names = [t.name for t in bundle.spec.graph(TEXT_ENCODER).outputs]
    rng = np.random.default_rng(1)
    spec = bundle.spec.tokens
    images = {
        IMAGE_TOKENS: rng.integers(-127, 127, (k, spec.count, spec.dim), dtype=np.int8),
        IMAGE_TOKEN_SCALES: rng.random((k, spec.count)).astype(np.float32),
    }

    def run(text: str) -> dict[str, float]:
        inputs = tokenizer([text])
        t = [time.perf_counter()]
        encoded = dict(zip(text_names, text_session.run(text_names, inputs), strict=True))
        t.append(time.perf_counter())
        client.search(
            COLLECTION,
            data=list(encoded["text_embedding"]),
            limit=k,
            anns_field="embedding",
            output_fields=["uri", IMAGE_TOKENS],
            search_params=search_params("HNSW", "COSINE", k),
            consistency_level="Session",
            timeout=10,
        )
        t.append(time.perf_counter())
        side: dict[str, Array] = {name: np.repeat({**inputs, **encoded}[name], k, axis=0) for name in bundle.spec.text_side}
        t.append(time.perf_counter())
        cross_session.run(None, {**side, **images})
        t.append(time.perf_counter())
        parts = {"encode": t[1] - t[0], "retrieve": t[2] - t[1], "rerank": t[4] - t[3]}
        return {**{name: 1000 * s for name, s in parts.items()}, "total": 1000 * sum(parts.values())}

    return run


def coop_query(search: CoopSearch, k: int, images: Sequence[Path] = ()) -> Callable[[str], dict[str, float]]:
    """Queries with texts; or with images instead, one for each text."""

    def run(text: str) -> dict[str, float]:
        image = images[TEXTS.index(text)] if images else None
        t = search.query(None if image else text, image=image, k=k).timings
        return {"encode": t.encode_ms, "retrieve": t.retrieve_ms, "rerank": t.rerank_ms, "total": t.total_ms}

    return run


def measure(runs: dict[str, Callable[[str], dict[str, float]]], queries: int) -> dict[str, dict[str, list[float]]]:
    """p50 and p95 in milliseconds, by contestant and stage."""
    samples: dict[str, list[dict[str, float]]] = {name: [] for name in runs}
    for i in range(WARM_UP + queries):
        for name, run in runs.items():
            sample = run(TEXTS[i % len(TEXTS)])
            if i >= WARM_UP:
                samples[name].append(sample)
    return {
        name: {stage: [float(np.percentile([s[stage] for s in taken], q)) for q in (50, 95)] for stage in taken[0]}
        for name, taken in samples.items()
    }


@contextmanager
def filled(
    uri: str, bundle: Bundle, items: int, name: str = COLLECTION, kind: Kind = "image", *, keep: bool = False
) -> Iterator[None]:
    """A collection with items, which is dropped at the end unless it is to be kept."""
    with Store(uri, timeout_s=60) as store:
        if name in {info.name for info in store.list()}:
            store.drop(name)
        collection = store.create(name, bundle.spec, kind)
        for batch in rows(bundle, items, kind):
            collection.upsert(batch)
        collection.flush()
        try:
            yield
        finally:
            if not keep:
                store.drop(name)


def many_ratio(search: CoopSearch, k: int, texts: int) -> list[float]:
    """The time of single queries divided by that of one call with as many texts, in each of three turns."""
    ratios = []
    for turn in range(TURNS):
        asked = [f"{TEXTS[i % len(TEXTS)]} {turn} {i}" for i in range(texts)]
        start = time.perf_counter()
        for text in asked:
            search.query(text, k=k)
        middle = time.perf_counter()
        search.query_many(asked, k=k)
        ratios.append((middle - start) / (time.perf_counter() - middle))
    return ratios


def draw(folder: str) -> list[Path]:
    """An image for each of the texts."""
    paths = [Path(folder, f"{number}.jpg") for number in range(len(TEXTS))]
    for number, path in enumerate(paths):
        noise = np.random.default_rng(number).integers(0, 256, (48, 64, 3), dtype=np.uint8)
        Image.fromarray(noise).resize((640, 480)).save(path)
    return paths


@click.command()
@click.option("--items", default=10_000, show_default=True)
@click.option("--queries", default=200, show_default=True)
@click.option("-k", default=50, show_default=True)
@click.option("--uri", help="A Milvus server. [default: Milvus Lite in a temporary folder]")
@click.option("--image-to-text", is_flag=True, help="Also search a collection of texts with images.")
@click.option("--many", type=click.IntRange(min=1), help="Also call query_many with so many texts, and query with each of them.")
@click.option("--json", "as_json", is_flag=True)
def main(items: int, queries: int, k: int, uri: str | None, image_to_text: bool, many: int | None, as_json: bool) -> None:
    bundle = load_bundle("coop-small")
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        target = uri or str(Path(folder, "lite.db"))
        stack.enter_context(filled(target, bundle, items))
        search = stack.enter_context(CoopSearch(COLLECTION, uri=target, remembered_texts=0))
        runs = {"CoopSearch.query": coop_query(search, k)}
        if image_to_text:
            stack.enter_context(filled(target, bundle, items, OF_TEXTS, "text"))
            runs[IMAGE_TO_TEXT] = coop_query(stack.enter_context(CoopSearch(OF_TEXTS, uri=target)), k, draw(folder))
        client = MilvusClient(target)
        stack.callback(client.close)
        result = measure({**runs, "bare parts": bare_query(bundle, client, k)}, queries)
        of_many = {"query_many_ratios": many_ratio(search, k, many)} if many else {}
    median = {name: stages["total"][0] for name, stages in result.items()}
    ratio = median["CoopSearch.query"] / median["bare parts"]
    both = {"image_to_text_ratio": median[IMAGE_TO_TEXT] / median["CoopSearch.query"]} if image_to_text else {}
    if as_json:
        print(json.dumps({"items": items, "k": k, "ms": result, "ratio": ratio, **both, **of_many}))
        return
    print(f"{items:,} items, k = {k}, {queries} queries, {uri or 'Milvus Lite'}, {platform.machine()}, {available_cores()} cores")
    print(f"{'ms, p50 (p95)':18}" + "".join(f"{stage:>16}" for stage in result["bare parts"]))
    for name, stages in result.items():
        print(f"{name:18}" + "".join(f"{f'{p50:.1f} ({p95:.1f})':>16}" for p50, p95 in stages.values()))
    print(f"ratio of the medians of the totals: {ratio:.2f}")
    if both:
        print(f"ratio of image to text to text to image: {both['image_to_text_ratio']:.2f}")
    if of_many:
        print(f"query_many of {many:,} texts, times the throughput of query: {statistics.median(of_many['query_many_ratios']):.2f}")


if __name__ == "__main__":
    main()
