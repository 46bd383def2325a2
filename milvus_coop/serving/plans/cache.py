"""A cache of plans that is kept when a repository is deleted: a folder, such as a volume that pods share.

    <cache>/nvidia-l4-8.9/tensorrt-11.4.0.106/cross_encoder-1f0c2a9b3d4e/   model.plan, plan.json

An entry has its GPU, its TensorRT version and a hash of everything that the plan depends on in its path. So entries never change,
and several builders may fill one cache.
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
from milvus_coop.serving.plans.record import PlanRecord, why_due

PLAN = "model.plan"
RECORD = "plan.json"


def entry_of(cache: Path, graph: str, facts: Mapping[str, str]) -> Path:
    """The folder of a graph's plan in the cache. `facts` are the facts that the plan depends on; see `PlanRecord`."""
    digest = hashlib.sha256(json.dumps(dict(facts), sort_keys=True).encode()).hexdigest()[:12]
    gpu = _name(f"{facts['GPU']} {facts['compute capability']}")
    return cache / gpu / _name(facts["TensorRT"]) / f"{graph}-{digest}"


def take(entry: Path, facts: Mapping[str, str], plan: Path, record: Path) -> bool:
    """Copy an entry to the paths of the repository's plan and record. Returns False if there is no valid entry."""
    if why_due(facts, entry / PLAN, PlanRecord.read(entry / RECORD)):
        return False
    plan.parent.mkdir(parents=True, exist_ok=True)
    record.unlink(missing_ok=True)  # if the process is killed after this line, the plan has no record and is due
    try:
        shutil.copyfile(entry / PLAN, plan)
        shutil.copyfile(entry / RECORD, record)
    except OSError:  # another builder is replacing it
        return False
    return True


def keep(entry: Path, plan: Path, record: Path) -> None:
    """Put a plan and its record into the cache in one step. An existing entry is replaced.

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
        if PlanRecord.read(entry / RECORD) is None:  # otherwise another builder was faster, and its plan can be used
            raise PlanError(
                f"the cache {entry.parent} cannot be written to: {exc.strerror}", run="another --cache, or none"
            ) from exc


def _name(text: str) -> str:
    """The text in a form that is valid as the name of a folder."""
    return re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-")
