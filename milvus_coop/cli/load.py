"""`milvus-coop load`: fill a collection with rows from Parquet files."""

from __future__ import annotations

import click

from milvus_coop.cli.lines import say_json
from milvus_coop.cli.options import with_settings
from milvus_coop.config import Settings


@click.command()
@click.argument("source")
@click.option(
    "--build-index",
    type=click.Choice(["during", "after"]),
    default="during",
    show_default=True,
    help="When a server builds the index of a new collection: while rows arrive, or once at the end.",
)
@click.option(
    "--bulk-import",
    metavar="PATH",
    help="Let the server read the files itself. PATH is SOURCE's path within the server's own bucket.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON instead of a summary.")
@click.option("--quiet", is_flag=True, help="No progress bar.")
@with_settings(collection=True, bundle=True)
def load(settings: Settings, source: str, build_index: str, bulk_import: str | None, as_json: bool, quiet: bool) -> None:
    """Write rows that `ingest --sink parquet` or `collections export` wrote to SOURCE into a collection.

    SOURCE is a folder, s3://, gs://, az://, ... Nothing is encoded. Rows that the collection has already are skipped, so
    the command can be run again at any time. Rows of another bundle are refused.

    \b
    Exit code: 0 all fine, 1 some rows failed, 2 nothing could be done.

    \b
    Examples:
      milvus-coop load s3://bucket/run/
      milvus-coop load run/ --collection images_2 --build-index after
      milvus-coop load s3://a-bucket/run/ --bulk-import run/      a-bucket is the bucket of the Milvus server
    """
    from milvus_coop.bundle.folder import load_bundle
    from milvus_coop.cli.progress import row_progress
    from milvus_coop.cli.tables import print_report, report_facts
    from milvus_coop.store import CollectionOptions, Store, load_rows

    options = CollectionOptions(build_index=build_index)  # type: ignore[arg-type]
    spec = load_bundle(settings.bundle).spec
    with Store.from_settings(settings) as store, row_progress(quiet or as_json, "load") as on_progress:
        report = load_rows(
            store, source, settings.collection, spec, options=options, bulk_import=bulk_import, on_progress=on_progress
        )
        if build_index == "after":
            store.build_index(settings.collection)
    if as_json:
        say_json(report_facts(report))
    else:
        print_report(report, settings.collection)
    if report.failed:
        raise click.exceptions.Exit(1)
