"""The cost of reranking k candidates with a cross-encoder of BLIP's size: from images, from cached tokens, and in our way.

    python benchmarks/reranking.py            BLIP base at 384 px with random weights, k = 10, 20 and 50 (15 minutes on 2 cores)
    python benchmarks/reranking.py --k 10 --json

Four ways take turns in one run, on all CPU cores of this machine:

(a) the usual way: open the k images, run transformers' processor, and `BlipForImageTextRetrieval` in PyTorch on k pairs;
(b) PyTorch from cached tokens: the text encoder with cross-attention on the k images' float32 patch states, held in memory;
(c) our way in this process: the `rerank_ms` of `CoopSearch.query` on Milvus Lite with a token store on disk, reading tokens
    included;
(d) our way through Triton (Python backend, on the same cores): the `rerank_ms` of the same.

Weights are random, which cost as much as trained ones. Kendall's tau compares the order of (b), from float32 tokens, with that of
(c), from int8 tokens, over the same candidates. This is a hard test, because scores of random weights are close together.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
import transformers
from PIL import Image
from scipy.stats import kendalltau

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from milvus_coop import CoopIngest, CoopSearch  # noqa: E402
from milvus_coop.bundle import Bundle  # noqa: E402
from milvus_coop.cores import available_cores  # noqa: E402
from milvus_coop.models.preprocess.images import decode  # noqa: E402
from milvus_coop.offline.convert.bundle import convert  # noqa: E402
from milvus_coop.offline.convert.checkpoint import open_checkpoint  # noqa: E402
from milvus_coop.offline.convert.graphs import GraphPrecision  # noqa: E402
from milvus_coop.offline.convert.parity import Samples  # noqa: E402
from milvus_coop.serving.triton import Endpoints, TritonServer, Tuning, export_repository, find_triton  # noqa: E402
from milvus_coop.types import Array  # noqa: E402
from tests.convert.checkpoints import blip  # noqa: E402
from tests.servers.milvus import free_ports  # noqa: E402

IMAGES = sorted((ROOT / "examples" / "images").glob("*.jpg"))
QUERIES = ["two dogs on a beach", "an old stone bridge over a small river in autumn"]
AIM = 10.0
"""Goal for the ratio of the times of (a) and (c)."""


class Usual:
    """Ways (a) and (b), with transformers and PyTorch, as in the documentation and in the code of BLIP's authors."""

    def __init__(self, checkpoint: Path) -> None:
        kind: Any = transformers.BlipForImageTextRetrieval
        self.model = kind.from_pretrained(checkpoint).eval()
        processor: Any = transformers.AutoImageProcessor
        self.processor = processor.from_pretrained(checkpoint, backend="pil")
        self.tokenizer: Any = transformers.AutoTokenizer.from_pretrained(checkpoint)
        self.states: dict[str, torch.Tensor] = {}

    def words(self, text: str, k: int) -> dict[str, torch.Tensor]:
        encoded = self.tokenizer([text] * k, return_tensors="pt")
        return {name: encoded[name] for name in ("input_ids", "attention_mask")}

    @torch.no_grad()
    def from_images(self, text: str, paths: list[str]) -> Array:
        pixels = self.processor([Image.open(path).convert("RGB") for path in paths], return_tensors="pt")["pixel_values"]
        scores: Array = self.model(pixel_values=pixels, **self.words(text, len(paths))).itm_score.softmax(-1)[:, 1].numpy()
        return scores

    @torch.no_grad()
    def remember(self, paths: list[str]) -> None:
        for path in paths:
            pixels = self.processor(Image.open(path).convert("RGB"), return_tensors="pt")["pixel_values"]
            self.states[path] = self.model.vision_model(pixel_values=pixels).last_hidden_state[0]

    @torch.no_grad()
    def from_tokens(self, text: str, paths: list[str]) -> Array:
        states = torch.stack([self.states[path] for path in paths])
        mask = torch.ones(states.shape[:2], dtype=torch.int64)
        words = self.words(text, len(paths))
        read = self.model.text_encoder(**words, encoder_hidden_states=states, encoder_attention_mask=mask).last_hidden_state
        scores: Array = self.model.itm_head(read[:, 0]).softmax(-1)[:, 1].numpy()
        return scores


