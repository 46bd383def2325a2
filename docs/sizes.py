"""Write the table of sizes, hours and requests for 1 to 500 million images into docs/operations.md: `make docs-figures`.

Sizes follow from the shipped bundle. Rates are those of docs/performance.md and docs/growth.md, so that a new measurement there
changes the table. `--check` writes nothing and fails where the page says something else.

What nobody measured is yours to give: `python docs/sizes.py --images-per-gpu-second 2000 --gpus 8 --price-gpu-hour 2.5` prints
the table with rows for it.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
BUNDLE = ROOT / "milvus_coop" / "bundles" / "coop-small" / "bundle.json"
PAGE = ROOT / "docs" / "operations.md"
MARKED = re.compile(r"(<!-- sizes:start -->\n).*?(<!-- sizes:end -->)", re.DOTALL)
MILLIONS = (1, 10, 100, 500)
MILLION = 1_000_000
HOUR_S = 3600

MEASURED = {
    "images_per_s": ("performance.md", r"^\| ingest of [^|]*\|[^|]*\| ([\d,]+) images/s"),
    "cores": ("performance.md", r"on ([\d,]+) cores of a shared"),
    "unchanged_per_s": ("performance.md", r"^\| a second ingest[^|]*\|[^|]*\| ([\d,]+) items/s"),
    "minutes_per_million": ("growth.md", r"Inserting 1,000,000 rows took ([\d,]+) minutes"),
}
"""The page of each measured rate, and where the rate stands in it."""
IMAGE_BYTES = 200_000
"""Size of the images that the rate was measured with (`benchmarks/ingest.py`)."""
BLOCK_BYTES = 4 * 2**20
"""Shards are read in blocks of this size (`elsewhere/objects.py`)."""
PAGE_OBJECTS = 1000
"""Number of objects in one answer to a listing."""
LINK_BYTES = 2 * 16 * 4
"""Size of the links of one item in the HNSW index, with M = 16."""
OTHER_BYTES = 200
"""Size of uri, digest, id and stamps of one item (estimate)."""
SCALE_BYTES = 2
"""Each token is stored as int8 with one scale in half precision."""
BLIP_TOKENS, BLIP_DIM = 577, 768

YOURS = {
    "images-per-gpu-second": "images/s of one GPU",
    "gpus": "number of GPUs",
    "price-gpu-hour": "price of a GPU for an hour",
    "price-core-hour": "price of a core for an hour",
    "price-1000-reads": "price of 1,000 GET requests",
    "price-gb-month": "price of 1 GB in the object store for a month",
}


def main() -> None:
    """Write the page, check it, or print the table with your inputs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="Only compare; exit code 1 if the page differs.")
    parser.add_argument("--page", type=Path, default=PAGE, help="The page that is written; default docs/operations.md.")
    for name, text in YOURS.items():
        parser.add_argument(f"--{name}", type=float, metavar="N", help=f"Your {text}; prints the table.")
    asked = parser.parse_args()
    yours = {name: value for name in YOURS if (value := getattr(asked, name.replace("-", "_"))) is not None}
    text = table(json.loads(BUNDLE.read_text("utf-8")), measured(), yours)
    if yours:
        sys.stdout.write(text)
        return
    before = asked.page.read_text("utf-8")
    if not MARKED.search(before):
        sys.exit(f"{asked.page} has no <!-- sizes:start --> and <!-- sizes:end -->. Expected: both, each on a line of its own.")
    after = MARKED.sub(lambda marks: marks[1] + text + marks[2], before)
    if asked.check and after != before:
        sys.exit(f"{asked.page} differs from the rates and sizes. Run: make docs-figures")
    if not asked.check:
        asked.page.write_text(after, "utf-8")


def measured() -> dict[str, float]:
    """The measured rates, as the pages have them."""
    found = {}
    for name, (page, pattern) in MEASURED.items():
        match = re.search(pattern, (ROOT / "docs" / page).read_text("utf-8"), re.MULTILINE)
        if not match:
            sys.exit(f"docs/{page} has no {name}. Expected: a text that matches {pattern}")
        found[name] = float(match[1].replace(",", ""))
    return found


def table(record: dict[str, Any], rates: dict[str, float], yours: dict[str, float]) -> str:
    """The table as Markdown."""
    lines = [
        "| for N images | formula | " + " | ".join(f"{n} million" for n in MILLIONS) + " |",
        "|---|---" + len(MILLIONS) * "|---" + "|",
    ]
    for name, formula, unit, factor in rows(record, rates, yours):
        cells = " | ".join(UNITS[unit](n * MILLION * factor) for n in MILLIONS)
        lines.append(f"| {name} | {formula} | {cells} |")
    return "\n".join(lines) + "\n"


