"""An ingest into Parquet files instead of a collection, so that items are encoded once and loaded many times."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import get_args

from milvus_coop.arguments import one_of
from milvus_coop.config import Settings
from milvus_coop.ingest.run import ingest
from milvus_coop.ingest.sink import Progress
from milvus_coop.ingest.sources import Reading, Web, check_sources, listed
from milvus_coop.models.backends import Backend
from milvus_coop.models.open import open_models
from milvus_coop.store.layout import bundle_layout
from milvus_coop.store.row_folder import PART_BYTES, RowFolder
from milvus_coop.store.schema import DEFAULTS, CollectionOptions
from milvus_coop.types import IngestReport, Kind


def ingest_to_parquet(
    sources: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    out: str,
    *,
    kind: Kind = "image",
    options: CollectionOptions = DEFAULTS,
    settings: Settings | None = None,
    models: Backend | None = None,
    part_bytes: int = PART_BYTES,
    prune: bool = False,
    force: bool = False,
    batch: int = 16,
    on_progress: Callable[[Progress], None] | None = None,
    allow_http: bool = False,
    image_column: str | None = None,
    max_failures: int | None = None,
) -> IngestReport:
    """Bring a folder of Parquet files up to date with the sources, as `CoopIngest.run` does with a collection.

    Args:
        sources: see `CoopIngest.run`.
        out: a local folder, or s3://, gs://, az://, ...
        kind: kind of the items: `image` or `text`.
        options: options of the collection that the files are for; only the partition key counts.
        settings: the bundle and what runs it; default the environment.
        models: the backend that runs the bundle, instead of the one that the settings name. The caller has to close it.
        part_bytes: size of the rows of one file.
        prune: remove items of the sources that no longer exist.
        force: encode all items again.
        batch: number of items per run of the encoder.
        on_progress: a function that is called regularly with the counts so far.
        allow_http: fetch files at http:// and https:// addresses; see `CoopIngest.run`.
        image_column: see `CoopIngest.run`.
        max_failures: see `CoopIngest.run`.

    Raises:
        SourceError: a source is missing, empty or malformed; or the folder is damaged.
        BundleMismatchError, CollectionExistsError: the folder holds rows of another bundle, or other rows.
        StoreError, BackendError: the folder or the encoder failed; files that were written stay.
    """
    one_of("kind", kind, get_args(Kind))
    sources = listed(sources)
    reading = Reading(Web() if allow_http else None, image_column)
    check_sources(sources, kind, reading)
    opened = open_models(Settings.of(settings), models)
    try:
        spec = opened.encoder.spec
        folder = RowFolder.to_write(out, bundle_layout(spec, kind, options), spec.label, spec.fingerprint, part_bytes)
        return ingest(
            sources,
            sink=folder,
            encoder=opened.encoder,
            kind=kind,
            tokens=folder.tokens,
            prune=prune,
            force=force,
            batch=batch,
            on_progress=on_progress,
            reading=reading,
            max_failures=max_failures,
        )
    finally:
        opened.close()
