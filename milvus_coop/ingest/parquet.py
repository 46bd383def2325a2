"""An ingest into Parquet files instead of a collection, so that items are encoded once and loaded many times."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, get_args

from milvus_coop.arguments import one_of
from milvus_coop.config import Settings
from milvus_coop.ingest.options import RUNS, IngestArguments, IngestOptions, ingest_options
from milvus_coop.ingest.run import ingest
from milvus_coop.ingest.sink import Progress
from milvus_coop.ingest.sources import check_sources, listed
from milvus_coop.models.open import open_models
from milvus_coop.store.layout import bundle_layout
from milvus_coop.store.row_folder import RowFolder
from milvus_coop.store.schema import DEFAULTS, CollectionOptions
from milvus_coop.types import IngestReport, Kind

if TYPE_CHECKING:
    from typing_extensions import Unpack


def ingest_to_parquet(
    sources: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    out: str,
    options: IngestOptions | None = None,
    *,
    kind: Kind = "image",
    collection_options: CollectionOptions = DEFAULTS,
    settings: Settings | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    **changes: Unpack[IngestArguments],
) -> IngestReport:
    """Bring a folder of Parquet files up to date with the sources, as `CoopIngest.run` does with a collection.

    Args:
        sources: see `CoopIngest.run`.
        out: a local folder, or s3://, gs://, az://, ...
        options: the options of the ingest.
        kind: kind of the items: `image` or `text`.
        collection_options: options of the collection that the files are for; only the partition key counts.
        settings: the bundle and what runs it; default the environment.
        on_progress: a function that is called regularly with the counts so far.
        changes: other values for fields of the options, such as `prune=True`; see `IngestOptions`.

    Raises:
        SourceError: a source is missing, empty or malformed; or the folder is damaged.
        InvalidArgumentError: an option has the wrong type, is out of range, or is unknown.
        BundleMismatchError, CollectionExistsError: the folder holds rows of another bundle, or other rows.
        StoreError, BackendError: the folder or the encoder failed; files that were written stay.
    """
    one_of("kind", kind, get_args(Kind))
    sources, options = listed(sources), ingest_options(options, changes)
    check_sources(sources, kind, options.reading)
    opened = open_models(Settings.of(settings), runs=RUNS)
    try:
        spec = opened.encoder.spec
        layout = bundle_layout(spec, kind, collection_options)
        folder = RowFolder.to_write(out, layout, spec.label, spec.fingerprint)
        return ingest(
            sources, options, sink=folder, encoder=opened.encoder, kind=kind, tokens=folder.tokens, on_progress=on_progress
        )
    finally:
        opened.close()
