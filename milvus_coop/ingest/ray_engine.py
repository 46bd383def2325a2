"""An ingest on a Ray cluster. Of the package, only this module uses Ray.

Ray Data runs two operators: a task that reads the sources and yields chunks of items, and a pool of actors that encode them. The
driver counts, and writes the rows if the collection is in Milvus Lite, which one process at a time can open.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, get_args

from milvus_coop.arguments import one_of, real_number, whole_number
from milvus_coop.bundle import load_bundle, shipped_bundles
from milvus_coop.config import Settings
from milvus_coop.cores import available_cores
from milvus_coop.errors import InvalidArgumentError, MilvusCoopError, MissingPackageError, quoted, reason_of
from milvus_coop.ingest.options import IngestArguments, IngestOptions, ingest_options
from milvus_coop.ingest.pipeline import Counts, HopelessError
from milvus_coop.ingest.ray_worker import COLUMN, Chunk, Job, Lite, Result, Worker, packed, read_chunks, unpacked
from milvus_coop.ingest.sink import IngestInterrupted, Progress, TooManyFailuresError
from milvus_coop.ingest.sources import Source, listed, open_sources
from milvus_coop.store import Collection, CollectionOptions, Store
from milvus_coop.store.address import parse_address
from milvus_coop.store.schema import DEFAULTS
from milvus_coop.types import IngestReport, Kind

if TYPE_CHECKING:
    import pyarrow
    from typing_extensions import Unpack

CHUNK = 512
"""Maximum number of items that a worker takes at a time, and loses if it dies."""
MAX_WORKERS = 10_000
MAX_GPUS = 64.0
SLOW = 0.5
"""Part of the time that the driver may spend writing before it says so."""
ONE_ROW = 1
"""Target size of Ray's blocks in bytes, so that each row, which is a chunk, is sent on its own."""

_PATHS = ("token_store", "ca_file", "triton_ca_file", "triton_cert_file", "triton_key_file")

_QUIET = {
    "ray.data._internal.progress": logging.ERROR,
    "ray.data._internal.execution.streaming_executor": logging.WARNING,
}
"""Loggers of Ray that say at each run that its own progress bars are off, and that a run has ended."""

_log = logging.getLogger(__name__)


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
    chunk: int = CHUNK,
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
        chunk: maximum number of items that a worker takes at a time.
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
    settings = _absolute(Settings.of(settings))
    threads = settings.threads or 1
    options = ingest_options(options, changes)
    if options.prune:
        raise InvalidArgumentError("prune is True, and an ingest on Ray removes nothing", expected="CoopIngest.run for it")
    work = replace(options, threads=options.threads or threads, max_failures=None)
    whole_number("chunk", chunk, 1, CHUNK)
    if workers is not None:
        whole_number("workers", workers, 1, MAX_WORKERS)
    gpus = real_number("gpus_per_worker", gpus_per_worker, "0 or more GPUs", maximum=MAX_GPUS)
    if gpus < 0:
        raise InvalidArgumentError(f"gpus_per_worker is {gpus}", expected="0 or more GPUs")
    opened = open_sources(listed(sources), kind, options.reading)
    spec = load_bundle(settings.bundle).spec
    with _cluster(ray, address), Store.from_settings(settings) as store:  # Ray forks, which gRPC's threads would disturb
        name = settings.collection
        collection = store.open_or_create(name, spec, kind, options=collection_options)
        job = Job(replace(settings, collection=collection.name, threads=threads), kind, work)
        lite = _state(collection) if parse_address(settings.uri).folder else None
        resources = {"num_cpus": threads, "num_gpus": gpus}
        with closing(_results(ray, opened, chunk, job, lite, workers or _fitting(ray, resources), resources)) as results:
            report = _gathered(results, collection, on_progress, options.max_failures)
        collection.flush()
        if collection_options.build_index == "after":
            store.build_index(collection.name)
    return report


def _ray() -> Any:
    try:
        import ray
        import ray.data
    except ImportError as exc:
        raise MissingPackageError("Ray Data is not installed", run="pip install 'milvus-coop[ray]'") from exc
    return ray


