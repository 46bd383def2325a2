"""The lines that commands print. Nothing in them can control the terminal, whatever a collection, a file name or a server holds."""

from __future__ import annotations

import json
from typing import Any

import click

from milvus_coop.printable import printable, printable_json


def say(*columns: object, err: bool = False, nl: bool = True, **style: Any) -> None:
    """Print a line.

    Args:
        columns: the parts of the line; tabs come between them.
        err: print it on standard error.
        nl: end the line.
        style: colours and the like, as `click.style` takes them.
    """
    click.secho("\t".join(printable(str(column)) for column in columns), err=err, nl=nl, **style)


def say_json(value: object, *, err: bool = False) -> None:
    """Print a value as one line of JSON; on standard error if `err`."""
    click.echo(json_line(value), err=err)


def json_line(value: object) -> str:
    """A value as one line of JSON."""
    return printable_json(json.dumps(value, ensure_ascii=False, default=str))
