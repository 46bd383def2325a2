"""The command group, and the way errors are shown to a user."""

from __future__ import annotations

import io
import os
import sys
from typing import Any

import click

import milvus_coop
from milvus_coop.cli.bundle import bundle
from milvus_coop.cli.collections import collections
from milvus_coop.cli.demo import demo
from milvus_coop.cli.doctor import doctor
from milvus_coop.cli.embed import embed
from milvus_coop.cli.evaluate import evaluate
from milvus_coop.cli.ingest import INTERRUPTED, NOTHING_DONE, ingest
from milvus_coop.cli.lines import say
from milvus_coop.cli.load import load
from milvus_coop.cli.query import query
from milvus_coop.cli.score import score
from milvus_coop.cli.serve import serve
from milvus_coop.cli.train import export, train
from milvus_coop.cli.triton import triton
from milvus_coop.errors import MilvusCoopError, reason_of
from milvus_coop.printable import printable


class CoopGroup(click.Group):
    """Shows our own errors in a few lines instead of a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; a `MilvusCoopError` ends it with exit code 2."""
        try:
            return super().invoke(ctx)
        except MilvusCoopError as exc:
            say(f"Error: {exc.given}.", err=True, fg="red")
            if exc.expected:
                say(f"Expected: {exc.expected}", err=True)
            if exc.run:
                say(f"Try: {exc.run}", err=True)
            ctx.exit(NOTHING_DONE)
        except click.ClickException as exc:  # click itself shows it
            exc.message = printable(exc.message)  # type: ignore[misc]
            raise
        except KeyboardInterrupt:
            say("Interrupted.", err=True)
            ctx.exit(INTERRUPTED)


@click.group(cls=CoopGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(milvus_coop.__version__, prog_name="milvus-coop")
def cli() -> None:
    """Find images by text, and texts by image, in Milvus.

    A bi-encoder retrieves candidates from Milvus, a cross-encoder reranks them.

    \b
    Examples:
      milvus-coop ingest photos/                  fill the collection "images" in ./milvus_coop.db
      milvus-coop query "a red apple"             the ten best images
      milvus-coop query "a red apple" --json | jq -r .uri
      milvus-coop serve                           search in a browser, and an HTTP API
      milvus-coop doctor                          shows what works here and what to install
    """


for command in (ingest, load, query, score, embed, serve, collections, bundle, triton, train, export, evaluate, demo, doctor):
    cli.add_command(command)


def main() -> None:
    """Entry point of the console script."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # file names need not be valid Unicode; JSON has the same escapes
    try:
        try:
            cli()
        finally:
            _flush()
    except BrokenPipeError:  # a closed pipe, as with `| head`, is not an error
        _drop_output()
        sys.exit(0)
    except OSError as exc:  # a full disk, for one
        reason = reason_of(exc)
        given = f"{exc.filename}: {reason}" if exc.filename else f"the output cannot be written: {reason}"
        _drop_output()
        say(f"Error: {given}.", err=True, fg="red")
        sys.exit(NOTHING_DONE)


def _flush() -> None:
    if sys.stdout is not None:
        sys.stdout.flush()


def _drop_output() -> None:
    """Drop what waits to be written to standard output. Otherwise Python tries again at its end, and fails again."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
