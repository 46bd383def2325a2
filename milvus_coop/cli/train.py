"""`milvus-coop train` and `milvus-coop export`: they make a bundle of your own from captioned images."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from milvus_coop.arguments import LARGEST
from milvus_coop.cli.lines import say, say_json
from milvus_coop.cli.options import Command
from milvus_coop.cli.outputs import check_folder
from milvus_coop.errors import InvalidArgumentError, TrainingError
from milvus_coop.offline.training.run.config import TrainConfig, read_settings
from milvus_coop.offline.training.run.order import OBJECTIVES, TASKS
from milvus_coop.records import FieldFacts, fields_of

if TYPE_CHECKING:
    from milvus_coop.offline.training.bundling.export import Exported
    from milvus_coop.offline.training.run.trainer import RunReport

_SETTINGS = {field.name: field for field in fields_of(TrainConfig) if field.name != "objective"}
"""Every setting of a run becomes an option. The objective is the command's argument instead."""
_PACKAGES = ("torch", "accelerate", "onnx", "onnxscript", "safetensors", "transformers")
_BUNDLE_PRECISIONS = click.Choice(["fp32", "fp16", "int8"])
_TASK_LIST = "\b\nTasks for --order, each with an optimiser step of its own:\n" + "\n".join(
    f"  {task.name:8} {task.about}" for task in TASKS.values()
)


def _settings(*names: str) -> Callable[[Command], Command]:
    """Add settings of a run as options. A setting that is not given keeps the value of --config, or the default."""

    def decorate(command: Command) -> Command:
        for name in reversed(names):
            command = _option(_SETTINGS[name])(command)
        return command

    return decorate


def _option(field: FieldFacts) -> Callable[[Command], Command]:
    flag, shown = f"--{field.name.replace('_', '-')}", field.description
    if field.type is bool:
        flag += f"/--{field.extra['off']}" if "off" in field.extra else ""
        return click.option(flag, field.name, is_flag=True, default=None, help=shown)
    if field.default:
        shown += f"  [default: {field.default}]"
    return click.option(flag, field.name, type=_click_type(field), help=shown)


def _click_type(field: FieldFacts) -> Any:
    if field.choices:
        return click.Choice([choice for choice in field.choices if choice])
    low, high = (field.at_least if field.above is None else field.above), (field.at_most if field.below is None else field.below)
    high = None if high == LARGEST else high
    if field.type is int:
        return click.IntRange(low, high)
    if field.type is float:
        return click.FloatRange(low, high, min_open=field.above is not None, max_open=field.below is not None)
    return click.STRING


@click.command(epilog=_TASK_LIST)
@click.argument("objective", type=click.Choice(OBJECTIVES))
@_settings("data")
@click.option("--run", "run", type=click.Path(path_type=Path, file_okay=False), help="The run's folder.  [default: runs/OBJECTIVE]")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), help="Write a bundle here when done (joint runs).")
@click.option(
    "--config",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="JSON with values for these options, or a run.json.",
)
@_settings(*(name for name in _SETTINGS if name != "data"))
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
    interrupted. --data takes a list (captions.jsonl), a folder with captions beside the images, karpathy:FILE or multi30k:FOLDER.

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
    from milvus_coop.bundle.folder import check_new_bundle
    from milvus_coop.cli.progress import train_progress
    from milvus_coop.offline.training.bundling.export import export_run
    from milvus_coop.offline.training.run.processes import is_main_process
    from milvus_coop.offline.training.run.trainer import train as run_training

    values = _values(config, {"objective": objective, "data": data, **given})
    if not values.get("data"):
        raise InvalidArgumentError("there is no --data", expected="captioned images, such as --data captions.jsonl")
    if out is not None:
        _check_joint(objective)
        check_new_bundle(out, out.name, TrainingError)
    folder = run or Path("runs") / objective
    check_folder(out)
    check_folder(folder)
    with train_progress(quiet or as_json) as on_progress:
        report = run_training(TrainConfig.from_dict(values), folder, on_progress=on_progress)
    if not is_main_process():
        return
    _print_run(report, as_json=as_json)
    if out is not None:
        _print_exported(export_run(folder, out), as_json=as_json)


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
    from milvus_coop.offline.training.bundling.export import export_run

    check_folder(out)
    _print_exported(export_run(run, out, keep_checkpoint=checkpoint, **options), as_json=as_json)


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
    """The settings of a JSON file, replaced by the given options."""
    values = {} if config is None else read_settings(config)
    values |= {name: value for name, value in given.items() if value is not None}
    if isinstance(values.get("order"), str):
        values["order"] = [name.strip() for name in values["order"].split(",") if name.strip()]
    return values


def _print_run(report: RunReport, *, as_json: bool) -> None:
    """Print the summary of a run."""
    if as_json:
        fields = {name: getattr(report, name) for name in ("rounds", "stopped_early", "best", "dev", "problems")}
        say_json({"run": str(report.folder), **fields, "seconds": round(report.seconds, 1)})
        return
    end = " (stopped early)" if report.stopped_early else ""
    say(f"{report.folder}: {report.rounds} rounds{end} in {report.seconds:.0f} s; best mean recall on dev {report.best:.1f} %")
    for role, title in (("be", "bi-encoder"), ("coop", "Coop")):
        if f"{role}_mr" in report.dev:
            recalls = (
                f"{name} R@1/5/10 " + "/".join(f"{report.dev[f'{role}_{short}_r{k}']:.1f}" for k in (1, 5, 10))
                for name, short in (("text to image", "t2i"), ("image to text", "i2t"))
            )
            gain = f"; mean recall {report.dev['gain_mr']:+.1f} by reranking" if role == "coop" and "gain_mr" in report.dev else ""
            say(f"  {title}, last evaluation: {'; '.join(recalls)}{gain}")
    if report.problems:
        say(f"  {report.problems} items were left out: {report.folder / 'problems.jsonl'}")


def _print_exported(exported: Exported, *, as_json: bool) -> None:
    """Print the bundle's folder, and the differences of its graphs from PyTorch."""
    spec = exported.bundle.spec
    differences = {name: float(f"{d.largest:.2g}") for name, d in exported.differences.items()}
    if as_json:
        say_json({"bundle": str(exported.bundle.folder), "fingerprint": spec.fingerprint, "differences": differences})
        return
    n_bytes = sum(file.n_bytes for file in spec.files.values())
    sizes = f"{n_bytes / 1e6:.1f} MB, {spec.tokens.n_bytes:,} bytes of tokens per image"
    say(f"{exported.bundle.folder}: {spec.label}, {spec.kind}, {sizes}")
    say("  largest difference from PyTorch: " + ", ".join(f"{name} {value:g}" for name, value in differences.items()))
    say(f"  milvus-coop ingest photos/ --bundle {exported.bundle.folder}")
