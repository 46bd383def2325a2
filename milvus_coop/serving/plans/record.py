"""`plan.json`: what a plan was built from, by what and for what. It decides whether the plan is due again."""

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
    """The sidecar of one plan."""

    facts: Mapping[str, str]
    """What the plan depends on, most telling first; any difference makes it due."""
    plan_bytes: int
    layers: int
    build_s: float

    def write(self, path: Path) -> None:
        """Write plan.json."""
        path.write_text(json.dumps({"format": FORMAT, **dataclasses.asdict(self)}, indent=2) + "\n", encoding="utf-8")


def read_record(path: Path) -> PlanRecord | None:
    """The record in that file; None if there is none that this version can read."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content.pop("format") != FORMAT:
            return None
        record = PlanRecord(**content)
        return dataclasses.replace(record, facts=dict(record.facts))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def why_due(facts: Mapping[str, str], plan: Path, record: PlanRecord | None) -> str | None:
    """Why a plan must be built: None if it need not be.

    Args:
        facts: what it would be built from now.
        plan: the file that is there, or is not.
        record: its sidecar.
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
