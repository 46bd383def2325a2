"""The speed of an ingest of images compared with the bare image encoder, and its memory.

    python benchmarks/ingest.py --sizes 1000             2 minutes on 2 cores
    python benchmarks/ingest.py --sizes 1000 10000       10 minutes on 2 cores

Images of 1280 x 960 pixels (about 200 kB each) are made from the sample images, decoded, encoded with the bundle and written into a
new Milvus Lite. The ingest of all images runs in its own process, whose peak memory is reported. `--sink none` discards the rows
instead, so that the memory is that of the pipeline alone: Milvus Lite keeps its rows in memory.

The ratio compares the ingest with the bare image encoder on decoded pixels, one batch after the other on all cores. Both take turns
in another process, 200 images at a time, and the median of all turns counts. CPU times show the work of each, however busy the
machine is.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from milvus_coop.bundle.spec import PIXELS
from milvus_coop.config import Settings
from milvus_coop.ingest import Sink, ingest
from milvus_coop.ingest.options import RUNS
from milvus_coop.models.encoder import Encoder
from milvus_coop.models.open import open_models
from milvus_coop.models.preprocess.images import decode
from milvus_coop.store import Store
from milvus_coop.types import Array, IngestReport, Row, Stamp

SAMPLES = Path(__file__).parents[1] / "examples" / "images"
DISTINCT = 200
"""Number of different images. Larger sizes link to them under other names, which costs an ingest the same."""
TURNS = 5
"""Number of turns of the bare encoder and of the ingest, of 200 images each."""


class NoSink:
    """A collection that is always empty."""

    def stamps(self, ids: Sequence[str]) -> dict[str, Stamp]:
        """Return no stamps."""
        return {}

    def rows(self, ids: Sequence[str]) -> dict[str, Row]:
        """Return no rows."""
        return {}

    def all_stamps(self) -> Iterator[tuple[str, Stamp]]:
        """Return no stamps."""
        return iter(())

    def upsert(self, rows: Sequence[Row]) -> None:
        """Discard the rows."""

    insert = upsert

    def settle(self) -> None:
        """Finish nothing."""

    def refusal(self, metadata: Mapping[str, Any] | None) -> str:
        """Refuse nothing."""
        return ""

    def delete(self, ids: Sequence[str]) -> None:
        """Delete nothing."""


def make_photographs(folder: Path, n: int, width: int, height: int) -> None:
    """Write JPEGs with grain, like those of cameras: 4:2:0, quality 88."""
    samples = sorted([*SAMPLES.glob("*.jpg"), *SAMPLES.glob("*.png")])
    random = np.random.default_rng(0)
    for i in range(n):
        path = folder / f"{i // DISTINCT:03}" / f"{i:06}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        if i >= DISTINCT:
            os.link(folder / "000" / f"{i % DISTINCT:06}.jpg", path)
            continue
        image = ImageOps.fit(decode(samples[i % len(samples)]), (width, height), centering=(float(random.random()), 0.5))
        pixels = np.asarray(image, dtype=np.int16) + random.normal(0, 4, (height, width, 1)).astype(np.int16)
        Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(path, quality=88)


def run_bare(encoder: Encoder, pixels: Mapping[str, Array], n: int) -> tuple[float, float]:
    """The seconds and the CPU seconds that the image encoder takes for n images."""
    cpu, start = time.process_time(), time.perf_counter()
    batch = len(pixels[PIXELS])
    for _ in range(0, n, batch):
        encoder.encode_pixels(pixels)
    scale = n / (batch * -(-n // batch))  # the last batch is full too
    return (time.perf_counter() - start) * scale, (time.process_time() - cpu) * scale


def run_ingest(folder: Path, sink: Sink, encoder: Encoder, args: argparse.Namespace) -> tuple[IngestReport, float]:
    """The report of an ingest of everything, and its CPU seconds."""
    cpu = time.process_time()
    report = ingest([folder], sink=sink, encoder=encoder, batch=args.batch, threads=args.threads, force=True)
    return report, time.process_time() - cpu


def measure_ratio(args: argparse.Namespace, folder: Path) -> dict[str, float]:
    """Compare the ingest with the bare encoder in this process, in turns."""
    settings = Settings.from_env().override(bundle=args.bundle)
    bare, encoder = open_models(settings).encoder, open_models(settings, runs=RUNS).encoder
    size = bare.spec.image.size
    pixels = bare.pixels([Image.effect_noise((size, size), 80).convert("RGB")] * args.batch)
    bare.encode_pixels(pixels)
    encoder.encode_pixels(pixels)
    turns = []
    with _sink(args, encoder) as sink:
        for _ in range(TURNS):
            bare_s, bare_cpu_s = run_bare(bare, pixels, DISTINCT)
            report, cpu_s = run_ingest(folder / "000", sink, encoder, args)
            turns.append(
                [DISTINCT / bare_s, bare_cpu_s / DISTINCT, cpu_s / report.seen, bare_s / report.seconds * report.seen / DISTINCT]
            )
    bare_per_s, bare_cpu_s, cpu_s, ratio = np.median(turns, axis=0).tolist()
    return {"bare_per_s": bare_per_s, "ratio": ratio, "cpu_ms": 1000 * cpu_s, "bare_cpu_ms": 1000 * bare_cpu_s}


def measure_whole(args: argparse.Namespace, folder: Path) -> dict[str, float]:
    """Ingest everything in this process, twice if the rows are kept."""
    encoder = open_models(Settings.from_env().override(bundle=args.bundle), runs=RUNS).encoder
    size = encoder.spec.image.size
    encoder.encode_images([Image.new("RGB", (size, size))] * args.batch)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with _sink(args, encoder) as sink:
        report, _ = run_ingest(folder, sink, encoder, args)
        again = ingest([folder], sink=sink, encoder=encoder) if args.sink == "lite" else None
    return {
        "images": report.seen,
        "ingest_per_s": report.seen / report.seconds,
        "unchanged_per_s": again.unchanged / again.seconds if again else 0.0,
        "start_mb": before / 1024,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


PARTS = {"ratio": measure_ratio, "whole": measure_whole}


@contextlib.contextmanager
def _sink(args: argparse.Namespace, encoder: Encoder) -> Iterator[Sink]:
    if args.sink == "none":
        yield NoSink()
        return
    with tempfile.TemporaryDirectory() as scratch, Store(Path(scratch) / "lite.db") as store:
        yield store.open_or_create("images", encoder.spec, "image")


def _measured(part: str, folder: str) -> dict[str, float]:
    """The figures of one part, from a process of its own."""
    command = [sys.executable, *sys.argv, "--folder", folder, "--part", part]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figures


def main() -> None:
    """Measure all sizes, each in its own process, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1000], help="numbers of images (default: 1000)")
    parser.add_argument("--bundle", default="coop-small")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--threads", type=int, help="threads that decode (default: one per core)")
    parser.add_argument("--width", type=int, default=1280)
    parser.add_argument("--height", type=int, default=960)
    parser.add_argument("--sink", choices=["lite", "none"], default="lite")
    # Measure a part in this process, on the images in this folder: these two start each process.
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--part", choices=PARTS, default="whole", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.folder:
        print(json.dumps(PARTS[args.part](args, args.folder)))
        return
    print(f"{args.bundle}, batch {args.batch}, {args.width} x {args.height} JPEGs, {len(os.sched_getaffinity(0))} cores")
    print("  images  ingest/s  encoder/s  ratio | CPU ms: ingest  encoder | unchanged/s | MB: before  peak")
    for n in args.sizes:
        with tempfile.TemporaryDirectory() as scratch:
            make_photographs(Path(scratch), n, args.width, args.height)
            m = _measured("ratio", scratch) | _measured("whole", scratch)
        print(
            f"{m['images']:8,}  {m['ingest_per_s']:8.1f}  {m['bare_per_s']:9.1f}  {m['ratio']:5.2f} |"
            f" {m['cpu_ms']:14.1f}  {m['bare_cpu_ms']:7.1f} | {m['unchanged_per_s']:11,.0f} |"
            f" {m['start_mb']:10.0f}  {m['peak_mb']:4.0f}"
        )


if __name__ == "__main__":
    main()
