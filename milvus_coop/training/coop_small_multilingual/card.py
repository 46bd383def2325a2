"""The model card: a text with the figures of the last run filled in."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from string import Template
from typing import Any

from milvus_coop.bundle import Bundle, load_bundle, write_record
from milvus_coop.training.coop_small.workspace import Workspace
from milvus_coop.training.coop_small_multilingual.packages import PACKAGES

TEMPLATE = Path(__file__).resolve().parent / "card_template.md"
MODELS = ("base", "multilingual")


def write_card(workspace: Workspace, base: Bundle) -> None:
    """Write `README.md` into the bundle's folder, and the figures into its record, from the files that the other steps left."""
    figures = workspace.read("evaluate.json")
    spec = load_bundle(workspace.bundle).spec
    values = {
        "base": base.spec.name,
        "version": spec.version,
        "megabytes": f"{sum(file.n_bytes for file in spec.files.values()) / 1e6:.1f}",
        "languages": str(len(figures["base"])),
        "vocabulary": f"{spec.lineage['recipe']['vocabulary']:,}",
        "pair_counts": ", ".join(f"{count:,} {source}" for source, count in spec.lineage["pairs"].items()),
        "pictures": str(figures["pictures"]),
        "mean_lines": "\n".join(_mean_line(figures, system) for system in ("be", "coop")),
        "language_rows": _table(
            [
                language,
                row["captions"],
                *(_recalls(figures[model][language][system]) for model in MODELS for system in ("be", "coop")),
            ]
            for language, row in figures["base"].items()
        ),
        "package_rows": _table([f"`{package.name}` {package.version}", package.content, package.licence] for package in PACKAGES),
        "parity_rows": _table(
            [name, f"{found['largest']:.4f}", f"{found['smallest_cosine']:.5f}"]
            for name, found in workspace.read("parity.json").items()
        ),
        "cost_rows": _table([step, f"{seconds} s"] for step, seconds in workspace.read("costs.json").items()),
    }
    (workspace.bundle / "README.md").write_text(Template(TEMPLATE.read_text("utf-8")).substitute(values), "utf-8")
    write_record(workspace.bundle, replace(spec, metrics={"held-out stamps": figures["multilingual"]}))


def mean_recalls(figures: dict[str, Any], system: str) -> list[float]:
    """R@1, R@5, R@10, each the mean over the languages other than English (variants of it included)."""
    rows = [row[system] for language, row in figures.items() if not language.startswith("en")]
    return [sum(row[column] for row in rows) / len(rows) for column in range(3)]


def _mean_line(figures: dict[str, Any], system: str) -> str:
    old, new = ("/".join(f"{value:.1f}" for value in mean_recalls(figures[model], system)) for model in MODELS)
    return (
        f"- Mean of the languages other than English, {'BE' if system == 'be' else 'Coop'}: English model {old}, this model {new}."
    )


def _recalls(figures: list[float]) -> str:
    return "/".join(str(value) for value in figures[:3])


def _table(rows: Iterable[Iterable[object]]) -> str:
    """Markdown table rows."""
    return "\n".join("| " + " | ".join(str(cell) for cell in row) + " |" for row in rows)
