"""The model card: a text with the figures of the last run filled in."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from string import Template
from typing import Any

from milvus_coop.bundle import load_bundle, write_record
from recipes.coop_small.packages import PACKAGES

TEMPLATE = Path(__file__).with_name("card_template.md")
_STEPS = ("fetch", "collect", "features", "train", "cross", "export", "evaluate")
_ROLES = {"train": "training", "style": "evaluation only", "text": "labels and names", "weights": "pretrained weights"}


def write_card(bundle: Path, work: Path) -> None:
    """Write README.md into the bundle's folder, and the figures into its record, from what the other steps left in WORK."""
    found, cross, parity = (json.loads((work / f"{name}.json").read_text("utf-8")) for name in ("evaluate", "cross", "parity"))
    spec = load_bundle(bundle).spec
    reliability = cross.pop("reliability")
    values = {
        "version": spec.version,
        "megabytes": f"{sum(file.n_bytes for file in spec.files.values()) / 1e6:.1f}",
        "dim": spec.dim,
        "token_bytes": spec.tokens.n_bytes,
        "recall_rows": _table(row for name, figures in found.items() for row in _recall_rows(name, figures)),
        "cross_rows": _table(_cross_row(name, figures) for name, figures in cross.items()),
        "reliability_rows": _table(
            [f"{low:g} to {high:g}", n, f"{mean:.3f}", f"{share:.3f}"] for low, high, n, mean, share in reliability
        ),
        "parity_rows": _table(
            [name, f"{d['largest']:.4f}", f"{d['smallest_cosine']:.5f}"] for name, d in parity["outputs"].items()
        ),
        "ce_ms": f"{parity['ce_ms']:.1f}",
        "cost_rows": _table(
            [step, f"{int((work / f'{step}.done').read_text()):,} s"] for step in _STEPS if (work / f"{step}.done").exists()
        ),
        "package_rows": _table([f"`{p.name}` {p.version}", p.content, _ROLES[p.role], p.licence] for p in PACKAGES),
    }
    (bundle / "README.md").write_text(Template(TEMPLATE.read_text("utf-8")).substitute(values), "utf-8")
    write_record(bundle, replace(spec, metrics={"test": found, "dev, cross-validated": cross}))


def _recall_rows(name: str, figures: dict[str, Any]) -> Iterable[list[Any]]:
    pool = f"{figures['images']:,} images, {figures['texts']:,} texts"
    for direction in ("text to image", "image to text"):
        row = figures[direction]
        yield [name, pool, direction, _recalls(row["be"]), _recalls(row["coop"]), f"{row['gain'][0]:+.1f} ± {row['gain'][1]:.1f}"]


def _recalls(values: list[float]) -> str:
    one, five, ten, error = values
    return f"{one:.1f} ± {error:.1f} / {five:.1f} / {ten:.1f}"


def _cross_row(name: str, row: dict[str, Any]) -> list[Any]:
    be, coop = (" / ".join(f"{value:.1f}" for value in row[system]) for system in ("be", "coop"))
    return [name, be, coop, f"{row['gain'][0]:+.2f} ± {row['gain'][1]:.2f}"]


def _table(rows: Iterable[Iterable[Any]]) -> str:
    """Markdown table rows."""
    return "\n".join("| " + " | ".join(str(cell) for cell in row) + " |" for row in rows)
