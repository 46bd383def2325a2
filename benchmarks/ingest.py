"""How fast pictures are ingested, next to the bare image encoder, and how much memory that takes.

    python benchmarks/ingest.py --sizes 1000             3 minutes on 2 cores
    python benchmarks/ingest.py --sizes 1000 10000       half an hour on 2 cores

Photographs of 1280 x 960 pixels (about 200 kB each) are made from the sample pictures, decoded, encoded with the bundle and
written into a new Milvus Lite. Each size runs in a process of its own, whose peak memory is reported; `--sink none` throws the rows
away instead, so that the memory is that of the pipeline alone: Milvus Lite keeps its rows in memory.

The bare encoder runs on pixels that are already decoded, in the same process, before and after the ingest.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from milvus_coop.config import Settings
from milvus_coop.encoder import Encoder
from milvus_coop.ingest import Sink, ingest
from milvus_coop.models import open_models
from milvus_coop.preprocess.images import decode
from milvus_coop.store import Store
from milvus_coop.types import Row, Stamp

SAMPLES = Path(__file__).parents[1] / "examples" / "images"
DISTINCT = 200
"""Different photographs; larger sizes link to them under other names, which costs an ingest the same."""
BARE_S = 10.0
"""Time for each of the two measurements of the bare encoder."""


class NoSink:
    """A collection that is always empty."""

    def stamps(self, ids: Sequence[str]) -> dict[str, Stamp]:
        """Nothing is known."""
        return {}

    def all_stamps(self) -> Iterator[tuple[str, Stamp]]:
        """Nothing is there."""
        return iter(())

    def upsert(self, rows: Sequence[Row]) -> None:
        """Forget them."""

    def delete(self, ids: Sequence[str]) -> None:
        """Nothing to delete."""


def make_photographs(folder: Path, n: int, width: int, height: int) -> None:
    """JPEGs with grain, as cameras make them: 4:2:0, quality 88."""
    samples = sorted([*SAMPLES.glob("*.jpg"), *SAMPLES.glob("*.png")])
    random = np.random.default_rng(0)
    for i in range(n):
        path = folder / f"{i // 1000:03}" / f"{i:06}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        if i >= DISTINCT:
            os.link(folder / "000" / f"{i % DISTINCT:06}.jpg", path)
            continue
        image = ImageOps.fit(decode(samples[i % len(samples)]), (width, height), centering=(float(random.random()), 0.5))
        pixels = np.asarray(image, dtype=np.int16) + random.normal(0, 4, (height, width, 1)).astype(np.int16)
        Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(path, quality=88)


def bare_rate(encoder: Encoder, batch: int, seconds: float) -> tuple[float, float]:
    """Pictures per second, and CPU seconds per picture, of the image encoder alone on pixels that are ready."""
    size = encoder.spec.image.size
    pixels = encoder.pixels([Image.effect_noise((size, size), 80).convert("RGB")] * batch)
    encoder.encode_pixels(pixels)
    cpu, start, n = time.process_time(), time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        encoder.encode_pixels(pixels)
        n += batch
    return n / (time.perf_counter() - start), (time.process_time() - cpu) / n


def measure(args: argparse.Namespace, folder: Path) -> dict[str, float]:
    """One size, in this process."""
    models = open_models(Settings.from_env().override(bundle=args.bundle))
    encoder = models.encoder
    rates = [bare_rate(encoder, args.batch, BARE_S)]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with tempfile.TemporaryDirectory() as scratch, Store(Path(scratch) / "lite.db") as store:
        sink: Sink = NoSink()
        if args.sink == "lite":
            sink = store.open_or_create("images", encoder.spec, "image")
        cpu = time.process_time()
        report = ingest([folder], sink=sink, encoder=encoder, batch=args.batch, threads=args.threads)
        cpu = time.process_time() - cpu
        again = report
        if args.sink == "lite":
            again = ingest([folder], sink=sink, encoder=encoder, batch=args.batch, threads=args.threads)
    rates.append(bare_rate(encoder, args.batch, BARE_S))
    bare, bare_cpu = np.mean(rates, axis=0).tolist()
    rate = report.added / report.seconds
    return {
        "pictures": report.added,
        "ingest_per_s": rate,
        "bare_per_s": bare,
        "ratio": rate / bare,
        "cpu_ms": 1000 * cpu / report.added,
        "bare_cpu_ms": 1000 * bare_cpu,
        "unchanged_per_s": again.unchanged / again.seconds,
        "start_mb": before / 1024,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def main() -> None:
    """Measure all sizes, each in a process of its own, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1000], help="numbers of pictures (default: 1000)")
    parser.add_argument("--bundle", default="coop-small")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--threads", type=int, help="that decode (default: one per core)")
    parser.add_argument("--width", type=int, default=1280)
    parser.add_argument("--height", type=int, default=960)
    parser.add_argument("--sink", choices=["lite", "none"], default="lite")
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)  # measure this folder here: how each process is started
    args = parser.parse_args()
    if args.folder:
        print(json.dumps(measure(args, args.folder)))
        return
    print(f"{args.bundle}, batch {args.batch}, {args.width} x {args.height} JPEGs, {len(os.sched_getaffinity(0))} cores")
    print("pictures  ingest/s  encoder/s  ratio | CPU ms: ingest  encoder | unchanged/s | MB: before  peak")
    for n in args.sizes:
        with tempfile.TemporaryDirectory() as scratch:
            make_photographs(Path(scratch), n, args.width, args.height)
            done = subprocess.run([sys.executable, *sys.argv, "--folder", scratch], check=True, stdout=subprocess.PIPE, text=True)
        m = json.loads(done.stdout.splitlines()[-1])
        print(
            f"{m['pictures']:8,}  {m['ingest_per_s']:8.1f}  {m['bare_per_s']:9.1f}  {m['ratio']:5.2f} |"
            f" {m['cpu_ms']:14.1f}  {m['bare_cpu_ms']:7.1f} | {m['unchanged_per_s']:11,.0f} |"
            f" {m['start_mb']:10.0f}  {m['peak_mb']:4.0f}"
        )


if __name__ == "__main__":
    main()
