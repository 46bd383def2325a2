"""`python -m milvus_coop.training.coop_small`: the recipe, step by step."""

from __future__ import annotations

import logging
from pathlib import Path

import click
import torch

from milvus_coop.training.coop_small.steps import STEPS, run_step
from milvus_coop.training.coop_small.workspace import Workspace

_work = click.option(
    "--work",
    type=click.Path(path_type=Path),
    default=Path("build/coop-small"),
    show_default=True,
    help="Folder of downloads, features and trained parts.",
)
_bundle = click.option(
    "--bundle",
    type=click.Path(path_type=Path),
    default=Workspace.bundle,
    help="Folder of the bundle that is written or evaluated; default: the one in the package.",
)
_threads = click.option("--threads", default=2, show_default=True, help="CPU threads of PyTorch.")


@click.group()
def main() -> None:
    """Make coop-small, the model that ships with the package, from public packages.

    Every step is skipped when it is done already.
    """


@main.command("all")
@_work
@_bundle
@_threads
def run_all(work: Path, bundle: Path, threads: int) -> None:
    """Run every step that is not done: from nothing to the bundle and its card."""
    workspace = _prepare(work, bundle, threads)
    for name in STEPS:
        run_step(workspace, name)


def _add_command(name: str) -> None:
    @main.command(name, help=STEPS[name].__doc__)
    @_work
    @_bundle
    @_threads
    @click.option("--force", is_flag=True, help="Run it even if it is done.")
    def command(work: Path, bundle: Path, threads: int, force: bool) -> None:
        run_step(_prepare(work, bundle, threads), name, force=force)


for _name in STEPS:
    _add_command(_name)


def _prepare(work: Path, bundle: Path, threads: int) -> Workspace:
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    logging.getLogger("milvus_coop").setLevel(logging.INFO)
    torch.set_num_threads(threads)
    work.mkdir(parents=True, exist_ok=True)
    return Workspace(work.resolve(), bundle.resolve())


if __name__ == "__main__":
    main(prog_name="python -m milvus_coop.training.coop_small")
