"""The report of a run, as JSON and as Markdown."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psutil

from benchmarks.campaign.judge import Verdict

SHOWN = 20
"""Maximum number of violations in the Markdown; the JSON has all."""


@dataclass(slots=True)
class Report:
    """One run of one scenario."""

    scenario: str
    options: Mapping[str, Any]
    seconds: float
    verdict: Verdict
    figures: Mapping[str, Any] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        return not self.verdict.violations

    def write(self, folder: Path) -> None:
        """Write report.json and report.md into a folder."""
        (folder / "report.json").write_text(json.dumps(self._facts(), indent=1) + "\n", encoding="utf-8")
        (folder / "report.md").write_text(self.markdown(), encoding="utf-8")

    def _facts(self) -> dict[str, Any]:
        return {
            "scenario": self.scenario,
            "options": dict(self.options),
            "machine": f"{os.cpu_count()} cores, {psutil.virtual_memory().total / 2**30:.0f} GiB, {platform.system()}",
            "seconds": round(self.seconds, 1),
            "passed": self.passed,
            "violations by rule": self.verdict.by_rule,
            "figures": {**self.figures, **self.verdict.figures},
            "violations": [asdict(violation) for violation in self.verdict.violations],
        }

    def markdown(self) -> str:
        """The same for people to read."""
        facts = self._facts()
        options = " ".join(f"--{name.replace('_', '-')} {value}" for name, value in self.options.items())
        lines = [
            f"# Campaign: {self.scenario}",
            "",
            f"`python -m benchmarks.campaign {self.scenario} {options}` took {facts['seconds']} s ({facts['machine']}).",
            "",
            f"**{'No promise was broken.' if self.passed else f'{len(self.verdict.violations)} broken promises.'}**",
            "",
            "| figure | value |",
            "|---|---|",
            *(f"| {name} | {_shown(value)} |" for name, value in facts["figures"].items()),
            *(f"| violations: {rule} | {n} |" for rule, n in self.verdict.by_rule.items()),
            "",
        ]
        shown: Sequence[Any] = self.verdict.violations[:SHOWN]
        lines += [f"- {v.rule}, {v.client} at {v.at:.2f}: {v.detail}" for v in shown]
        return "\n".join(lines) + "\n"


def _shown(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name}: {_shown(inner)}" for name, inner in value.items()) or "none"
    return str(value)
