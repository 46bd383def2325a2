"""`milvus-coop ingest`: fill a collection."""

from __future__ import annotations

import contextlib
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NoReturn

import click

from milvus_coop.cli.lines import json_line, say, say_json
from milvus_coop.cli.options import with_settings
from milvus_coop.cli.outputs import check_file, write_file
from milvus_coop.config import Settings
from milvus_coop.errors import InvalidArgumentError, MilvusCoopError

if TYPE_CHECKING:
    from collections.abc import Callable

    from typing_extensions import Unpack

    from milvus_coop.ingest.options import IngestArguments, IngestOptions
    from milvus_coop.ingest.sink import Progress
    from milvus_coop.store import CollectionOptions
    from milvus_coop.types import IngestReport, Kind

    OnProgress = Callable[[Progress], None] | None

SOME_FAILED = 1
"""Exit code when some items could not be ingested and the others were."""
NOTHING_DONE = 2
"""Exit code when nothing could be done."""
PROGRESS_EVERY_S = 10.0
RAY_OPTIONS = "--address, --workers, --gpus-per-worker and --state"
INTERRUPTED = 130
"""Exit code after Ctrl-C, the same as in shells."""


@click.command()
@click.argument("sources", nargs=-1, required=True)
@click.option("--texts", is_flag=True, help="SOURCES are texts (.txt, .jsonl): make a collection of texts.")
@click.option("--prune", is_flag=True, help="Remove items below SOURCES whose file is gone.")
@click.option("--force", is_flag=True, help="Also encode items again that did not change.")
@click.option(
    "--index", type=click.Choice(["HNSW", "AUTOINDEX"]), default="HNSW", show_default=True, help="Index of a new collection."
)
@click.option(
    "--build-index",
    type=click.Choice(["during", "after"]),
    default="during",
    show_default=True,
    help="When a server builds the index of a new collection: while items arrive, or once at the end.",
)
@click.option("--partition-key", metavar="NAME", default="", help="Metadata by which a new collection keeps items apart.")
@click.option(
    "--sink",
    type=click.Choice(["collection", "parquet"]),
    default="collection",
    show_default=True,
    help="Where items go: into a collection, or into Parquet files for `milvus-coop load`.",
)
@click.option("--out", help="Folder of the Parquet files: a path, s3://, gs://, az://, ...")
@click.option("--batch", type=int, default=16, show_default=True, help="Items that are encoded at the same time.")
@click.option("--allow-http", is_flag=True, help="Fetch files at http:// and https:// addresses, but not private ones.")
@click.option("--image-column", metavar="NAME", help="Column of Parquet SOURCES with images; default image, jpg, png or webp.")
@click.option(
    "--engine",
    type=click.Choice(["local", "ray"]),
    default="local",
    show_default=True,
    help="What runs the ingest: this process, or the workers of a Ray cluster.",
)
@click.option("--address", help="The cluster: auto, ray://host:10001, or local for Ray on this machine.  [default: auto]")
@click.option("--workers", type=int, help="Number of workers; default as many as the cluster has room for.")
@click.option("--gpus-per-worker", type=float, help="GPUs of each worker, or a part of one.")
@click.option("--state", metavar="PLACE", help="Where a run on Ray remembers what is finished: a folder, s3://, gs://, az://, ...")
@click.option("--retry-failed", is_flag=True, help="Look again at finished parts with failures.")
@click.option("--max-failures", type=int, metavar="N", help="Stop after more than N failures.")
@click.option("--failed", type=click.Path(path_type=Path, dir_okay=False), help="Write failures here, one JSON object per line.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON instead of a summary.")
@click.option("--quiet", is_flag=True, help="No progress bar.")
@click.option("--progress-json", is_flag=True, help="Write the progress to standard error as JSON lines, also without a terminal.")
@click.option("--progress-every", type=click.FloatRange(0.1), metavar="SECONDS", help="Time between those lines.  [default: 10]")
@click.option("--metrics-port", type=click.IntRange(0, 65535), help="Serve metrics for Prometheus meanwhile; 0: any free port.")
@click.option("--metrics-host", help="Address for them.  [default: 127.0.0.1, for this machine only]")
@with_settings(collection=True, models=True, embedder=True)
def ingest(
    settings: Settings,
    sources: tuple[str, ...],
    texts: bool,
    index: Literal["HNSW", "AUTOINDEX"],
    build_index: Literal["during", "after"],
    partition_key: str,
    sink: str,
    out: str | None,
    engine: str,
    address: str | None,
    workers: int | None,
    gpus_per_worker: float | None,
    state: str | None,
    retry_failed: bool,
    failed: Path | None,
    as_json: bool,
    quiet: bool,
    progress_json: bool,
    progress_every: float | None,
    metrics_port: int | None,
    metrics_host: str | None,
    **options: Unpack[IngestArguments],
) -> None:
    """Encode images (or texts) and write them into a collection.

    SOURCES are folders, prefixes of object stores, globs, files, WebDataset shards (.tar), or lists and tables: .jsonl, .csv or
    .parquet with a column `uri` or `path`; every other column becomes metadata for --filter and --output-fields. Items
    that did not change since the last run are skipped, so the command can be run again at any time, also after it was killed.

    \b
    Exit code: 0 all fine, 1 some items failed, 2 nothing could be done, 130 interrupted.

    \b
    Examples:
      milvus-coop ingest photos/
      milvus-coop ingest 'scans/**/*.png' catalogue.jsonl --failed failed.jsonl
      milvus-coop ingest captions.txt --texts --collection captions
      milvus-coop ingest s3://bucket/photos/
      milvus-coop ingest 's3://bucket/shards/{000000..000999}.tar'
      milvus-coop ingest photos/ --prune          and remove items whose file was deleted
      milvus-coop ingest photos/ --sink parquet --out s3://bucket/run/
      milvus-coop ingest photos/ --embedder 'vllm+https://gpu:8000?model=NAME'
      milvus-coop ingest s3://bucket/photos/ --engine ray --state s3://bucket/state --uri http://milvus:19530
    """
    from milvus_coop.cli.progress import ingest_outputs
    from milvus_coop.ingest import IngestOptions
    from milvus_coop.store import CollectionOptions

    ray = (address, workers, gpus_per_worker, state)
    for wrong, message in (
        ((sink == "parquet") != bool(out), "--sink parquet and --out belong together."),
        (engine == "local" and any(given is not None for given in ray), f"{RAY_OPTIONS} need --engine ray."),
        (engine == "ray" and (options["prune"] or out), "--engine ray has no --prune and no --sink parquet: use --engine local."),
        (retry_failed and state is None, "--retry-failed needs the --state of an earlier run."),
        (progress_every is not None and not progress_json, "--progress-every needs --progress-json."),
        (metrics_host is not None and metrics_port is None, "--metrics-host needs --metrics-port."),
    ):
        if wrong:
            raise click.UsageError(message)
    check_file(failed)
    collection = CollectionOptions(index=index, build_index=build_index, partition_key=partition_key)
    job = _Job(sources, IngestOptions(**options), "text" if texts else "image", collection, settings)
    run: Callable[[OnProgress], IngestReport]
    if engine == "ray":
        run = partial(job.on_ray, address or "auto", workers, gpus_per_worker or 0.0, state, retry_failed)
    else:
        run = partial(job.to_parquet, out) if out else job.here
    json_every_s = (progress_every or PROGRESS_EVERY_S) if progress_json else None
    metrics = None if metrics_port is None else (metrics_host or "127.0.0.1", metrics_port)
    with ingest_outputs(quiet or as_json, json_every_s, metrics) as on_progress:
        outcome = _outcome(run, on_progress)
    _tell(outcome, out or settings.collection, failed, as_json)


