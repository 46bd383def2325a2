"""`milvus-coop eval`: the systems of the paper on captioned images, quality and cost side by side."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from milvus_coop.cli.lines import say, say_json
from milvus_coop.cli.options import with_settings
from milvus_coop.config import Settings

if TYPE_CHECKING:
    from milvus_coop.offline.evaluation import EvaluationOptions


def _split(value: str, separator: str = ",") -> tuple[str, ...]:
    return tuple(part.strip() for part in value.split(separator) if part.strip())


@click.command("eval")
@click.option("--data", "data", required=True, help="Captioned images: FORMAT:PATH[,key=value]..., or a path.")
@click.option("--bundle", "bundles", multiple=True, help="A bundle, by name or folder; repeat it to compare. [default coop-small]")
@click.option("--systems", default="", help="Some of be,ce,sep-coop,joint-coop. [default all that the bundles offer]")
@click.option(
    "-k", "--k", "ks", default="10,20,50,100", show_default=True, help="Numbers of candidates that Coop reranks, a row for each."
)
@click.option("--split", default="test", show_default=True, help="Part of the data: train, dev or test.")
@click.option(
    "--language", default="", help="Languages of the captions, such as en or en+de, each evaluated on its own. [default all]"
)
@click.option(
    "--distractors",
    default="",
    help="More images for the pools, which are never right, in the form of --data. They need no captions.",
)
@click.option("--protocol", default="all", show_default=True, help="all: one pool; 5k, 1k: MSCOCO's (1k: 5 folds, averaged).")
@click.option(
    "--max-pairs",
    type=click.IntRange(min=0),
    default=2_000_000,
    show_default=True,
    help="Skip the exhaustive CE if a pool has more pairs.",
)
@click.option(
    "--cost-queries", type=click.IntRange(min=0), default=200, show_default=True, help="Queries whose time is measured; 0: none."
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of the bootstrap and of samples.")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), help="Write results.json and report.html here.")
@click.option("--json", "as_json", is_flag=True, help="Print the results as JSON instead of tables.")
@click.option("--models", help="What runs the bundles: onnx, onnx:cuda and the like, or triton://host:8001. [default onnx]")
@click.option("--threads", type=click.IntRange(min=0), help="Threads of the models in this process; 0: one per core.")
@with_settings()
def evaluate(
    settings: Settings,
    data: str,
    bundles: tuple[str, ...],
    distractors: str,
    out: Path | None,
    as_json: bool,
    **asked: Any,
) -> None:
    """Evaluate BE, CE and Coop on captioned images, through Milvus.

    Images and captions are ingested into new collections, in a temporary Milvus Lite unless --uri names another database. The
    collections are dropped afterwards. Coop reranks only the items that Milvus returned. The systems are the bi-encoder's order
    (be), the cross-encoder on every pair (ce), and Coop (joint-coop for a bundle of one model in both roles, sep-coop for a bundle
    of two models).

    \b
    Examples:
      milvus-coop eval --data captions.jsonl
      milvus-coop eval --data captions.jsonl --bundle coop-small --bundle runs/mine --out report/
      milvus-coop eval --data karpathy:dataset_coco.json --protocol 5k --systems be,joint-coop -k 20
    """
    from milvus_coop.cli.progress import evaluation_progress
    from milvus_coop.cli.tables import print_evaluation
    from milvus_coop.offline.datasets import open_dataset
    from milvus_coop.offline.evaluation import evaluate as run
    from milvus_coop.offline.evaluation.output import check_output, write_output

    options = _options(**asked)
    options.check()
    if out is not None:
        check_output(out)
    opened = open_dataset(data)
    others = open_dataset(distractors, may_lack_captions=True) if distractors else None
    own = Settings()
    with evaluation_progress(as_json) as on_progress:
        report = run(
            opened,
            bundles or (settings.bundle,),
            options,
            distractors=others,
            uri=None if settings.uri == own.uri else settings.uri,
            settings=settings,
            on_progress=on_progress,
        )
    files = write_output(report, out) if out is not None else ()
    if as_json:
        say_json(report.to_dict())
    else:
        print_evaluation(report)
    for file in files:
        say(f"Written: {file}", err=as_json)


def _options(
    *, systems: str, ks: str, split: str, language: str, protocol: str, max_pairs: int, cost_queries: int, seed: int
) -> EvaluationOptions:
    from milvus_coop.errors import InvalidArgumentError
    from milvus_coop.offline.evaluation import EvaluationOptions

    if wrong := [k for k in _split(ks) if not k.isascii() or not k.isdigit()]:
        raise InvalidArgumentError(f"--k holds '{wrong[0]}'", expected="whole numbers, such as 10,20,50,100")
    return EvaluationOptions(
        systems=_split(systems),
        ks=tuple(int(k) for k in _split(ks)),
        split=split,  # type: ignore[arg-type]
        languages=_split(language, "+"),
        protocol=protocol,  # type: ignore[arg-type]
        max_pairs=max_pairs,
        cost_queries=cost_queries,
        seed=seed,
    )
