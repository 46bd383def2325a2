"""Plans that outlive their repository: a folder, such as a volume that pods share, with a place for each GPU and TensorRT version.

    <cache>/nvidia-l4-8.9/tensorrt-11.4.0.106/cross_encoder-1f0c2a9b3d4e/   model.plan, plan.json

The last part is a hash of everything that a plan depends on, so an entry never changes: several builders may fill one cache.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path

from milvus_coop.errors import PlanError
from milvus_coop.serving.plans.record import read_record, why_due

PLAN = "model.plan"
RECORD = "plan.json"


def entry_of(cache: Path, graph: str, facts: Mapping[str, str]) -> Path:
    """Where the plan of a graph is, or will be. `facts`: what it depends on; see `PlanRecord`."""
    digest = hashlib.sha256(json.dumps(dict(facts), sort_keys=True).encode()).hexdigest()[:12]
    gpu = _name(f"{facts['GPU']} {facts['compute capability']}")
    return cache / gpu / _name(facts["TensorRT"]) / f"{graph}-{digest}"


def take(entry: Path, facts: Mapping[str, str], plan: Path, record: Path) -> bool:
    """Copy an entry to where the repository has its plan and the plan's record; whether there was a good one."""
    if why_due(facts, entry / PLAN, read_record(entry / RECORD)):
        return False
    plan.parent.mkdir(parents=True, exist_ok=True)
    record.unlink(missing_ok=True)  # killed between these lines, the plan has no record and is due
    try:
        shutil.copyfile(entry / PLAN, plan)
        shutil.copyfile(entry / RECORD, record)
    except OSError:  # another builder is replacing it
        return False
    return True


def keep(entry: Path, plan: Path, record: Path) -> None:
    """Put a plan and its record into the cache, in one step; what is there is replaced.

    Raises:
        PlanError: the cache cannot be written to.
    """
    unfinished = entry.with_name(f"{entry.name}.{uuid.uuid4().hex}")
    try:
        unfinished.mkdir(parents=True)
        shutil.copyfile(plan, unfinished / PLAN)
        shutil.copyfile(record, unfinished / RECORD)
        shutil.rmtree(entry, ignore_errors=True)
        unfinished.rename(entry)
    except OSError as exc:
        shutil.rmtree(unfinished, ignore_errors=True)
        if read_record(entry / RECORD) is None:  # else another builder was faster, and its plan is as good
            raise PlanError(
                f"the cache {entry.parent} cannot be written to: {exc.strerror}", run="another --cache, or none"
            ) from exc


def _name(text: str) -> str:
    """Fit for a folder's name."""
    return re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-")