@dataclass(frozen=True)
class _Job:
    """An ingest, which the options of the command line may give to any engine."""

    sources: tuple[str, ...]
    options: IngestOptions
    kind: Kind
    collection: CollectionOptions
    settings: Settings

    def here(self, on_progress: OnProgress) -> IngestReport:
        """Ingest into a collection, in this process."""
        from milvus_coop.ingest import CoopIngest

        with CoopIngest(settings=self.settings, kind=self.kind, options=self.collection) as ingester:
            return ingester.run(self.sources, self.options, on_progress=on_progress)

    def to_parquet(self, out: str, on_progress: OnProgress) -> IngestReport:
        """Ingest into Parquet files, in this process."""
        from milvus_coop.ingest import ingest_to_parquet

        return ingest_to_parquet(
            self.sources,
            out,
            self.options,
            kind=self.kind,
            collection_options=self.collection,
            settings=self.settings,
            on_progress=on_progress,
        )

    def on_ray(
        self, address: str, workers: int | None, gpus: float, state: str | None, retry_failed: bool, on_progress: OnProgress
    ) -> IngestReport:
        """Ingest into a collection, on a Ray cluster."""
        from milvus_coop.ingest import ingest_with_ray

        with contextlib.redirect_stdout(sys.stderr):  # Ray prints what its workers say; standard output is for the report
            return ingest_with_ray(
                self.sources,
                self.options,
                kind=self.kind,
                collection_options=self.collection,
                settings=self.settings,
                address=address,
                workers=workers,
                gpus_per_worker=gpus,
                state=state,
                retry_failed=retry_failed,
                on_progress=on_progress,
            )


@dataclass(frozen=True)
class _Outcome:
    """The counts of an ingest, and what ended it early."""

    report: IngestReport
    interrupted: bool = False
    problem: MilvusCoopError | None = None


def _outcome(run: Callable[[OnProgress], IngestReport], on_progress: OnProgress) -> _Outcome:
    from milvus_coop.ingest import IngestInterrupted, TooManyFailuresError

    try:
        return _Outcome(run(on_progress))
    except IngestInterrupted as exc:
        return _Outcome(exc.report, interrupted=True)
    except TooManyFailuresError as exc:
        return _Outcome(exc.report, problem=exc)


def _tell(outcome: _Outcome, place: str, failed: Path | None, as_json: bool) -> NoReturn:
    """Write the failures, print the counts, and end the command."""
    from milvus_coop.cli.tables import print_report, report_facts

    report, problem = outcome.report, outcome.problem
    if failed is not None:
        try:
            _write_failures(failed, report)
        except InvalidArgumentError as exc:  # the counts come first
            problem = exc
    if as_json:
        say_json(report_facts(report))
    else:
        print_report(report, place)
    if outcome.interrupted:
        say("Interrupted. The items counted above are kept; the same command continues from there.", err=True)
    if problem is not None:
        raise problem
    raise click.exceptions.Exit(_exit_code(report, outcome.interrupted))


def _write_failures(path: Path, report: IngestReport) -> None:
    write_file(path, "".join(json_line({"uri": f.uri, "reason": f.reason}) + "\n" for f in report.failures))


def _exit_code(report: IngestReport, interrupted: bool) -> int:
    if interrupted:
        return INTERRUPTED
    if report.failed:
        return SOME_FAILED if report.failed < report.seen + report.skipped else NOTHING_DONE
    return 0
