"""`milvus-coop collections`: the collections in this Milvus."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Literal

import click

from milvus_coop.cli.lines import say, say_json
from milvus_coop.cli.options import with_settings
from milvus_coop.config import Settings
from milvus_coop.printable import printable

if TYPE_CHECKING:
    from milvus_coop.types import Kind


@click.group()
def collections() -> None:
    """List, create, describe, export, drop and tidy up collections."""


@collections.command("list")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per collection and line.")
@with_settings()
def list_(settings: Settings, as_json: bool) -> None:
    """List the collections. Those that milvus-coop did not make are `foreign`."""
    from milvus_coop.cli.tables import print_collections
    from milvus_coop.store import Store

    with Store.from_settings(settings, must_exist=True) as store:
        infos = store.list()
    if not as_json:
        print_collections(infos)
        return
    for info in infos:
        say_json(asdict(info))


@collections.command()
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="As one JSON object.")
@with_settings()
def describe(settings: Settings, name: str, as_json: bool) -> None:
    """Show how collection NAME was made and how many items it holds."""
    from milvus_coop.cli.tables import print_pairs
    from milvus_coop.store import Store

    with Store.from_settings(settings, must_exist=True) as store:
        info = store.describe(name)
    if as_json:
        say_json(asdict(info))
    else:
        print_pairs(
            "", ((key, f"{value:,}" if isinstance(value, int) else str(value or "-")) for key, value in asdict(info).items())
        )


@collections.command()
@click.argument("name")
@click.option("--yes", is_flag=True, help="Do not ask.")
@with_settings()
def drop(settings: Settings, name: str, yes: bool) -> None:
    """Delete collection NAME with all its items and token files. The images themselves stay."""
    from milvus_coop.store import Store

    with Store.from_settings(settings, must_exist=True) as store:
        info = store.describe(name)
        if not yes:
            click.confirm(printable(f"Drop '{name}' with {info.count:,} items?"), abort=True, err=True)
        left = store.drop(name)
    say(f"Dropped '{name}' ({info.count:,} items).", err=True)
    if left:
        say(f"Note: {left}.", err=True)


@collections.command()
@click.argument("name")
@click.option("--dry-run", is_flag=True, help="Remove nothing.")
@click.option(
    "--older-than",
    type=click.FloatRange(min=0),
    default=3600,
    show_default=True,
    help="Minimum age of removed files in seconds; younger files may belong to a running ingest.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the counts as one JSON object.")
@with_settings()
def gc(settings: Settings, name: str, dry_run: bool, older_than: float, as_json: bool) -> None:
    """Remove token files that no item of collection NAME needs, and name the items whose file is missing or damaged.

    Only collections whose image tokens are too large for Milvus have such files. Killed ingests leave some behind.

    \b
    Exit code: 0 all fine, 1 files are missing or damaged (ingest with --force writes them again).

    \b
    Examples:
      milvus-coop collections gc images --dry-run
      milvus-coop collections gc images --older-than 86400
    """
    from milvus_coop.cli.tables import print_sweep
    from milvus_coop.store import Store

    with Store.from_settings(settings, must_exist=True) as store:
        report = store.open(name).sweep(older_than_s=older_than, dry_run=dry_run)
    if as_json:
        say_json({**asdict(report), "dry_run": dry_run})
    else:
        print_sweep(report, name, dry_run)
    if report.missing or report.damaged:
        say("Try: milvus-coop ingest SOURCES --force", err=True)
        raise click.exceptions.Exit(1)


@collections.command()
@click.argument("name")
@click.option("--kind", type=click.Choice(["image", "text"]), default="image", show_default=True, help="Kind of the items.")
@click.option("--index", type=click.Choice(["HNSW", "AUTOINDEX"]), default="HNSW", show_default=True, help="Type of the index.")
@click.option(
    "--build-index",
    type=click.Choice(["during", "after"]),
    default="during",
    show_default=True,
    help="When a server builds the index: while items arrive, or later by `collections build-index`.",
)
@click.option(
    "--partition-key", metavar="FIELD", default="", help="Metadata by which items are kept apart; every item must have it."
)
@click.option(
    "--partition-key-type", type=click.Choice(["text", "integer"]), default="text", show_default=True, help="Type of its values."
)
@click.option("--replicas", type=int, default=1, show_default=True, help="Copies that a server keeps in memory.")
@click.option("--mmap", metavar="FIELD", multiple=True, help="Map a field from the server's disk (Milvus 2.5); may be repeated.")
@click.option("--property", "properties", metavar="KEY=VALUE", multiple=True, help="A property of Milvus; may be repeated.")
@with_settings(bundle=True)
def create(
    settings: Settings,
    name: str,
    kind: Kind,
    index: Literal["HNSW", "AUTOINDEX"],
    build_index: Literal["during", "after"],
    partition_key: str,
    partition_key_type: Literal["text", "integer"],
    replicas: int,
    mmap: tuple[str, ...],
    properties: tuple[str, ...],
) -> None:
    """Create the empty collection NAME for a bundle. `ingest` and `load` do this themselves, with fewer options.

    \b
    Examples:
      milvus-coop collections create images --partition-key tenant --replicas 2
      milvus-coop collections create images --property mmap.enabled=true --property collection.ttl.seconds=86400
    """
    from milvus_coop.bundle.folder import load_bundle
    from milvus_coop.store import CollectionOptions, Store

    pairs = [text.partition("=") for text in properties]
    if wrong := [key for key, mark, _ in pairs if not key or not mark]:
        raise click.UsageError(f"--property is {wrong[0]!r}; expected: KEY=VALUE.")
    options = CollectionOptions(
        index, build_index, partition_key, partition_key_type, replicas, mmap, {key: value for key, _, value in pairs}
    )
    spec = load_bundle(settings.bundle).spec
    with Store.from_settings(settings) as store:
        store.create(name, spec, kind, options=options)
    say(f"Created '{name}' for {kind}s of bundle {spec.label}.", err=True)


@collections.command("build-index")
@click.argument("name")
@click.option("--quiet", is_flag=True, help="No progress bar.")
@with_settings()
def build_index(settings: Settings, name: str, quiet: bool) -> None:
    """Build the index of collection NAME, which was created with `--build-index after`, when all items are there.

    Searches fail until the index is built. An interrupted build goes on when the command is run again.
    """
    from milvus_coop.cli.progress import row_progress
    from milvus_coop.store import Store

    with Store.from_settings(settings, must_exist=True) as store, row_progress(quiet, "index") as on_progress:
        built = store.build_index(name, on_progress)
    say(f"Built the index of '{name}'." if built else f"'{name}' has its index already.", err=True)


@collections.command()
@click.argument("name")
@click.argument("out")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON instead of a summary.")
@click.option("--quiet", is_flag=True, help="No progress bar.")
@with_settings()
def export(settings: Settings, name: str, out: str, as_json: bool, quiet: bool) -> None:
    """Write the rows of collection NAME, with its token files, to OUT as Parquet files for `milvus-coop load`.

    OUT is a folder, s3://, gs://, az://, ... If it holds an export already, it is brought up to date.

    \b
    Exit code: 0 all fine, 1 some items lack their token file.

    \b
    Examples:
      milvus-coop collections export images s3://bucket/images/
      milvus-coop collections export images backup/ && milvus-coop load backup/ --uri http://milvus:19530
    """
    from milvus_coop.cli.progress import row_progress
    from milvus_coop.cli.tables import print_report, report_facts
    from milvus_coop.store import Store, export_rows

    with Store.from_settings(settings, must_exist=True) as store, row_progress(quiet or as_json, "export") as on_progress:
        report = export_rows(store, name, out, on_progress=on_progress)
    if as_json:
        say_json(report_facts(report))
    else:
        print_report(report, out)
    if report.failed:
        raise click.exceptions.Exit(1)


@collections.group()
def alias() -> None:
    """Give collections other names, by which they can be replaced without downtime."""


@alias.command("list")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per alias and line.")
@with_settings()
def list_aliases(settings: Settings, as_json: bool) -> None:
    """List the aliases and the collections that they name."""
    from milvus_coop.cli.tables import print_pairs
    from milvus_coop.store import Store

    with Store.from_settings(settings, must_exist=True) as store:
        known = store.aliases.list()
    if not as_json:
        print_pairs("", known.items())
        return
    for name, collection in known.items():
        say_json({"alias": name, "collection": collection})


@alias.command("set")
@click.argument("name", metavar="ALIAS")
@click.argument("target", metavar="COLLECTION")
@with_settings()
def set_(settings: Settings, name: str, target: str) -> None:
    """Give COLLECTION the other name ALIAS."""
    from milvus_coop.store import Store

    with Store.from_settings(settings, must_exist=True) as store:
        store.aliases.set(name, target)
    say(f"'{name}' names '{target}'.", err=True)


@alias.command()
@click.argument("name", metavar="ALIAS")
@click.argument("target", metavar="COLLECTION")
@click.option("--other-bundle", is_flag=True, help="Also if COLLECTION was made with another bundle, or has another kind of items.")
@with_settings()
def switch(settings: Settings, name: str, target: str, other_bundle: bool) -> None:
    """Let ALIAS name COLLECTION instead of the collection that it names now, in one step.

    A gateway follows within two seconds. A `CoopSearch` that is open stays with the old collection until it is opened again.
    """
    from milvus_coop.store import Store

    with Store.from_settings(settings, must_exist=True) as store:
        before = store.aliases.switch(name, target, other_bundle=other_bundle)
    say(f"'{name}' names '{target}', and no longer '{before}'.", err=True)


@alias.command("drop")
@click.argument("name", metavar="ALIAS")
@with_settings()
def drop_alias(settings: Settings, name: str) -> None:
    """Remove ALIAS. The collection stays."""
    from milvus_coop.store import Store

    with Store.from_settings(settings, must_exist=True) as store:
        collection = store.aliases.drop(name)
    say(f"Removed the alias '{name}' of '{collection}'.", err=True)
