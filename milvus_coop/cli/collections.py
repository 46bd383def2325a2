"""`milvus-coop collections`: the collections in this Milvus."""

from __future__ import annotations

from dataclasses import asdict

import click

from milvus_coop.cli.lines import say, say_json
from milvus_coop.cli.options import with_settings
from milvus_coop.config import Settings
from milvus_coop.printable import printable


@click.group()
def collections() -> None:
    """List, describe, drop and tidy up collections."""


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
