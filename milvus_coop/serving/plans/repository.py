"""A Triton model repository for TensorRT: the sources of its plans, and the paths of the plans."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from milvus_coop.bundle.folder import RECORD
from milvus_coop.bundle.spec import BundleSpec, GraphSpec
from milvus_coop.errors import PlanError

MARK = "repository.json"
"""File that marks a folder as a model repository of this package, and names its bundle and platform."""
SOURCE = Path("source", "model.onnx")
PLAN = "model.plan"
PLAN_RECORD = "plan.json"
TIMINGS = "timing.cache"
"""File of kernel timings that all plans of the repository share."""

_EXPORT = "milvus-coop triton export --platform tensorrt"


@dataclass(frozen=True, slots=True)
class Repository:
    """An exported repository; `<graph>/source/model.onnx` is the source of `<graph>/<version>/model.plan`."""

    folder: Path
    spec: BundleSpec
    precision: str
    """Precision of the sources: `fp32` or `fp16`."""

    def source(self, graph: GraphSpec) -> Path:
        """Path of the plain ONNX graph."""
        return self.folder / graph.name / SOURCE

    def plan(self, graph: GraphSpec) -> Path:
        """Path of the plan, which Triton loads."""
        return self._version(graph) / PLAN

    def record(self, graph: GraphSpec) -> Path:
        """Path of the plan's record."""
        return self._version(graph) / PLAN_RECORD

    def _version(self, graph: GraphSpec) -> Path:
        return self.folder / graph.name / str(self.spec.served_version)

    @property
    def timings(self) -> Path:
        """Path of TensorRT's timing cache."""
        return self.folder / TIMINGS


def read_repository(folder: Path) -> Repository:
    """Read the facts of an exported repository.

    Raises:
        PlanError: the folder is not a repository, is for another platform, or lacks a source.
        BundleInvalidError: its bundle.json is broken.
    """
    try:
        facts = json.loads((folder / MARK).read_text(encoding="utf-8"))
        platform, precision, fingerprint = (str(facts[key]) for key in ("platform", "precision", "fingerprint"))
        record = (folder / RECORD).read_text(encoding="utf-8")
    except (OSError, ValueError, KeyError, TypeError) as exc:
        raise PlanError(f"{folder} is no repository ({exc!r})", expected=f"a folder with {MARK} and {RECORD}", run=_EXPORT) from exc
    if platform != "tensorrt":
        raise PlanError(f"{folder} is a repository for {platform}", expected="one for tensorrt", run=_EXPORT)
    spec = BundleSpec.from_json(record, source=str(folder / RECORD))
    if spec.fingerprint != fingerprint:
        raise PlanError(f"{folder / MARK} and {RECORD} are of different bundles", expected=spec.fingerprint, run=_EXPORT)
    repository = Repository(folder, spec, precision)
    for graph in spec.graphs:
        if not repository.source(graph).is_file():
            raise PlanError(f"{repository.source(graph)} is missing", expected="the source of a plan", run=_EXPORT)
    return repository
