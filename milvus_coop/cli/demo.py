"""`milvus-coop demo`: ingest and search on a few sample images."""

from __future__ import annotations

import tempfile
from pathlib import Path

import click

from milvus_coop.cli.lines import say
from milvus_coop.cli.options import with_settings
from milvus_coop.config import Settings

QUERIES = ("two white dogs under a tree", "a band playing music on a stage", "a white kitchen with a table")
"""Queries for two things together, an action and an attribute. Several samples show dogs, musicians or a room; one fits."""


@click.command()
@click.option("--images", type=click.Path(path_type=Path), help="Images to use instead of the samples.")
@click.option("--keep", is_flag=True, help="Fill the collection in --uri instead of a temporary one.")
@with_settings(collection=True, models=True)
def demo(settings: Settings, images: Path | None, keep: bool) -> None:
    """Ingest the sample images and run three queries.

    \b
    Examples:
      milvus-coop demo
      milvus-coop demo --images my_photos/
    """
    from milvus_coop.cli.progress import ingest_progress
    from milvus_coop.cli.tables import print_report, print_result
    from milvus_coop.ingest import CoopIngest
    from milvus_coop.search import CoopSearch

    with tempfile.TemporaryDirectory(prefix="milvus-coop-demo-") as folder:
        chosen = settings if keep else settings.override(uri=Path(folder, "demo.db"), token="", collection="demo")
        with CoopIngest(settings=chosen) as ingester, ingest_progress(quiet=False) as on_progress:
            report = ingester.run([images or sample_images()], on_progress=on_progress)
        print_report(report, chosen.collection)
        with CoopSearch(settings=chosen) as search:
            for text in QUERIES:
                print_result(search.query(text, limit=5), title=text)
    for line in ("", "Now your own images:", "  milvus-coop ingest PHOTOS/", '  milvus-coop query "what you are looking for"'):
        say(line)


def sample_images() -> Path:
    """The folder of sample images, in the installed package or in the source tree."""
    package = Path(__file__).resolve().parent.parent
    inside = package / "examples" / "images"
    return inside if inside.is_dir() else package.parent / "examples" / "images"
