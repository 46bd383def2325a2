"""The command of the campaign."""

from __future__ import annotations

import importlib
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import click

from benchmarks.campaign.report import Report
from benchmarks.campaign.scenario import Options, Run

SCENARIOS = ("ingest", "search", "mixed", "upgrade", "network", "backup")
DEFAULTS = Options()


@click.command()
@click.argument("scenario", type=click.Choice(SCENARIOS))
@click.option("--seconds", default=DEFAULTS.seconds, show_default=True, help="How long load and faults go on.")
@click.option("--seed", default=DEFAULTS.seed, show_default=True, help="Decides all random choices.")
@click.option("--sdk-clients", default=DEFAULTS.sdk_clients, show_default=True, help="Number of threads that share one CoopSearch.")
@click.option("--http-clients", default=DEFAULTS.http_clients, show_default=True, help="Number of clients of the gateway.")
@click.option("--pause-ms", default=DEFAULTS.pause_ms, show_default=True, help="Mean pause of a client between two calls.")
@click.option("--items", default=DEFAULTS.items, show_default=True, help="Number of images.")
@click.option("--grace-ms", default=DEFAULTS.grace_ms, show_default=True, help="How long after its deadline an answer may come.")
@click.option("--only", default="", help="Make only faults whose name contains this.")
@click.option(
    "--stores",
    type=click.Choice(["all", "lite"]),
    default="all",
    show_default=True,
    help="Where the scenario ingest writes: also on a server, or only Milvus Lite.",
)
@click.option("--kills", default=DEFAULTS.kills, show_default=True, help="ingest goes on until so many runs were killed.")
@click.option("--old-rev", default="", help="upgrade opens a database that this git revision of the code has written.")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), help="Where report.json, report.md and history.jsonl go.")
def main(scenario: str, out: Path | None, **chosen: Any) -> None:
    """Run one SCENARIO. Exit code: 0 if every promise was kept, else 1."""
    began = time.monotonic()
    options = Options(**chosen)
    with tempfile.TemporaryDirectory(prefix="milvus-coop-campaign-") as folder:
        run = Run(Path(folder), options)
        function = importlib.import_module(f"benchmarks.campaign.scenarios.{scenario}").scenario
        verdict = function(run)
        told: dict[str, object] = {
            "seconds": options.seconds,
            "seed": options.seed,
            "sdk_clients": options.sdk_clients,
            "http_clients": options.http_clients,
            "pause_ms": options.pause_ms,
            "items": options.items,
        }
        told |= {name: getattr(options, name) for name in ("only", "kills", "old_rev") if getattr(options, name)}
        report = Report(scenario, {**told, "grace_ms": options.grace_ms}, time.monotonic() - began, verdict, run.figures)
        if out is not None:
            out.mkdir(parents=True, exist_ok=True)
            report.write(out)
            shutil.copyfile(run.history.path, out / "history.jsonl")
    click.echo(report.markdown())
    sys.exit(0 if report.passed else 1)


if __name__ == "__main__":
    main()
