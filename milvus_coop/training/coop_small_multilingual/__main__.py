"""`python -m milvus_coop.training.coop_small_multilingual`: the recipe, step by step."""

from __future__ import annotations

import logging
from pathlib import Path

import click
import torch

from milvus_coop.bundle import load_bundle
from milvus_coop.training.coop_small.workspace import Workspace
from milvus_coop.training.coop_small_multilingual.steps import STEPS, run_step


@click.command()
@click.argument("steps", nargs=-1, type=click.Choice(list(STEPS)))
@click.option(
    "--work",
    type=click.Path(path_type=Path),
    default=Path("build/coop-small-multilingual"),
    show_default=True,
    help="Folder of downloads, texts and trained parts; the bundle goes into its `bundle`.",
)
@click.option("--base", default="coop-small", show_default=True, help="Bundle whose text encoder is replaced: a name or a folder.")
@click.option("--threads", default=2, show_default=True, help="CPU threads of PyTorch.")
@click.option("--force", is_flag=True, help="Run the steps even if they are done.")
def main(steps: tuple[str, ...], work: Path, base: str, threads: int, force: bool) -> None:
    """Make coop-small-multilingual: the images of a base bundle, searched in 50 languages.

    Runs the given STEPS, or all that are not done.
    """
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    logging.getLogger("milvus_coop").setLevel(logging.INFO)
    torch.set_num_threads(threads)
    work.mkdir(parents=True, exist_ok=True)
    workspace = Workspace(work.resolve(), work.resolve() / "bundle")
    for name in steps or STEPS:
        run_step(workspace, load_bundle(base), name, force=force)


if __name__ == "__main__":
    main(prog_name="python -m milvus_coop.training.coop_small_multilingual")
