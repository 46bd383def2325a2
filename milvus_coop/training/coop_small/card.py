"""The model card: a text with the figures of the last run filled in."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from string import Template
from typing import Any

from milvus_coop.bundle import load_bundle, write_record
from milvus_coop.training.coop_small.packages import PACKAGES
from milvus_coop.training.coop_small.workspace import MODULE_FOLDER, Workspace

TEMPLATE = MODULE_FOLDER / "card_template.md"
BEFORE = MODULE_FOLDER / "figures_1_0_0.json"
"""Figures of the version before, on the same pictures and scenes."""
_STYLES = (("openmoji", "OpenMoji (never in training)"), ("clipart", "clip art left out"))
_ROLES = {
    "train": "training",
    "judge": "evaluation only",
    "text": "labels, names and synonyms",
    "weights": "pretrained weights",
}


def write_card(workspace: Workspace) -> None:
    """Write `README.md` into the bundle's folder, and the figures into its record, from the files that the other steps left."""
    test, judged, parity = (workspace.read(name) for name in ("evaluate.json", "judge.json", "parity.json"))
    scenes, before = workspace.read("test-scenes.json"), json.loads(BEFORE.read_text("utf-8"))
    bundle = workspace.bundle
    spec = load_bundle(bundle).spec
    values = {
        "version": spec.version,
        "megabytes": f"{sum(file.n_bytes for file in spec.files.values()) / 1e6:.1f}",
        "token_bytes": str(spec.tokens.n_bytes),
        "pictures": str(test["pictures"]),
        "captions": str(test["captions"]),
        "test_rows": _recall_rows(test),
        "before_rows": _recall_rows(before["stamps"], f"{before['version']}: "),
        "before_cross_entropy": str(before["stamps"]["cross_entropy"]),
        "scene_count": str(sum(row["queries"] for name, row in scenes.items() if name.startswith("all "))),
        "scene_rows": _scene_rows(scenes, before["scenes"]),
        "ce_ms": f"{parity['ce_ms']:.1f}",
        "ce_ms_before": f"{before['ce_ms']:.1f}",
        "test_gain": _gain(test),
        "cv_rows": _recall_rows(judged["cross-validation"]),
        "cv_gain": _gain(judged["cross-validation"]),
        "style_rows": _style_rows(judged),
        "cross_entropy": str(test["cross_entropy"]),
        "base_cross_entropy": str(test["base_cross_entropy"]),
        "reliability_rows": _table([f"{low:g} to {high:g}", n, mean, share] for low, high, n, mean, share in test["reliability"]),
        "float32_rows": _recall_rows(parity["float32"]),
        "parity_rows": _table(
            [name, f"{d['largest']:.4f}", f"{d['smallest_cosine']:.5f}"] for name, d in parity["outputs"].items()
        ),
        "cost_rows": _table([step, f"{seconds} s"] for step, seconds in workspace.read("costs.json").items()),
        "cores": str(os.cpu_count()),
        "package_rows": _table([f"`{p.name}` {p.version}", p.content, _ROLES[p.role], p.licence] for p in PACKAGES),
    }
    text = Template(TEMPLATE.read_text("utf-8")).substitute(values)
    (bundle / "README.md").write_text(text, "utf-8")
    metrics = {"held-out stamps": test, "composite scenes": scenes, "cross-validation": judged["cross-validation"]}
    write_record(bundle, replace(spec, metrics=metrics))


def _scene_rows(scenes: dict[str, Any], before: dict[str, Any]) -> str:
    rows = []
    for name, row in scenes.items():
        cells = [f"{name} ({row['queries']})"]
        for direction in ("text", "image"):
            be, coop, old_be, old_coop = (
                "/".join(map(str, figures[f"{system}_{direction}"])) for figures in (row, before[name]) for system in ("be", "coop")
            )
            gain, error = row[f"gain_{direction}"]
            cells += [be, coop, f"{gain:+.1f} ± {error}", f"{old_be}, {old_coop}"]
        rows.append(cells)
    return _table(rows)


def _recall_rows(figures: dict[str, Any], prefix: str = "") -> str:
    names = {"be_text": "BE, text to image", "coop_text": "Coop, text to image"}
    names |= {"be_image": "BE, image to text", "coop_image": "Coop, image to text"}
    return _table([prefix + label, *_with_error(figures[name])] for name, label in names.items())


def _with_error(recall: list[float]) -> list[str]:
    one, five, ten, error = recall
    return [f"{one} ± {error}", str(five), str(ten)]


def _gain(figures: dict[str, Any]) -> str:
    return f"{figures['gain']:+.2f} ± {figures['gain_se']:.2f}"


def _style_rows(judged: dict[str, Any]) -> str:
    rows = []
    for style, label in _STYLES:
        for name in ("prototype", "ours"):
            figures = judged[f"{style}, {name}"]
            rows.append([label, name, *_with_error(figures["be_text"]), "/".join(str(x) for x in figures["be_image"][:3])])
    return _table(rows)


def _table(rows: Any) -> str:
    """Markdown table rows."""
    return "\n".join("| " + " | ".join(str(cell) for cell in row) + " |" for row in rows)
