"""`milvus-coop train` and `milvus-coop export`: they make a bundle of your own from captioned images."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import fields
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, TypeVar

import click

from milvus_coop.cli.outputs import check_folder
from milvus_coop.errors import InvalidArgumentError, TrainingError
from milvus_coop.offline.training.run.config import TrainConfig
from milvus_coop.offline.training.run.order import OBJECTIVES, TASKS

Command = TypeVar("Command", bound=Callable[..., Any])
_DEFAULTS = {field.name: field.default for field in fields(TrainConfig)}

_OPTIONS: tuple[tuple[str, Any, str], ...] = (
    ("--init", str, "A run or bundle to start from, or a BERT, VisualBERT, RoBERTa or XLM-RoBERTa checkpoint (folder or id)."),
    (
        "--vision",
        str,
        "Backbone: conv (untrained), efficientnet-lite0, a folder with vision.json, or a checkpoint of transformers.",
    ),
    (
        "--train-vision/--freeze-vision",
        bool,
        "Train the backbone as well. The features of a frozen backbone are cached.  [default: train only conv]",
    ),
    ("--miner", click.Path(exists=True, file_okay=False), "For ce: the run whose bi-encoder finds the hard negatives."),
    ("--order", str, "Tasks of a round, such as be,ce-hard; see below."),
    ("--rounds", int, "Rounds of tasks."),
    ("--batch", int, "Images per task."),
    ("--accumulate", int, "Batches per optimiser step."),
    ("--learning-rate", float, "Maximum learning rate."),
    ("--warm-up", int, "Rounds in which the learning rate rises."),
    ("--mined", int, "Length of the lists of the bi-encoder's best wrong answers."),
    ("--mine-every", int, "Minimum rounds for which these lists are used; the next pass over the data makes them again."),
    ("--hard-share", float, "Share of mined negatives among those of ce-top and ce-list."),
    ("--margin", float, "Margin of the triplet losses."),
    ("--keep-groups/--shuffle", bool, "Keep look-alikes in one batch (generated data).  [default: shuffle]"),
    ("--tokens", int, "Image tokens per image, made by as many learnt queries.  [default: one per cell]"),
    ("--token-dim", int, "Numbers per image token."),
    ("--side", int, "Pool the backbone's grid to this many cells per side."),
    ("--image-size", int, "Pixels per side, for conv."),
    ("--width", int, "Width of the transformer."),
    ("--layers", int, "Layers of the transformer; of a checkpoint, the first ones are used."),
    ("--heads", int, "Attention heads of the transformer."),
    ("--dim", int, "Length of an embedding."),
    ("--match", click.Choice(["cls", "residual"]), "Match logit from [CLS], or a correction of the network's own cosine."),
    (
        "--norm",
        click.Choice(["post", "pre", "deepnorm"]),
        "Norms of the transformer: after each block (BERT's), before it, or DeepNorm for deep networks.  "
        "[default: post with a checkpoint, pre without]",
    ),
    ("--dropout", float, "Share of activations that are dropped."),
    ("--max-length", int, "Maximum length of a caption in tokens."),
    ("--eval-every", int, "Rounds between evaluations on the dev split, each with a checkpoint."),
    ("--patience", int, "Stop after this many evaluations without a better dev score; 0: never."),
    ("--dev-items", int, "Images of the dev pool."),
    ("--k", int, "Candidates that are reranked for the dev score."),
    ("--dev-queries", int, "Queries per direction that are reranked for the dev score; 0: all."),
    ("--seed", int, "Seed of all random draws."),
    ("--threads", int, "Threads of PyTorch."),
    (
        "--precision",
        click.Choice(["auto", "no", "bf16", "fp16"]),
        "Mixed precision. auto: bf16 where the CPU or GPU multiplies bfloat16, else no (float32).",
    ),
    ("--tensorboard", bool, "Also write TensorBoard files into the run."),
)
_PACKAGES = ("torch", "accelerate", "onnx", "onnxscript", "safetensors", "transformers")
_BUNDLE_PRECISIONS = click.Choice(["fp32", "fp16", "int8"])


_TASK_LIST = "\b\nTasks for --order, each with an optimiser step of its own:\n" + "\n".join(
    f"  {task.name:8} {task.about}" for task in TASKS.values()
)


def _run_options(command: Command) -> Command:
    """Add every setting of a run as an option. A setting that is not given keeps the value of --config, or the default."""
    for flag, kind, text in reversed(_OPTIONS):
        is_flag = kind is bool
        default = _DEFAULTS.get(flag.lstrip("-").replace("-", "_"))
        shown = f"{text}  [default: {default}]" if default and not is_flag else text
        command = click.option(flag, type=None if is_flag else kind, is_flag=is_flag, default=None, help=shown)(command)
    return command


@click.command(epilog=_TASK_LIST)
@click.argument("objective", type=click.Choice(OBJECTIVES))
@click.option("--data", help="Captioned images: FORMAT:PATH[,key=value]..., or a path.")
@click.option("--run", "run", type=click.Path(path_type=Path, file_okay=False), help="The run's folder.  [default: runs/OBJECTIVE]")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), help="Write a bundle here when done (joint runs).")
@click.option(
    "--config",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="JSON with values for these options, or a run.json.",
)
@_run_options
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
@click.option("--quiet", is_flag=True, help="No progress bar, and no progress lines without a terminal.")
def train(
    objective: Literal["be", "ce", "joint"],
    data: str | None,
    run: Path | None,
    out: Path | None,
    config: Path | None,
    as_json: bool,
    quiet: bool,
    **given: Any,
) -> None:
    """Train a bi-encoder (be), a cross-encoder (ce), or one network in both roles (joint).

    A run is a folder: configuration, metrics of every evaluation, checkpoints. The same command again continues a run that was
    interrupted. --data takes a list (captions.jsonl), a folder with captions beside the images, karpathy:FILE, multi30k:FOLDER,
    or generated data (scenes:n=20000).

    \b
    Examples:
      milvus-coop train joint --data captions.jsonl --vision efficientnet-lite0 --out my-bundle
      milvus-coop train joint --data karpathy:dataset_coco.json,images=coco --init bert-base-uncased \\
          --vision openai/clip-vit-base-patch32 --order be,ce-hard,ance,ce-hard --precision bf16
      milvus-coop train be --data captions.jsonl --run runs/be
      milvus-coop train ce --data captions.jsonl --init runs/be --miner runs/be --order ce,ce-top --run runs/ce
      milvus-coop export runs/be --ce runs/ce --out my-bundle
    """
    _need_torch()
    from milvus_coop.cli.training import print_exported, print_run, train_progress
    from milvus_coop.offline.training.bundling.export import check_target, export_run
    from milvus_coop.offline.training.run.processes import is_main_process
    from milvus_coop.offline.training.run.trainer import train as run_training

    values = _values(config, {"objective": objective, "data": data, **given})
    if not values.get("data"):
        raise InvalidArgumentError("there is no --data", expected="captioned images, such as --data captions.jsonl")
    if out is not None:
        _check_joint(objective)
        check_target(out)
    folder = run or Path("runs") / objective
    check_folder(out)
    check_folder(folder)
    with train_progress(quiet or as_json) as on_progress:
        report = run_training(TrainConfig.from_dict(values), folder, on_progress=on_progress)
    if not is_main_process():
        return
    print_run(report, as_json=as_json)
    if out is not None:
        print_exported(export_run(folder, out), as_json=as_json)


@click.command()
@click.argument("run", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option(
    "--out", required=True, type=click.Path(path_type=Path, file_okay=False), help="The bundle's folder. It must not exist."
)
@click.option(
    "--ce", "cross_encoder", type=click.Path(path_type=Path, exists=True, file_okay=False), help="The cross-encoder's run."
)
@click.option("--name", help="Name of the bundle.  [default: the folder's name]")
@click.option("--version", "version", default="1.0.0", show_default=True, help="Version of the bundle.")
@click.option("--precision", type=_BUNDLE_PRECISIONS, default="fp16", show_default=True, help="Precision of the stored weights.")
@click.option("--data", help="Images and captions for the comparison with PyTorch.  [default: the run's data]")
@click.option("--licence", default="", help="Licence in the bundle's record.")
@click.option("--checkpoint/--no-checkpoint", default=True, show_default=True, help="Keep the checkpoint, for --init.")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
def export(run: Path, out: Path, checkpoint: bool, as_json: bool, **options: Any) -> None:
    """Make a bundle from the best checkpoint of a joint run, or from those of a bi-encoder's and a cross-encoder's run.

    The graphs are compared with PyTorch on real images and captions. If they differ, nothing is written.

    \b
    Examples:
      milvus-coop export runs/joint --out my-bundle
      milvus-coop export runs/be --ce runs/ce --out my-bundle --precision int8
    """
    _need_torch()
    from milvus_coop.cli.training import print_exported
    from milvus_coop.offline.training.bundling.export import export_run

    check_folder(out)
    print_exported(export_run(run, out, keep_checkpoint=checkpoint, **options), as_json=as_json)


def _need_torch() -> None:
    if missing := [name for name in _PACKAGES if find_spec(name) is None]:
        raise TrainingError(
            f"{missing[0]} is not installed", expected="the packages for training", run="pip install 'milvus-coop[train]'"
        )


def _check_joint(objective: str) -> None:
    if objective != "joint":
        raise InvalidArgumentError(
            f"--out with a {objective} run: a bundle needs both roles",
            expected="--out with `train joint`",
            run="milvus-coop export BE_RUN --ce CE_RUN --out DIR",
        )


def _values(config: Path | None, given: dict[str, Any]) -> dict[str, Any]:
    """The values of a JSON file, replaced by the given options."""
    values: dict[str, Any] = {}
    if config is not None:
        try:
            values = json.loads(config.read_text("utf-8"))
            values = dict(values.get("config", values))
        except (OSError, ValueError, TypeError, AttributeError) as exc:
            raise InvalidArgumentError(f"{config} cannot be read: {exc}", expected="a JSON object, or a run.json") from exc
    values |= {name: value for name, value in given.items() if value is not None}
    if isinstance(values.get("order"), str):
        values["order"] = [name.strip() for name in values["order"].split(",") if name.strip()]
    return values
