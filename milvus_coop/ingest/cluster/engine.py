"""The driver of an ingest on a Ray cluster. Of the package, only this module uses Ray.

Ray Data runs two operators: a task that cuts the sources into parts, and a pool of actors that ingest them. The driver counts,
keeps the ledger, and writes the rows if the collection is in Milvus Lite, which one process at a time can open.
"""

from __future__ import annotations

import logging
import os
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, get_args

from milvus_coop.arguments import one_of, real_number, whole_number
from milvus_coop.bundle import Bundle, load_bundle
from milvus_coop.config import Settings
from milvus_coop.cores import available_cores
from milvus_coop.errors import InvalidArgumentError, MilvusCoopError, MissingPackageError, StoreError, quoted, reason_of
from milvus_coop.ingest.cluster.attempts import CAREFUL, Attempts
from milvus_coop.ingest.cluster.ledger import Ledger
from milvus_coop.ingest.cluster.parts import LENGTH, Finished, Part, Rest, read_parts
from milvus_coop.ingest.cluster.worker import COLUMN, Job, Lite, Result, Worker, packed, through_outages, unpacked
from milvus_coop.ingest.counts import Counts, HopelessError
from milvus_coop.ingest.options import IngestArguments, IngestOptions, ingest_options
from milvus_coop.ingest.sink import IngestInterrupted, Progress, TooManyFailuresError
from milvus_coop.ingest.sources import Source, listed, open_sources
from milvus_coop.store import Collection, CollectionOptions, Store
from milvus_coop.store.address import parse_address
from milvus_coop.store.schema import DEFAULTS
from milvus_coop.types import IngestReport, Kind

if TYPE_CHECKING:
    import pyarrow
    from typing_extensions import Unpack

MAX_WORKERS = 10_000
MAX_GPUS = 64.0
SLOW = 0.5
"""Part of the time that the driver may spend writing before it says so."""
ONE_ROW = 1
"""Target size of Ray's blocks in bytes, so that each row, which is a part, is sent on its own."""

_PATHS = ("token_store", "ca_file", "triton_ca_file", "triton_cert_file", "triton_key_file")

