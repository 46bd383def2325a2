"""Qwen3-VL-Embedding + Qwen3-VL-Reranker with random weights: time and memory of a conversion, disk, and milliseconds per pair.

    python benchmarks/qwen_convert.py --work DIR                    the true shape of the 2B models (64 GB of memory, 30 GB of disk)
    python benchmarks/qwen_convert.py --work DIR --shape sixth      a sixth of it
    python benchmarks/qwen_convert.py --work DIR --device cuda      the class's own forward pass on a GPU, for comparison

The checkpoints are kept in DIR, and a second run uses them again. Every step runs in a process of its own, so that each has its own
peak of memory. A peak counts the pages of files that were mapped, which the system can take back, and is therefore an upper bound.
"Class" is transformers' own forward pass from pixels, one pair at a time, as the authors' code scores pairs.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

IMAGES = sorted((ROOT / "examples" / "images").glob("*.jpg"))
ROLES = ("embedding", "reranker")
TEXT = "two dogs on a beach"


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def make_checkpoints(work: Path, shape: str, dtype: str) -> dict[str, Any]:
    """Write both checkpoints, unless they are there."""
    import torch

    from tests.convert.checkpoints import qwen3_vl

    for role in ROLES:
        if not (work / role / "config.json").exists():
            qwen3_vl(work / role, shape=shape, dtype=getattr(torch, dtype))
    sizes = [sum(file.stat().st_size for file in (work / role).glob("*.safetensors")) for role in ROLES]
    return {"checkpoints_mb": [size / 1e6 for size in sizes]}


def convert_both(work: Path, precision: str, image_size: int) -> dict[str, Any]:
    """Convert in this process."""
    from milvus_coop.models.preprocess.images import decode
    from milvus_coop.offline.convert.bundle import convert
    from milvus_coop.offline.convert.checkpoint import open_checkpoint
    from milvus_coop.offline.convert.family import Wishes
    from milvus_coop.offline.convert.parity import Samples

    samples = Samples([decode(path) for path in IMAGES[:4]], [path.stem.replace("_", " ") for path in IMAGES[:4]])
    steps: list[tuple[str, float, float]] = []
    start = time.perf_counter()

    def progress(message: str) -> None:
        steps.append((message, time.perf_counter() - start, peak_mb()))

    be, ce = (open_checkpoint(work / role) for role in ROLES)
    wishes = Wishes(image_size=image_size)
    done = convert(be, ce, work / "bundle", samples, precision=precision, wishes=wishes, on_progress=progress)  # type: ignore[arg-type]
    progress("end")
    spec = done.bundle.spec
    return {
        "steps": steps,
        "bundle_mb": sum(file.n_bytes for file in spec.files.values()) / 1e6,
        "tokens": [spec.tokens.count, spec.tokens.dim, spec.tokens.n_bytes],
        "differences": {name: found.largest for name, found in done.differences.items()},
    }


def use_bundle(work: Path, pairs: int, threads: int | None) -> dict[str, Any]:
    """Encode an image and a text, and rerank, with ONNX Runtime on the CPU."""
    from milvus_coop.bundle import load_bundle
    from milvus_coop.models.backends.onnx import OnnxBackend
    from milvus_coop.models.open import open_encoder
    from milvus_coop.models.preprocess.images import decode
    from milvus_coop.models.reranker import Reranker

    bundle = load_bundle(work / "bundle")
    backend = OnnxBackend(bundle, threads=threads)
    encoder = open_encoder(bundle, backend)
    pixels = encoder.pixels([decode(IMAGES[0])])
    images = encoder.encode_pixels(pixels)
    image_ms = timed(lambda: encoder.encode_pixels(pixels), 3)
    backend.close()
    texts = encoder.encode_texts([TEXT])
    text_ms = timed(lambda: encoder.encode_texts([TEXT]), 3)
    backend.close()
    rows = {name: array.repeat(pairs, axis=0) for name, array in images.image_side.items()}
    reranker = Reranker(backend)
    reranker.score_pairs(texts.text_side, rows)
    pair_ms = timed(lambda: reranker.score_pairs(texts.text_side, rows), 3) / pairs
    return {"serving_peak_mb": peak_mb(), "image_ms": image_ms, "text_ms": text_ms, "pair_ms": pair_ms}


def use_class(work: Path, device: str, dtype: str, image_size: int) -> dict[str, Any]:
    """Score pairs with the class of transformers, from pixels."""
    import torch
    import transformers

    from milvus_coop.models.preprocess.images import decode
    from tests.convert.qwen import PAIR, RETRIEVE, inputs_of

    kind: Any = transformers.Qwen3VLForConditionalGeneration
    model = kind.from_pretrained(work / "reranker", dtype=getattr(torch, dtype)).to(device).eval()
    prompt = PAIR.format(instruction=RETRIEVE, text=TEXT)
    inputs = inputs_of(work / "reranker", [prompt], [decode(IMAGES[0])], image_size, "left")
    inputs = {name: value.to(device) for name, value in inputs.items()}

    def score() -> None:
        with torch.no_grad():
            model.model(**inputs).last_hidden_state[:, -1].float().cpu()

    score()
    return {"class_pair_ms": timed(score, 5), "class_device": device, "class_dtype": dtype}


def check_plans(work: Path) -> dict[str, Any]:
    """Build every graph with TensorRT-RTX."""
    from milvus_coop.bundle import load_bundle
    from milvus_coop.serving.plans.check import check_bundle

    checked = check_bundle(load_bundle(work / "bundle"))
    return {"plans_mb": {f"{graph.graph} {graph.precision}": round(graph.plan_bytes / 1e6) for graph in checked}}


def timed(run: Callable[[], object], times: int) -> float:
    """Milliseconds of the fastest of a few runs."""
    found = []
    for _ in range(times):
        start = time.perf_counter()
        run()
        found.append(1000 * (time.perf_counter() - start))
    return min(found)


@click.command()
@click.option("--work", required=True, type=click.Path(path_type=Path), help="Folder for checkpoints and bundle.")
@click.option("--shape", default="2b", type=click.Choice(["tiny", "sixth", "2b"]), show_default=True)
@click.option("--dtype", default="bfloat16", type=click.Choice(["bfloat16", "float32"]), show_default=True, help="Of checkpoints.")
@click.option("--precision", default="fp16", type=click.Choice(["fp32", "fp16", "int8"]), show_default=True, help="Of the bundle.")
@click.option("--image-size", default=256, show_default=True)
@click.option("--pairs", default=8, show_default=True)
@click.option("--threads", type=int)
@click.option("--device", default="cpu", show_default=True, help="Of the class of transformers: cpu or cuda.")
@click.option("--plans", is_flag=True, help="Build the graphs with TensorRT-RTX, too.")
@click.option("--part", hidden=True)
def main(part: str | None, **options: Any) -> None:
    """Measure; see the top of this file."""
    work: Path = options["work"].resolve()
    parts: dict[str, Callable[[], dict[str, Any]]] = {
        "checkpoints": lambda: make_checkpoints(work, options["shape"], options["dtype"]),
        "convert": lambda: convert_both(work, options["precision"], options["image_size"]),
        "use": lambda: use_bundle(work, options["pairs"], options["threads"]),
        "class": lambda: use_class(work, options["device"], options["dtype"], options["image_size"]),
        "plans": lambda: check_plans(work),
    }
    if part:
        print(json.dumps(parts[part]()))
        return
    work.mkdir(parents=True, exist_ok=True)
    if (work / "bundle").exists():
        raise click.ClickException(f"{work / 'bundle'} exists; remove it for a new conversion")
    facts: dict[str, Any] = {name: value for name, value in options.items() if name != "work"}
    for name in parts:
        if name == "plans" and not options["plans"]:
            continue
        done = subprocess.run(
            [sys.executable, __file__, "--part", name, *sys.argv[1:]], stdout=subprocess.PIPE, text=True, check=False
        )
        if done.returncode:
            raise click.ClickException(f"the step '{name}' failed; results so far: {json.dumps(facts)}")
        facts |= json.loads(done.stdout.splitlines()[-1])
        print(f"{name}: {done.stdout.splitlines()[-1]}", flush=True)
    peak = max(mb for _, _, mb in facts["steps"])
    both = sum(facts["checkpoints_mb"])
    print(
        f"\nconverted in {facts['steps'][-1][1]:.0f} s, peak {peak:,.0f} MB: {peak / both:.2f} x both checkpoints ({both:,.0f} MB)"
    )
    print(f"bundle {facts['bundle_mb']:,.0f} MB, in use {facts['serving_peak_mb']:,.0f} MB")
    print(f"{facts['tokens'][2]:,} bytes of tokens per image")
    print(f"ms per image {facts['image_ms']:.0f}, per text {facts['text_ms']:.0f}, per pair {facts['pair_ms']:.0f}")
    print(f"class on {facts['class_device']} in {facts['class_dtype']}: {facts['class_pair_ms']:.0f} ms per pair, from pixels")


if __name__ == "__main__":
    main()
