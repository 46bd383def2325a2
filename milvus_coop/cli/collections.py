"""`milvus-coop collections`: what is in this Milvus."""

from __future__ import annotations

import json
from dataclasses import asdict

import click

from milvus_coop.cli.options import with_settings
from milvus_coop.config import Settings


@click.group()
def collections() -> None:
    """List, describe and drop collections."""


@collections.command("list")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per collection and line.")
@with_settings()
def list_(settings: Settings, as_json: bool) -> None:
    """List the collections; those that milvus-coop did not make are `foreign`."""
    from milvus_coop.cli.tables import print_collections
    from milvus_coop.store import Store

    with Store.from_settings(settings, must_exist=True) as store:
        infos = store.list()
    if not as_json:
        print_collections(infos)
        return
    for info in infos:
        click.echo(json.dumps(asdict(info)))


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
        click.echo(json.dumps(asdict(info)))
    else:
        print_pairs(
            "", ((key, f"{value:,}" if isinstance(value, int) else str(value or "-")) for key, value in asdict(info).items())
        )


@collections.command()
@click.argument("name")
@click.option("--yes", is_flag=True, help="Do not ask.")
@with_settings()
def drop(settings: Settings, name: str, yes: bool) -> None:
    """Delete collection NAME with all its items; the pictures themselves stay."""
    from milvus_coop.store import Store

    with Store.from_settings(settings, must_exist=True) as store:
        info = store.describe(name)
        if not yes:
            click.confirm(f"Drop '{name}' with {info.count:,} items?", abort=True, err=True)
        store.drop(name)
    click.echo(f"Dropped '{name}' ({info.count:,} items).", err=True)