def prepare(folder: Path, precision: GraphPrecision, needed: int) -> tuple[Bundle, Path, list[str]]:
    """A checkpoint, its bundle, and a collection of as many images as the largest k (each several times, slightly cropped)."""
    checkpoint = blip(folder / "checkpoint", base=True)
    samples = Samples([decode(path) for path in IMAGES[:4]], QUERIES * 2)
    one = open_checkpoint(checkpoint)
    bundle = convert(one, one, folder / "bundle", samples, precision=precision).bundle
    (folder / "photos").mkdir()
    for number in range(needed):
        image = Image.open(IMAGES[number % len(IMAGES)])
        inset = 5 * (number // len(IMAGES))
        box = (inset, inset, image.width - inset, image.height - inset)
        image.crop(box).save(folder / "photos" / f"{number:03}.jpg", quality=92)
    with CoopIngest("blip", uri=folder / "milvus.db", bundle=bundle.folder) as ingest:
        ingest.run([folder / "photos"])
    return bundle, checkpoint, [str(path) for path in sorted((folder / "photos").iterdir())]


def serve(stack: ExitStack, bundle: Bundle, folder: Path) -> str:
    grpc, http, metrics = free_ports(3)
    tuning = Tuning(instances=1, threads=available_cores(), queue_timeout_us=600_000_000)  # one large request at a time
    repository = export_repository(bundle, folder / "models", "python", tuning=tuning)
    stack.enter_context(TritonServer(find_triton(), repository, endpoints=Endpoints(grpc=grpc, http=http, metrics=metrics)))
    return f"triton://127.0.0.1:{grpc}"


def clock(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return 1000 * (time.perf_counter() - start)


def measure(usual: Usual, local: CoopSearch, served: CoopSearch, k: int) -> dict[str, Any]:
    """Milliseconds per query of each way, as means over the queries. The ways take turns."""
    took: dict[str, list[float]] = {name: [] for name in "abcd"}
    taus, differences = [], []
    for text in QUERIES:
        result = local.query(text, k=k, limit=k)
        uris = [hit.uri for hit in result]
        took["c"].append(min(result.timings.rerank_ms, local.query(text, k=k, limit=k).timings.rerank_ms))
        took["d"].append(min(served.query(text, k=k, limit=k).timings.rerank_ms for _ in range(2)))
        exact = usual.from_tokens(text, uris)
        took["b"].append(clock(lambda text=text, uris=uris: usual.from_tokens(text, uris)))  # type: ignore[misc]
        took["a"].append(clock(lambda text=text, uris=uris: usual.from_images(text, uris)))  # type: ignore[misc]
        ours = np.array([hit.ce_score for hit in result], dtype=np.float64)
        taus.append(float(kendalltau(exact, ours).statistic))
        differences.append(float(np.abs(exact - ours).max()))
    ms = {name: float(np.mean(values)) for name, values in took.items()}
    return {"k": k, "ms": ms, "kendall_tau": float(np.mean(taus)), "largest_difference": max(differences)}


def show(rows: list[dict[str, Any]], facts: dict[str, Any]) -> None:
    print(
        f"BLIP base, 384 px, 577 tokens of 768, {facts['precision']}; CPU, {facts['cores']} cores; mean of {len(QUERIES)} queries"
    )
    print(f"{'k':>4}{'(a) images':>14}{'(b) PyTorch':>13}{'(c) ours':>11}{'(d) Triton':>12}   ms per query;  (a)/(c)  (b)/(c)")
    for row in rows:
        ms = row["ms"]
        cells = f"{row['k']:>4}{ms['a']:>14,.0f}{ms['b']:>13,.0f}{ms['c']:>11,.0f}{ms['d']:>12,.0f}"
        print(f"{cells}{'':>17}{ms['a'] / ms['c']:>9.1f}{ms['b'] / ms['c']:>9.1f}   aim {AIM:g}")
    best = rows[-1]
    print("pairs/s: " + ", ".join(f"({name}) {1000 * best['k'] / value:,.1f}" for name, value in best["ms"].items()))
    print(f"on disk per image: {facts['token_bytes']:,} bytes of tokens, {facts['embedding_bytes']:,} of embedding")
    print(f"int8 tokens: Kendall's tau {best['kendall_tau']:.4f}, probabilities differ by up to {best['largest_difference']:.1e}")


@click.command()
@click.option("--k", "ks", default="10,20,50", show_default=True, help="Numbers of candidates.")
@click.option("--precision", default="fp32", type=click.Choice(["fp32", "fp16", "int8"]), show_default=True)
@click.option("--json", "as_json", is_flag=True)
def main(ks: str, precision: GraphPrecision, as_json: bool) -> None:
    """Measure reranking; see the top of this file."""
    torch.set_num_threads(available_cores())
    depths = [int(k) for k in ks.split(",")]
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="milvus-coop-reranking-")))
        bundle, checkpoint, paths = prepare(folder, precision, max(depths))
        usual = Usual(checkpoint)
        usual.remember(paths)
        options: dict[str, Any] = {"uri": folder / "milvus.db", "bundle": bundle.folder, "timeout_s": 600.0}
        local = stack.enter_context(CoopSearch("blip", **options))
        served = stack.enter_context(CoopSearch("blip", models=serve(stack, bundle, folder), **options))
        rows = [measure(usual, local, served, k) for k in depths]
    facts = {
        "precision": precision,
        "cores": available_cores(),
        "token_bytes": bundle.spec.tokens.n_bytes,
        "embedding_bytes": 4 * bundle.spec.dim,
    }
    if as_json:
        print(json.dumps({**facts, "rows": rows}))
    else:
        show(rows, facts)


if __name__ == "__main__":
    main()