def _absolute(settings: Settings) -> Settings:
    """The settings with paths that workers find, whatever folder they run in."""

    def path(value: str) -> str:
        return value if not value or "://" in value else os.path.abspath(value)  # noqa: PTH100 - links are not followed

    named = settings.bundle in shipped_bundles()
    paths = {name: path(getattr(settings, name)) for name in _PATHS}
    return settings.override(bundle=settings.bundle if named else path(settings.bundle), **paths)


@contextmanager
def _cluster(ray: Any, address: str) -> Iterator[None]:
    """A connection to the cluster. It ends with the block, unless the process had it before."""
    if ray.is_initialized():
        yield
        return
    options: dict[str, Any] = {"logging_level": logging.WARNING}
    if address == "local":
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # a Ray of our own reports to nobody
        options |= {"num_cpus": available_cores(), "include_dashboard": False}
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


def _state(collection: Collection) -> Lite:
    tokens = None if collection.tokens is None else collection.tokens.location
    return Lite(dict(collection.all_stamps()), collection.layout.partition_key, tokens)


def _results(
    ray: Any, sources: Sequence[Source], chunk: int, job: Job, lite: Lite | None, workers: int, resources: dict[str, float]
) -> Generator[Result, None, None]:
    """The results of all chunks, in the order in which they are finished."""

    def read(_: pyarrow.Table) -> Iterator[pyarrow.Table]:
        for some in read_chunks(sources, chunk):
            yield packed(some)

    kept = ray.put(lite)  # once for all workers

    class Actor:
        def __init__(self) -> None:
            self._worker: Worker | None = None

        def __call__(self, table: pyarrow.Table) -> pyarrow.Table:
            try:  # Ray would pass an error on as text, and so the driver gets it as a result; also that of opening the models
                if self._worker is None:
                    self._worker = Worker(job, ray.get(kept))
                return packed(self._worker.result(unpacked(table[COLUMN][0].as_py())))
            except MilvusCoopError as exc:
                return packed(exc)

    for name, level in _QUIET.items():
        logging.getLogger(name).setLevel(level)
    context = ray.data.DataContext.get_current().copy()
    context.target_max_block_size = ONE_ROW
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    with ray.data.DataContext.current(context):
        data = ray.data.from_arrow(packed(Chunk())).map_batches(read, batch_size=1, batch_format="pyarrow", num_cpus=0)
        data = data.map_batches(
            Actor, batch_size=1, batch_format="pyarrow", compute=ray.data.ActorPoolStrategy(size=workers), **resources
        )
        for row in data.iter_rows():
            result = unpacked(row[COLUMN])
            if isinstance(result, MilvusCoopError):
                raise result
            yield result


def _gathered(
    results: Iterator[Result],
    collection: Collection,
    on_progress: Callable[[Progress], None] | None,
    max_failures: int | None,
) -> IngestReport:
    """Count the results, and write the rows that workers return."""
    start, writing, counts, passed = time.monotonic(), 0.0, Counts(), dict[str, int]()

    def report() -> IngestReport:
        done = (counts.added, counts.updated, counts.unchanged)
        return IngestReport(*done, 0, tuple(counts.failures), time.monotonic() - start, dict(sorted(passed.items())))

    try:
        for result in results:
            before = time.monotonic()
            if result.rows:
                collection.upsert(result.rows)
            writing += time.monotonic() - before
            counts.add(result.counts)
            passed |= result.passed
            if on_progress:
                on_progress(counts.progress(None))
            counts.check(max_failures)
    except HopelessError as exc:
        raise TooManyFailuresError(exc.args[0], report()) from None
    except KeyboardInterrupt:
        raise IngestInterrupted(report()) from None
    if writing > SLOW * (time.monotonic() - start):
        _log.warning(
            "the driver was writing into Milvus Lite for %.0f of %.0f s, which limits the rate; a Milvus server takes rows from all"
            " workers at once",
            writing,
            time.monotonic() - start,
        )
    return report()
