"""Evaluate the bundle with the product's own `evaluate`: through Milvus Lite and ONNX Runtime, both directions, with errors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from milvus_coop.offline.datasets import open_dataset
from milvus_coop.offline.evaluation import EvaluationOptions, evaluate
from milvus_coop.offline.evaluation.records import DIRECTIONS, EvaluationReport, Quality

K = 50
_OPTIONS = EvaluationOptions(systems=("be", "joint-coop"), ks=(K,), cost_queries=0, grow=False, gallery=0)
_INTERVAL_TO_ERROR = 2 * 1.96
"""Width of a 95 % interval in standard errors."""


def evaluate_bundle(bundle: Path, work: Path, photos: Path | None) -> dict[str, Any]:
    """Figures of every test set by name; see `_figures`. The photographs' sets only where the photographs are at hand."""
    found = {}
    drawings = work / "drawings"
    for name, path in (("stamps", drawings / "captions.jsonl"), ("OpenMoji", drawings / "style.jsonl")):
        found[name] = _figures(evaluate(open_dataset(f"jsonl:{path}"), [bundle], _OPTIONS))
    return found if photos is None else {**found, **evaluate_photographs(bundle, photos)}


def evaluate_photographs(bundle: Path, photos: Path) -> dict[str, Any]:
    """Figures of Flickr8k's test split, and of the pool that is enlarged by the photographs in `unsplash`, if there are any."""
    flickr = open_dataset(f"jsonl:{photos / 'flickr8k' / 'captions.jsonl'}")
    found = {"Flickr8k": _figures(evaluate(flickr, [bundle], _OPTIONS))}
    if (photos / "unsplash").is_dir():
        others = open_dataset(f"folder:{photos / 'unsplash'},dev=0,test=0", may_lack_captions=True)
        found["Flickr8k, enlarged pool"] = _figures(evaluate(flickr, [bundle], _OPTIONS, distractors=others))
    return found


def _figures(report: EvaluationReport) -> dict[str, Any]:
    """Recalls in percent with R@1's standard error by image, for both systems and directions, and Coop's gain with its error."""
    be, coop = report.quality
    figures: dict[str, Any] = {"images": report.images, "texts": sum(report.texts.values())}
    for kind, direction in (("text to image", DIRECTIONS["image"]), ("image to text", DIRECTIONS["text"])):
        gain = coop.gain[f"R@1, {direction}"]
        figures[kind] = {
            "be": _recalls(be, direction),
            "coop": _recalls(coop, direction),
            "gain": [round(100 * gain.value, 2), round(100 * (gain.high - gain.low) / _INTERVAL_TO_ERROR, 2)],
        }
    return figures


def _recalls(row: Quality, direction: Any) -> list[float]:
    values = row.figures[direction]
    error = (values["R@1"].high - values["R@1"].low) / _INTERVAL_TO_ERROR
    return [*(round(100 * values[f"R@{k}"].value, 1) for k in (1, 5, 10)), round(100 * error, 1)]
