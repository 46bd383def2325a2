"""Writing a report into a folder: results.json for programs, report.html for people."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

from milvus_coop.errors import InvalidArgumentError
from milvus_coop.offline.evaluation.records import EvaluationReport

RESULTS = "results.json"
PAGE = "report.html"
PLOTTER = "matplotlib"


def check_output(folder: Path) -> None:
    """Check before an hour of work that a report can be written.

    Raises:
        InvalidArgumentError: matplotlib is missing, or the folder cannot be made.
    """
    if importlib.util.find_spec(PLOTTER) is None:
        raise InvalidArgumentError(
            "a report has plots, and matplotlib is not installed", expected="it, or no --out", run="pip install 'milvus-coop[eval]'"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".{RESULTS}"
        probe.touch()
        probe.unlink()
    except OSError as exc:
        raise InvalidArgumentError(f"{folder} cannot be written: {exc.strerror}", expected="a folder") from exc


def write_output(report: EvaluationReport, folder: Path) -> tuple[Path, Path]:
    """Write both files; see `check_output` for the errors."""
    from milvus_coop.offline.evaluation.page import render

    check_output(folder)
    results, page = folder / RESULTS, folder / PAGE
    results.write_text(json.dumps(report.to_dict(), ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    page.write_text(render(report), encoding="utf-8")
    return results, page
