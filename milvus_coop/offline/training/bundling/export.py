"""The function `export_run`: it makes a bundle of one run (joint) or of two (separate bi-encoder and cross-encoder)."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch

from milvus_coop.bundle import Bundle, BundleSpec, TensorSpec, write_record
from milvus_coop.bundle.folder import TOKENIZER, WEIGHTS, check_new_bundle
from milvus_coop.bundle.spec import CROSS_ENCODER, IMAGE_ENCODER, TEXT_ENCODER, ImageSpec
from milvus_coop.errors import DatasetError, ImageError, TrainingError
from milvus_coop.models.preprocess.texts import Tokenizer
from milvus_coop.models.tokens import quantise
from milvus_coop.offline.datasets import Dataset, open_dataset
from milvus_coop.offline.export.graphs import open_session, run_graph, to_onnx
from milvus_coop.offline.export.parity import Difference, compare
from milvus_coop.offline.export.weights import Precision, pack_graphs
from milvus_coop.offline.training.bundling.record import lineage_of, make_spec
from milvus_coop.offline.training.bundling.roles import CrossEncoderGraph, ImageEncoderGraph, TextEncoderGraph
from milvus_coop.offline.training.data.features import vision_key
from milvus_coop.offline.training.data.visuals import item_pixels
from milvus_coop.offline.training.networks.one_stream import OneStream
from milvus_coop.offline.training.networks.transformer import token_length_axis
from milvus_coop.offline.training.run.folder import NETWORK, RunFolder, load_network
from milvus_coop.types import Array

LARGEST_DIFFERENCE: dict[Precision, float] = {"fp32": 1e-3, "fp16": 2e-2, "int8": 2e-1}
"""Maximum difference of a graph's outputs, at most 1 in size, from PyTorch, by the precision of its weights."""
SAMPLES = 16
_SMALL = 4096  # smaller tensors stay float32


@dataclass(frozen=True)
class Exported:
    """A bundle, and the differences of its graphs from PyTorch."""

    bundle: Bundle
    differences: dict[str, Difference]
    """The difference of each output over real images and captions."""


def export_run(
    run: str | Path,
    out: str | Path,
    *,
    cross_encoder: str | Path | None = None,
    name: str | None = None,
    version: str = "1.0.0",
    precision: Precision = "fp16",
    data: str | Dataset | None = None,
    keep_checkpoint: bool = True,
    licence: str = "",
) -> Exported:
    """Write a bundle from the best checkpoint of a run.

    Args:
        run: the folder of a joint run, or of the bi-encoder's run.
        out: the bundle's folder. It must not exist.
        cross_encoder: the cross-encoder's run, for a separate model.
        name: the name of the bundle; by default the folder's name.
        version: the version of the bundle.
        precision: the precision in which weights are stored. The graphs compute in float32 in any case.
        data: the source of images and captions for the comparison; by default the run's own data.
        keep_checkpoint: true to put the checkpoint into `training/`, for `--init`. It is not needed to search.
        licence: the licence in the record.

    Raises:
        TrainingError: the runs do not fit together, lack a role, or the graphs differ from PyTorch. Nothing is written then.
        DatasetError: the data cannot be opened.
    """
    target = Path(out)
    name = name or target.name
    check_new_bundle(target, name, TrainingError)
    retriever, tokenizer = _checked(run, ("be", "joint") if cross_encoder else ("joint",))
    matcher = retriever if cross_encoder is None else _partner(retriever, tokenizer, cross_encoder)
    spec = make_spec(name, version, retriever, matcher, licence, lineage_of(run, cross_encoder))
    samples = _samples(open_dataset(RunFolder(Path(run)).config().data) if data is None else _opened(data), spec.image)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".export-") as temporary:
        folder = Path(temporary) / "bundle"
        folder.mkdir()
        shutil.copyfile(tokenizer, folder / TOKENIZER)
        models = _modules(retriever, matcher)
        pack_graphs(_graphs(models, spec).items(), folder, WEIGHTS, _policy(precision))
        bundle = write_record(folder, spec)
        differences = _differences(models, bundle, *samples)
        _refuse(differences, LARGEST_DIFFERENCE[precision])
        if keep_checkpoint:
            _copy_checkpoint(Path(run), folder / "training")
        folder.rename(target)
    return Exported(Bundle(target, bundle.spec), differences)


def _checked(run: str | Path, roles: Sequence[str]) -> tuple[OneStream, Path]:
    objective = RunFolder(Path(run)).config().objective
    if objective not in roles:
        hint = "milvus-coop export BE_RUN --ce CE_RUN --out DIR"
        raise TrainingError(f"{run} trained a {objective}", expected=f"a run of {' or '.join(roles)}", run=hint)
    network, tokenizer = load_network(run)
    for name, value in network.named_parameters():
        if not value.isfinite().all():
            raise TrainingError(f"{name} in the checkpoint of {run} has values that are not numbers", run="a lower --learning-rate")
    return network, tokenizer


