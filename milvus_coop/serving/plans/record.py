"""`plan.json`: the sources, the compiler and the GPU of a plan. It decides whether the plan must be built again."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

FORMAT = 1
"""Version of the plan.json layout."""


@dataclass(frozen=True, slots=True)
class PlanRecord:
    """The record of one plan, kept in a file beside it."""

    facts: Mapping[str, str]
    """The facts that the plan depends on, the most informative first. If a fact differs, the plan must be built again."""
    plan_bytes: int
    layers: int
    build_s: float

    def write(self, path: Path) -> None:
        """Write plan.json."""
        path.write_text(json.dumps({"format": FORMAT, **dataclasses.asdict(self)}, indent=2) + "\n", encoding="utf-8")


def read_record(path: Path) -> PlanRecord | None:
    """The record in that file; None if the file is missing or this version cannot read it."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content.pop("format") != FORMAT:
            return None
        record = PlanRecord(**content)
        return dataclasses.replace(record, facts=dict(record.facts))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


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
