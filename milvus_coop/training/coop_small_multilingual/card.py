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

_SYSTEMS = {"be": "BE", "coop": "Coop"}
TEMPLATE = Path(__file__).resolve().parent / "card_template.md"


def write_card(workspace: Workspace, base: Bundle) -> None:
    """Write `README.md` into the bundle's folder, and the figures into its record, from the files that the other steps left."""
    old, new = workspace.read("baseline.json"), workspace.read("evaluate.json")
    spec = load_bundle(workspace.bundle).spec
    values = {
        "base": base.spec.name,
        "version": spec.version,
        "megabytes": f"{sum(file.n_bytes for file in spec.files.values()) / 1e6:.1f}",
        "languages": str(len(new)),
        "vocabulary": f"{spec.lineage['recipe']['vocabulary']:,}",
        "pair_counts": ", ".join(f"{count:,} {source}" for source, count in spec.lineage["pairs"].items()),
        "mean_lines": "\n".join(_mean_line(old, new, system) for system in _SYSTEMS),
        "language_rows": _table(
            [language, row["captions"], *(_recalls(model[language][system]) for model in (old, new) for system in _SYSTEMS)]
            for language, row in new.items()
        ),
        "package_rows": _table([f"`{package.name}` {package.version}", package.content, package.licence] for package in PACKAGES),
        "parity_rows": _table(
            [name, f"{found['largest']:.4f}", f"{found['smallest_cosine']:.5f}"]
            for name, found in workspace.read("parity.json").items()
        ),
        "cost_rows": _table([step, f"{seconds} s"] for step, seconds in workspace.read("costs.json").items()),
    }
    (workspace.bundle / "README.md").write_text(Template(TEMPLATE.read_text("utf-8")).substitute(values), "utf-8")
    write_record(workspace.bundle, replace(spec, metrics={"held-out stamps": new}))


def mean_recalls(figures: dict[str, Any], system: str) -> list[float]:
    """R@1, R@5, R@10, each the mean over the languages other than English (variants of it included)."""
    rows = [row[system] for language, row in figures.items() if not language.startswith("en")]
    return [sum(row[column] for row in rows) / len(rows) for column in range(3)]


def _mean_line(old: dict[str, Any], new: dict[str, Any], system: str) -> str:
    before, after = ("/".join(f"{value:.1f}" for value in mean_recalls(figures, system)) for figures in (old, new))
    return f"- Mean of the languages other than English, {_SYSTEMS[system]}: English model {before}, this model {after}."


def _recalls(figures: list[float]) -> str:
    one, five, ten, error = figures
    return f"{one} ± {error} / {five} / {ten}"


def _table(rows: Iterable[Iterable[object]]) -> str:
    """Markdown table rows."""
    return "\n".join("| " + " | ".join(str(cell) for cell in row) + " |" for row in rows)
