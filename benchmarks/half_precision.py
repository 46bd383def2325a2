"""What half precision costs in quality: the held-out stamps with the packed graphs, and with the fp16 graphs that TensorRT gets.

    python benchmarks/half_precision.py --work build/coop-small         after `make model` or its step `fetch`; 3 minutes on 2 cores

Both go through Milvus Lite and `CoopSearch` as in `make eval-model`. There is no GPU in this: the fp16 graphs are run with every
half precision result rounded to it (`tests/plans/rounding.py`), which is what tensor cores do, with sums in single precision.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import click

sys.path.insert(0, str(Path(__file__).parents[1]))

from milvus_coop import Bundle, BundleSpec, load_bundle
from milvus_coop.backends.base import check_inputs, run_in_batches
from milvus_coop.export.materialise import materialise
from milvus_coop.training.coop_small.evaluate import evaluate_bundle
from milvus_coop.training.coop_small.workspace import Workspace
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
@click.option("--work", type=click.Path(path_type=Path, exists=True), default=Path("build/coop-small"), show_default=True)
def main(work: Path) -> None:
    bundle = load_bundle("coop-small")
    workspace = Workspace(work)
    with tempfile.TemporaryDirectory() as folder:
        for name, models in (
            ("packed graphs (int8 and fp16 weights, fp32 arithmetic)", None),
            ("fp16", RoundedBackend(bundle, Path(folder))),
        ):
            print(name)
            for line in evaluate_bundle(workspace, bundle.folder, models).lines():
                print(f"  {line}")


if __name__ == "__main__":
    main()