def rows(record: dict[str, Any], rates: dict[str, float], yours: dict[str, float]) -> Iterator[tuple[str, str, str, float]]:
    """Name, formula, unit, and the factor for one image."""
    embedding = 4 * record["dim"]
    tokens = record["tokens"]["count"] * (record["tokens"]["dim"] + SCALE_BYTES)
    column = 4 * -(-tokens // 3)
    row = embedding + column + OTHER_BYTES
    token_file = BLIP_TOKENS * (BLIP_DIM + SCALE_BYTES)
    yield f"embeddings, {record['dim']} dimensions", f"N x {embedding:,} B", "bytes", embedding
    yield "HNSW index", f"N x ({embedding:,} + {LINK_BYTES}) B", "bytes", embedding + LINK_BYTES
    yield "token column", f"N x {column:,} B", "bytes", column
    yield "Parquet, before its compression", f"N x ({embedding:,} + {column:,} + {OTHER_BYTES}) B", "bytes", row
    yield "token store, BLIP base", f"N x {BLIP_TOKENS} x ({BLIP_DIM} + {SCALE_BYTES}) B", "bytes", token_file
    per_core = rates["images_per_s"] / rates["cores"]
    core_hours = 1 / per_core / HOUR_S
    yield "core hours to ingest", f"N / {per_core:,.0f} images/s", "hours", core_hours
    yield "cores to ingest in a day", "core hours / 24", "count", core_hours / 24
    per_s = MILLION / rates["minutes_per_million"] / 60
    yield "hours to insert, one server", f"N / {per_s:,.0f} rows/s", "hours", 1 / per_s / HOUR_S
    yield (
        "hours of a second run, one process",
        f"N / {rates['unchanged_per_s']:,.0f} items/s",
        "hours",
        1 / rates["unchanged_per_s"] / HOUR_S,
    )
    yield "images of 200 kB", "N x 200 kB", "bytes", IMAGE_BYTES
    requests = 1 + 1 / PAGE_OBJECTS
    yield "requests, an object for each image", f"N + N / {PAGE_OBJECTS:,}", "count", requests
    in_shards = IMAGE_BYTES / BLOCK_BYTES
    yield "requests, shards", "N x 200 kB / 4 MiB", "count", in_shards
    if "images-per-gpu-second" in yours:
        gpu_hours = 1 / yours["images-per-gpu-second"] / HOUR_S
        yield "GPU hours to encode", f"N / {yours['images-per-gpu-second']:,g} images/s", "hours", gpu_hours
        if gpus := yours.get("gpus"):
            yield f"hours on {gpus:g} GPUs", f"GPU hours / {gpus:g}", "hours", gpu_hours / gpus
        if price := yours.get("price-gpu-hour"):
            yield "cost of the GPUs", f"GPU hours x {price:g}", "money", gpu_hours * price
    if price := yours.get("price-core-hour"):
        yield "cost of the cores", f"core hours x {price:g}", "money", core_hours * price
    if price := yours.get("price-1000-reads"):
        yield "cost of the requests, an object for each image", f"requests / 1,000 x {price:g}", "money", requests / 1000 * price
        yield "cost of the requests, shards", f"requests / 1,000 x {price:g}", "money", in_shards / 1000 * price
    if price := yours.get("price-gb-month"):
        yield "Parquet, cost for a month", f"GB x {price:g}", "money", row / 1e9 * price
        yield "token store, cost for a month", f"GB x {price:g}", "money", token_file / 1e9 * price


def in_bytes(value: float) -> str:
    """Bytes in GB or TB."""
    return f"{value / 1e12:,.1f} TB" if value >= 1e12 else f"{value / 1e9:,.1f} GB"


def rounded(value: float) -> str:
    """A number with two digits or more."""
    return f"{value:,.1f}" if value < 10 else f"{value:,.0f}"


def counted(value: float) -> str:
    """A number of things: the next whole number."""
    whole = -int(-value // 1)
    return f"{whole / MILLION:,.1f} million" if whole >= MILLION else f"{whole:,}"


UNITS = {"bytes": in_bytes, "hours": rounded, "count": counted, "money": rounded}


if __name__ == "__main__":
    main()
