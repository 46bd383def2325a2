"""Evaluate the bundle with the product's own `evaluate`: through Milvus Lite and ONNX Runtime, both directions, with errors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL.Image import Image

from milvus_coop.models.preprocess.images import decode
from milvus_coop.offline.datasets import CaptionedImage, DataProblem, Split, open_dataset
from milvus_coop.offline.evaluation import EvaluationOptions, evaluate
from milvus_coop.offline.evaluation.records import DIRECTIONS, EvaluationReport, Quality

K = 50
_INTERVAL_TO_ERROR = 2 * 1.96
"""Width of a 95 % interval in standard errors."""


class Bystanders:
    """Images without captions, which enlarge a pool and are never right."""

    problems: Sequence[DataProblem] = ()

    def __init__(self, folder: Path) -> None:
        self.name = folder.name
        self._paths = sorted(path for path in folder.iterdir() if path.suffix == ".jpg")

    def items(self, split: Split) -> Sequence[CaptionedImage]:
        """Every image, whatever the split."""
        return [CaptionedImage(path.stem, (), split, path) for path in self._paths]

    def open(self, item: CaptionedImage) -> Image:
        """The image, upright RGB."""
        if item.path is None:
            raise ValueError(f"{item.id} has no file")
        return decode(item.path, at_least=0)


def evaluate_bundle(bundle: Path, work: Path, photos: Path | None) -> dict[str, Any]:
    """Figures of every test set by name; see `_figures`. The photographs' sets only where the photographs are at hand."""
    options = EvaluationOptions(systems=("be", "joint-coop"), ks=(K,), cost_queries=0, grow=False, gallery=0)
    found = {}
    drawings = work / "drawings"
    for name, path in (("stamps", drawings / "captions.jsonl"), ("OpenMoji", drawings / "style.jsonl")):
        found[name] = _figures(evaluate(open_dataset(f"jsonl:{path}"), [bundle], options))
    if photos is not None:
        flickr = open_dataset(f"jsonl:{photos / 'flickr8k' / 'captions.jsonl'}")
        found["Flickr8k"] = _figures(evaluate(flickr, [bundle], options))
        if (photos / "unsplash").is_dir():
            report = evaluate(flickr, [bundle], options, distractors=Bystanders(photos / "unsplash"))
            found["Flickr8k, enlarged pool"] = _figures(report)
    return found


def _figures(report: EvaluationReport) -> dict[str, Any]:
    """Recalls in percent with the standard error of R@1, for both systems and directions, and Coop's gain with its error."""
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
