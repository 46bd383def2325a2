"""The model card: a text with the figures of the last run filled in."""

from __future__ import annotations

import os
from dataclasses import replace
from string import Template
from typing import Any

from milvus_coop.bundle import load_bundle, write_record
from milvus_coop.training.coop_small.packages import PACKAGES
from milvus_coop.training.coop_small.workspace import MODULE_FOLDER, Workspace

TEMPLATE = MODULE_FOLDER / "card_template.md"
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
    bundle = workspace.bundle
    spec = load_bundle(bundle).spec
    values = {
        "version": spec.version,
        "megabytes": f"{sum(file.n_bytes for file in spec.files.values()) / 1e6:.1f}",
        "token_bytes": str(spec.tokens.n_bytes),
        "pictures": str(test["pictures"]),
        "captions": str(test["captions"]),
        "test_rows": _recall_rows(test),
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
    write_record(bundle, replace(spec, metrics={"held-out stamps": test, "cross-validation": judged["cross-validation"]}))


def _recall_rows(figures: dict[str, Any]) -> str:
    names = {"be_text": "BE, text to image", "coop_text": "Coop, text to image"}
    names |= {"be_image": "BE, image to text", "coop_image": "Coop, image to text"}
    return _table([label, *_with_error(figures[name])] for name, label in names.items())


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
