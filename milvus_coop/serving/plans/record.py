"""`plan.json`: the sources, the compiler and the GPU of a plan. It decides whether the plan must be built again."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from milvus_coop.errors import PlanError
from milvus_coop.records import read_file


@dataclass(frozen=True, slots=True)
class PlanRecord:
    """The record of one plan, kept in a file beside it."""

    facts: Mapping[str, str]
    """The facts that the plan depends on, the most informative first. If a fact differs, the plan must be built again."""
    plan_bytes: int
    layers: int
    build_s: float
    format: Literal[1] = 1
    """Version of the plan.json layout."""

    @classmethod
    def read(cls, path: Path) -> PlanRecord | None:
        """The record in that file; None if the file is missing or this version cannot read it."""
        try:
            return read_file(cls, path, PlanError)
        except PlanError:
            return None

    def write(self, path: Path) -> None:
        """Write plan.json."""
        path.write_text(json.dumps(dataclasses.asdict(self), indent=2) + "\n", encoding="utf-8")


def why_due(facts: Mapping[str, str], plan: Path, record: PlanRecord | None) -> str | None:
    """The reason why a plan must be built; None if it is up to date.

    Args:
        facts: the facts that a new plan would depend on.
        plan: path of the plan; the file may be missing.
        record: the record of the plan.
    """
    if not plan.is_file():
        return "there is no plan"
    if record is None:
        return "the plan has no record"
    for key, now in facts.items():
        before = record.facts.get(key)
        if before != now:
            return f"{key} was {before}, is {now}"
    if plan.stat().st_size != record.plan_bytes:
        return f"the plan has {plan.stat().st_size:,} bytes, its record says {record.plan_bytes:,}"
    return None
