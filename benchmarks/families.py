"""Every family of `milvus-coop bundle models` at base size: parity with transformers, peak memory, sizes, and TensorRT builds.

    python benchmarks/families.py                all, with random weights (15 minutes on 2 cores, 8 GB of memory, 6 GB of disk)
    python benchmarks/families.py --only blip --json

Each conversion and each use of a bundle runs in its own process, so that each has its own peak of memory. Weights are random and
have the checkpoint's true shape: they cost as much as published ones, and the test of parity is the same. "TensorRT" means that
TensorRT-RTX parses and builds all graphs in fp32 and fp16, as `milvus-coop triton check-plans` does. Nothing runs on a GPU.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

CASES: dict[str, tuple[str, str]] = {
    "blip": ("blip", "blip"),
    "clip+vilt": ("clip", "vilt"),
    "siglip+bridgetower": ("siglip", "bridgetower"),
}
PAIRS = 20
IMAGES = sorted((ROOT / "examples" / "images").glob("*.jpg"))


def convert_case(be: str, ce: str, folder: Path, precision: str) -> dict[str, Any]:
    """Convert in this process."""
    from milvus_coop.models.preprocess.images import decode
    from milvus_coop.offline.convert.bundle import convert
    from milvus_coop.offline.convert.checkpoint import open_checkpoint
    from milvus_coop.offline.convert.parity import Samples

    samples = Samples([decode(path) for path in IMAGES[:4]], [path.stem.replace("_", " ") for path in IMAGES[:4]])
    start = time.perf_counter()
    first = open_checkpoint(folder / be)
    second = first if be == ce else open_checkpoint(folder / ce)
    done = convert(first, second, folder / "bundle", samples, precision=precision)  # type: ignore[arg-type]
    spec = done.bundle.spec
    return {
        "seconds": time.perf_counter() - start,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "bundle_mb": sum(file.n_bytes for file in spec.files.values()) / 1e6,
        "token_bytes": spec.tokens.n_bytes,
        "tokens": [spec.tokens.count, spec.tokens.dim, spec.tokens.keep],
        "differences": {name: found.largest for name, found in done.differences.items()},
    }


def use_case(folder: Path) -> dict[str, Any]:
    """Encode a text and an image and rerank in this process, to measure the memory of a search."""
    from milvus_coop.bundle import load_bundle
    from milvus_coop.models.backends.onnx import OnnxBackend
    from milvus_coop.models.open import open_encoder
    from milvus_coop.models.preprocess.images import decode
    from milvus_coop.models.reranker import Reranker

    bundle = load_bundle(folder / "bundle")
    backend = OnnxBackend(bundle)
    encoder = open_encoder(bundle, backend)
    texts = encoder.encode_texts(["two dogs on a beach"])
    images = encoder.encode_images([decode(IMAGES[0])])
    rows = {name: array.repeat(PAIRS, axis=0) for name, array in images.image_side.items()}
    Reranker(backend).score_pairs(texts.text_side, rows)
    start = time.perf_counter()
    Reranker(backend).score_pairs(texts.text_side, rows)
    return {
        "serving_peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "ms_per_pair": 1000 * (time.perf_counter() - start) / PAIRS,
    }


def plans_case(folder: Path) -> dict[str, Any]:
    """Build every graph with TensorRT-RTX in this process."""
    from milvus_coop.bundle import load_bundle
    from milvus_coop.serving.plans.check import check_bundle

    checked = check_bundle(load_bundle(folder / "bundle"))
    return {
        "plans": {f"{graph.graph} {graph.precision}": round(graph.plan_bytes / 1e6) for graph in checked},
        "plans_s": sum(graph.parse_s + graph.build_s for graph in checked),
    }


def make_checkpoints(names: set[str], folder: Path) -> dict[str, float]:
    """Write the checkpoints, and return millions of parameters by name."""
    from safetensors import safe_open

    from tests.convert.checkpoints import MAKERS

    counts = {}
    for name in names:
        MAKERS[name](folder / name, base=True)
        total = 0
        for path in (folder / name).glob("*.safetensors"):
            with safe_open(path, "pt") as tensors:
                for key in tensors.keys():  # noqa: SIM118 - no mapping
                    size = 1
                    for edge in tensors.get_slice(key).get_shape():
                        size *= edge
                    total += size
        counts[name] = total / 1e6
    return counts


def run(part: str, *arguments: str) -> dict[str, Any]:
    """Run one part in a new process."""
    done = subprocess.run([sys.executable, __file__, "--part", part, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise click.ClickException(f"{part} {' '.join(arguments)} failed:\n{done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def measure(name: str, precision: str) -> dict[str, Any]:
    be, ce = CASES[name]
    with tempfile.TemporaryDirectory(prefix="milvus-coop-families-") as temporary:
        facts = run("checkpoints", be, ce, temporary, precision)
        facts |= run("convert", be, ce, temporary, precision)
        facts |= run("use", be, ce, temporary, precision)
        return facts | (run("plans", be, ce, temporary, precision) if precision != "int8" else {})


def show(name: str, facts: dict[str, Any]) -> None:
    print(f"{name}: {', '.join(f'{key} {value:.0f} M' for key, value in facts['parameters'].items())} parameters")
    count, dim, keep = facts["tokens"]
    print(f"  image tokens {count} x {dim}, {facts['token_bytes']:,} bytes, kept in {keep}; bundle {facts['bundle_mb']:,.0f} MB")
    print(f"  converted in {facts['seconds']:.0f} s, peak {facts['peak_mb']:,.0f} MB; in use {facts['serving_peak_mb']:,.0f} MB")
    print(f"  {facts['ms_per_pair']:.1f} ms per pair on all cores")
    print("  differences: " + ", ".join(f"{key} {value:.1e}" for key, value in facts["differences"].items()))
    if "plans" in facts:
        print(f"  TensorRT: {', '.join(f'{key} {value} MB' for key, value in facts['plans'].items())}; {facts['plans_s']:.0f} s")


@click.command()
@click.option("--only", type=click.Choice(list(CASES)))
@click.option("--precision", default="fp32", type=click.Choice(["fp32", "fp16", "int8"]), show_default=True)
@click.option("--json", "as_json", is_flag=True)
@click.option("--part", hidden=True)
@click.argument("arguments", nargs=-1)
def main(only: str | None, precision: str, as_json: bool, part: str | None, arguments: tuple[str, ...]) -> None:
    """Measure; see the top of this file."""
    if part:
        be, ce, folder, precision = arguments
        parts: dict[str, Callable[[], Any]] = {
            "checkpoints": lambda: {"parameters": make_checkpoints({be, ce}, Path(folder))},
            "convert": lambda: convert_case(be, ce, Path(folder), precision),
            "use": lambda: use_case(Path(folder)),
            "plans": lambda: plans_case(Path(folder)),
        }
        print(json.dumps(parts[part]()))
        return
    for name in [only] if only else CASES:
        facts = measure(name, precision)
        if as_json:
            print(json.dumps({"case": name, "precision": precision, **facts}))
        else:
            show(name, facts)
        sys.stdout.flush()


if __name__ == "__main__":
    main()