def _partner(retriever: OneStream, tokenizer: Path, run: str | Path) -> OneStream:
    """The cross-encoder's network, after a check that both networks read the same token ids and pixels."""
    matcher, other = _checked(run, ("ce", "joint"))
    if other.read_bytes() != tokenizer.read_bytes():
        raise TrainingError(
            "the two runs have different tokenizers", expected="one tokenizer", run="train the ce with --init BE_RUN"
        )
    if matcher.config.vision.image != retriever.config.vision.image:
        raise TrainingError("the two runs read images of different sizes or colours", expected="the same preprocessing")
    return matcher


def _opened(data: str | Dataset) -> Dataset:
    return open_dataset(data) if isinstance(data, str) else data


def _samples(data: Dataset, spec: ImageSpec) -> tuple[Array, list[str]]:
    """Pixels and captions of a few real items, from the dev split if there is one."""
    pixels: list[Array] = []
    captions: list[str] = []
    for item in data.items("dev") or data.items("test") or data.items("train"):
        if len(pixels) == SAMPLES:
            break
        with suppress(ImageError):  # training has reported it
            pixels.append(item_pixels(data, item, spec))
            captions.append(item.captions[0].text)
    if len(pixels) < 2:
        raise DatasetError(
            f"{data.name} has {len(pixels)} usable items", expected="at least 2, to compare the graphs with PyTorch on"
        )
    return np.stack(pixels), captions


Modules = dict[str, torch.nn.Module]


def _modules(retriever: OneStream, matcher: OneStream) -> Modules:
    ours, theirs = retriever.vision, matcher.vision
    shared = ours is not None and theirs is not None and vision_key(ours) == vision_key(theirs)
    return {
        TEXT_ENCODER: TextEncoderGraph(retriever),
        IMAGE_ENCODER: ImageEncoderGraph(retriever, matcher, shared_vision=shared),
        CROSS_ENCODER: CrossEncoderGraph(matcher),
    }


def _graphs(models: Modules, spec: BundleSpec) -> dict[str, onnx.ModelProto]:
    """The graphs, exported in float32. The example inputs only show names, dtypes and ranks."""
    graphs = {}
    axis = {1: token_length_axis(spec.text.max_length)}
    for graph in spec.graphs:
        examples = {t.name: _example(t) for t in graph.inputs}
        dynamic = {t.name: axis for t in graph.inputs if t.shape == (-1,)}
        graphs[graph.file] = to_onnx(models[graph.name], examples, [t.name for t in graph.outputs], dynamic)
    return graphs


def _example(tensor: TensorSpec) -> torch.Tensor:
    shape = (2, *(8 if n == -1 else n for n in tensor.shape))
    return torch.ones(shape, dtype=getattr(torch, tensor.dtype))


def _policy(precision: Precision) -> Callable[[str, Array], Precision]:
    """The precision of each initialiser: large matrices as asked; convolutions and vectors, which int8 suits less, at best fp16."""

    def policy(_name: str, values: Array) -> Precision:
        if values.size < _SMALL or precision == "fp32":
            return "fp32"
        return "fp16" if values.ndim != 2 else precision

    return policy


def _differences(models: Modules, bundle: Bundle, samples: Array, captions: Sequence[str]) -> dict[str, Difference]:
    """The differences of the graphs from PyTorch on real inputs. The graphs are called in batches, as in use."""
    spec = bundle.spec
    sessions = {graph.name: open_session(bundle.path(graph.file)) for graph in spec.graphs}
    words = Tokenizer(bundle.path(TOKENIZER), spec.text)(captions)
    pixels = {"pixel_values": samples}
    found = compare(models[TEXT_ENCODER], sessions[TEXT_ENCODER], words, ["text_embedding"])
    found |= compare(models[IMAGE_ENCODER], sessions[IMAGE_ENCODER], pixels, ["image_embedding", "image_tokens"])
    values, scales = quantise(run_graph(sessions[IMAGE_ENCODER], pixels)["image_tokens"])
    pairs = {**words, "image_tokens": values, "image_token_scales": scales.astype(np.float32)}
    return found | compare(models[CROSS_ENCODER], sessions[CROSS_ENCODER], pairs, ["match_probability"])


def _refuse(differences: dict[str, Difference], limit: float) -> None:
    for output, difference in differences.items():
        if not difference.largest <= limit:  # also NaN
            raise TrainingError(
                f"the graph's {output} differs from PyTorch by {difference.largest:.2g}",
                expected=f"at most {limit:g}",
                run="--precision fp32",
            )


def _copy_checkpoint(run: Path, folder: Path) -> None:
    (folder / "best").mkdir(parents=True)
    shutil.copyfile(run / "best" / NETWORK, folder / "best" / NETWORK)
    for name in ("network.json", "tokenizer.json"):
        shutil.copyfile(run / name, folder / name)
    if (run / "vision").is_dir():
        shutil.copytree(run / "vision", folder / "vision")