_QUIET = {
    "ray.data._internal.progress": logging.ERROR,
    "ray.data._internal.execution.streaming_executor": logging.WARNING,
}
"""Loggers of Ray that say at each run that its own progress bars are off, and that a run has ended."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Setup:
    """The work of a run, which its driver gives to all of its processes."""

    sources: Sequence[Source]
    finished: Mapping[str, Finished]
    length: int
    """Maximum number of items in a part."""
    job: Job
    lite: Lite | None
    workers: int
    resources: Mapping[str, float]
    """Cores and GPUs of each worker."""


def ingest_with_ray(
    sources: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    options: IngestOptions | None = None,
    *,
    kind: Kind = "image",
    collection_options: CollectionOptions = DEFAULTS,
    settings: Settings | None = None,
    address: str = "auto",
    workers: int | None = None,
    gpus_per_worker: float = 0.0,
    state: str | None = None,
    retry_failed: bool = False,
    length: int = LENGTH,
    on_progress: Callable[[Progress], None] | None = None,
    **changes: Unpack[IngestArguments],
) -> IngestReport:
    """Bring a collection up to date with the sources, as `CoopIngest.run` does, on the machines of a Ray cluster.

    Every machine must see the same files at the same paths. The variables of the environment are those of each machine.

    Args:
        sources: see `CoopIngest.run`.
        options: the options of the ingest, except `prune`, which needs the local engine. The items that workers have in hand when
            `max_failures` is reached may still be ingested.
        kind: kind of the items: `image` or `text`.
        collection_options: the options of a new collection.
        settings: the connection and the models; default the environment. `threads` is the number of cores of each worker, where 0
            means one.
        address: `auto` for the cluster that this machine belongs to, `ray://host:10001` for another one, and `local` to start Ray
            on this machine until the end of the ingest. A cluster that the process has joined already is used in any case.
        workers: number of workers; default as many as the cluster has cores or GPUs for.
        gpus_per_worker: GPUs of each worker, or a part of one.
        state: a folder, or s3://, gs://, az://, ..., where the run remembers the parts of the sources that are finished, and the
            items that failed. The next run with the same state does not look at these parts again, unless their files or lines
            change: names, sizes and versions, as far as a listing shows them. An image that a list names is not among them. With
            `force`, all parts are looked at.
        retry_failed: look again at finished parts with items that failed.
        length: maximum number of items in a part, which one worker ingests. A shard, or a table with images, is one part.
        on_progress: a function that is called with the counts so far.
        changes: other values for fields of the options, such as `force=True`; see `IngestOptions`.

    Raises:
        MissingPackageError: Ray is not installed.
        SourceError: a source is missing, empty or malformed.
        InvalidArgumentError: an argument is out of range, or the cluster cannot be reached.
        StoreError, BackendError: Milvus or the encoder failed; rows that were written stay.
        IngestInterrupted: the user pressed Ctrl-C.
        TooManyFailuresError: more items failed than `max_failures`.
    """
    ray = _ray()
    one_of("kind", kind, get_args(Kind))
    settings = Settings.of(settings)
    threads = settings.threads or 1
    options = ingest_options(options, changes)
    gpus = _gpus(gpus_per_worker)
    _check(options, workers, state, retry_failed, length)
    work = replace(options, threads=options.threads or threads, max_failures=None)
    opened = open_sources(listed(sources), kind, options.reading)
    bundle = load_bundle(settings.bundle)
    settings, spec = _absolute(settings, bundle), bundle.spec
    with _cluster(ray, address), Store.from_settings(settings) as store:  # Ray forks, which gRPC's threads would disturb
        resources = {"num_cpus": float(threads), "num_gpus": gpus}
        workers = workers or _fitting(ray, resources)
        _check_gpus(ray, gpus, address)
        name = settings.collection
        collection = store.open_or_create(name, spec, kind, options=collection_options)
        ledger = None if state is None else _ledger(state, collection, kind, spec.fingerprint, options)
        finished = ledger.load(retry_failed=retry_failed) if ledger and not options.force else {}
        job = Job(replace(settings, collection=collection.name, threads=threads), kind, work)
        lite = _state(collection) if parse_address(settings.uri).folder else None
        setup = Setup(opened, finished, length, job, lite, workers, resources)
        with closing(_results(ray, setup)) as results:
            report = _gathered(results, collection, ledger, on_progress, options.max_failures)
        through_outages(collection.flush)
        if collection_options.build_index == "after":
            through_outages(partial(store.build_index, collection.name))
    return report


def _gpus(number: float) -> float:
    gpus = real_number("gpus_per_worker", number, "0 or more GPUs", maximum=MAX_GPUS)
    if gpus < 0:
        raise InvalidArgumentError(f"gpus_per_worker is {gpus}", expected="0 or more GPUs")
    return gpus


def _check(options: IngestOptions, workers: int | None, state: str | None, retry_failed: bool, length: int) -> None:
    """Refuse arguments of `ingest_with_ray` that are out of range or exclude each other."""
    if options.prune:
        raise InvalidArgumentError("prune is True, and an ingest on Ray removes nothing", expected="CoopIngest.run for it")
    whole_number("length", length, 1, LENGTH)
    if retry_failed and state is None:
        raise InvalidArgumentError("retry_failed is True, and there is no state of an earlier run", expected="state=")
    if workers is not None:
        whole_number("workers", workers, 1, MAX_WORKERS)


def _ray() -> Any:
    try:
        import ray
        import ray.data
    except ImportError as exc:
        raise MissingPackageError("Ray Data is not installed", run="pip install 'milvus-coop[ray]'") from exc
    return ray


def _absolute(settings: Settings, bundle: Bundle) -> Settings:
    """The settings with paths that workers find, whatever folder they run in, and with the one bundle that they may open."""

    def path(value: str) -> str:
        return value if not value or "://" in value else os.path.abspath(value)  # noqa: PTH100 - links are not followed

    place = bundle.folder.name if bundle.is_shipped else path(str(bundle.folder))
    paths = {name: path(getattr(settings, name)) for name in _PATHS}
    return settings.override(bundle=f"{place}@{bundle.spec.fingerprint}", **paths)


@contextmanager
def _cluster(ray: Any, address: str) -> Iterator[None]:
    """A connection to the cluster. It ends with the block, unless the process had it before."""
    if ray.is_initialized():
        yield
        return
    options: dict[str, Any] = {"logging_level": logging.WARNING}
    if address == "local":
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # a Ray of our own reports to nobody
        # Its warning that processes need a token is for people who start them by hand.
        options |= {"num_cpus": available_cores(), "include_dashboard": False, "logging_level": logging.ERROR}
    try:
        ray.init(address=address, **options)
    except (ConnectionError, ValueError, RuntimeError) as exc:
        raise InvalidArgumentError(
            f"there is no Ray cluster at {quoted(address)}: {reason_of(exc)}",
            expected="auto on a machine of a running cluster, ray://host:10001, or local",
            run="--address local to start Ray on this machine",
        ) from exc
    try:
        yield
    finally:
        ray.shutdown()


def _fitting(ray: Any, resources: dict[str, float]) -> int:
    """The number of workers that the cluster has room for now; at least one, for which an autoscaler may make room."""
    there = ray.cluster_resources()
    by_cores = there.get("CPU", 0) // resources["num_cpus"]
    by_gpus = there.get("GPU", 0) // resources["num_gpus"] if resources["num_gpus"] else by_cores
    return max(1, int(min(by_cores, by_gpus)))


def _check_gpus(ray: Any, gpus: float, address: str) -> None:
    """Refuse, or announce, a wait for GPUs that nobody has."""
    if not gpus or ray.cluster_resources().get("GPU", 0):
        return
    if address == "local":
        raise InvalidArgumentError(f"gpus_per_worker is {gpus:g}, and this machine has no GPU", expected="0")
    _log.warning("the cluster has no GPU now; the workers wait until one joins")


def _ledger(state: str, collection: Collection, kind: Kind, fingerprint: str, options: IngestOptions) -> Ledger:
    return Ledger(state, collection, {"kind": kind, "bundle": fingerprint, "image_column": options.image_column})


def _state(collection: Collection) -> Lite:
    tokens = None if collection.tokens is None else collection.tokens.location
    return Lite(dict(collection.all_stamps()), collection.layout.partition_key, tokens)


def _results(ray: Any, setup: Setup) -> Generator[Result | Rest, None, None]:
    """The results of all parts, in the order in which they are finished, and the rest of the sources."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    kept = ray.put(setup)  # once for all processes
    # On the driver's node, because the run must survive the death of every other one.
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    attempts = ray.remote(num_cpus=0, scheduling_strategy=here)(Attempts).remote()

    def read(_: pyarrow.Table) -> Iterator[pyarrow.Table]:
        given: Setup = ray.get(kept)
        for some in read_parts(given.sources, given.length, given.finished):
            yield packed(some)

    class Actor:
        def __init__(self) -> None:
            self._worker: Worker | None = None

        def __call__(self, table: pyarrow.Table) -> pyarrow.Table:
            part = unpacked(table[COLUMN][0].as_py())
            if isinstance(part, Rest):
                return packed(part)
            try:  # Ray would pass an error on as text, and so the driver gets it as a result; also that of opening the models
                return packed(self._result(part))
            except MilvusCoopError as exc:
                return packed(exc)

        def _result(self, part: Part) -> Result:
            if self._worker is None:
                given: Setup = ray.get(kept)
                self._worker = Worker(given.job, given.lite)
            number, deadly = ray.get(attempts.begin.remote(part.number))
            hold = (lambda uri: ray.get(attempts.hold.remote(part.number, uri))) if number >= CAREFUL else None
            result = self._worker.result(part, hold, frozenset(deadly))
            attempts.end.remote(part.number)
            return result

    for name, level in _QUIET.items():
        logging.getLogger(name).setLevel(level)
    context = ray.data.DataContext.get_current().copy()
    context.target_max_block_size = ONE_ROW
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    with ray.data.DataContext.current(context):
        data = ray.data.from_arrow(packed(None)).map_batches(read, batch_size=1, batch_format="pyarrow", num_cpus=0)
        data = data.map_batches(
            Actor, batch_size=1, batch_format="pyarrow", compute=ray.data.ActorPoolStrategy(size=setup.workers), **setup.resources
        )
        for row in data.iter_rows():
            result = unpacked(row[COLUMN])
            if isinstance(result, MilvusCoopError):
                raise result
            yield result


