"""The loss of quality by half precision: a bundle with its packed graphs, and with the fp16 graphs that TensorRT gets.

    python benchmarks/half_precision.py --data captions.jsonl          captioned images of your own, as for `milvus-coop eval`
    python benchmarks/half_precision.py --data captions.jsonl --bundle my-bundle --k 50

Both are evaluated through Milvus Lite and `CoopSearch`, as in `milvus-coop eval`. No GPU is used. The fp16 graphs run with every
half precision result rounded to half precision (`tests/plans/rounding.py`) and sums in single precision, as on tensor cores.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import click

sys.path.insert(0, str(Path(__file__).parents[1]))

from milvus_coop import Bundle, BundleSpec, load_bundle
from milvus_coop.cli.tables import print_evaluation
from milvus_coop.models.backends.base import check_inputs, run_in_batches
from milvus_coop.offline.datasets import open_dataset
from milvus_coop.offline.evaluation import BundleChoice, EvaluationOptions, evaluate
from milvus_coop.serving.plans.materialise import materialise
from milvus_coop.types import Array
from tests.plans.rounding import run_rounded


class RoundedBackend:
    """Runs a bundle's fp16 graphs with every half precision result rounded."""

    def __init__(self, bundle: Bundle, folder: Path) -> None:
        self._bundle = bundle
        self._graphs = {g.name: materialise(bundle, g.name, folder / f"{g.name}.onnx", "fp16") for g in bundle.spec.graphs}

    @property
    def spec(self) -> BundleSpec:
        return self._bundle.spec

    def run(self, graph: str, inputs: Mapping[str, Array], *, timeout_s: float | None = None) -> dict[str, Array]:
        spec = self.spec.graph(graph)
        return run_in_batches(spec, inputs, check_inputs(spec, inputs), lambda part: run_rounded(self._graphs[graph], part))

    def load(self, graphs: Sequence[str]) -> None:
        pass

    def close(self) -> None:
        pass


@click.command()
@click.option("--data", required=True, help="Captioned images: FORMAT:PATH[,key=value]..., or a path.")
@click.option("--split", type=click.Choice(["train", "dev", "test"]), default="test", show_default=True)
@click.option("--bundle", "name", default="coop-small", show_default=True, help="A bundle, by name or folder.")
@click.option("--k", type=click.IntRange(min=1), default=20, show_default=True, help="Candidates that the cross-encoder reranks.")
def main(data: str, split: str, name: str, k: int) -> None:
    bundle = load_bundle(name)
    coop = "joint-coop" if bundle.spec.kind == "joint" else "sep-coop"
    options = EvaluationOptions(systems=("be", coop), ks=(k,), split=split, cost_queries=0, gallery=0)  # type: ignore[arg-type]
    with tempfile.TemporaryDirectory() as folder:
        rounded = BundleChoice(bundle.folder, RoundedBackend(bundle, Path(folder)), name="fp16")
        packed = BundleChoice(bundle.folder, name="packed")
        print_evaluation(evaluate(open_dataset(data), [packed, rounded], options))


if __name__ == "__main__":
    main()
