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

from milvus_coop.plans.record import read_record, why_due

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
    shutil.copyfile(entry / PLAN, plan)
    shutil.copyfile(entry / RECORD, record)
    return True


def keep(entry: Path, plan: Path, record: Path) -> None:
    """Put a plan and its record into the cache, in one step; a damaged entry is replaced."""
    unfinished = entry.with_name(f"{entry.name}.{uuid.uuid4().hex}")
    unfinished.mkdir(parents=True)
    shutil.copyfile(plan, unfinished / PLAN)
    shutil.copyfile(record, unfinished / RECORD)
    if entry.exists():
        shutil.rmtree(entry)
    try:
        unfinished.rename(entry)
    except OSError:  # another builder was faster, with a plan that is as good
        shutil.rmtree(unfinished)
        if not entry.is_dir():
            raise


def _name(text: str) -> str:
    """Fit for a folder's name."""
    return re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-")