def _gathered(
    results: Iterator[Result | Rest],
    collection: Collection,
    ledger: Ledger | None,
    on_progress: Callable[[Progress], None] | None,
    max_failures: int | None,
) -> IngestReport:
    """Count the results, keep the ledger, and write the rows that workers return."""
    start, writing, counts, passed, rest = time.monotonic(), 0.0, Counts(), Counter[str](), Rest()

    def report() -> IngestReport:
        done = (counts.added, counts.updated, counts.unchanged)
        skipped = (rest.skipped, rest.skipped_failed)
        return IngestReport(*done, 0, tuple(counts.failures), time.monotonic() - start, dict(sorted(passed.items())), *skipped)

    try:
        for result in results:
            if isinstance(result, Rest):
                rest = result
                passed.update(rest.passed)
                continue
            before = time.monotonic()
            if result.rows:
                collection.upsert(result.rows)
            spent = time.monotonic() - before
            writing += spent
            counts.add(result.counts)
            counts.seconds["write"] += spent
            passed.update(result.passed)
            if ledger:
                finished = (result.part, result.counts.seen, result.counts.failures, result.sample)
                through_outages(partial(ledger.add, *finished))
            if on_progress:
                on_progress(counts.progress(None))
            counts.check(max_failures)
        if ledger:
            through_outages(ledger.save)
    except HopelessError as exc:
        raise TooManyFailuresError(exc.args[0], report()) from None
    except KeyboardInterrupt:
        raise IngestInterrupted(report()) from None
    finally:
        if ledger:
            with suppress(StoreError):  # the first error is the one to raise; without the last lines, parts are looked at again
                ledger.save()
    if writing > SLOW * (time.monotonic() - start):
        _log.warning(
            "the driver was writing into Milvus Lite for %.0f of %.0f s, which limits the rate; a Milvus server takes rows from all"
            " workers at once",
            writing,
            time.monotonic() - start,
        )
    return report()
