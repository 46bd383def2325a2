"""Write the bundle (three graphs, one weights file, the tokenizer and the record) and compare it with PyTorch."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from milvus_coop.bundle import BundleSpec, GraphSpec, TensorSpec, TokenSpec, load_bundle, write_record
from milvus_coop.models.preprocess.images import decode, to_pixels
from milvus_coop.models.preprocess.texts import Tokenizer
from milvus_coop.models.tokens import quantise
from milvus_coop.offline.export.graphs import open_session, run_graph, to_onnx
from milvus_coop.offline.export.parity import compare
from milvus_coop.offline.export.weights import Precision, pack_graphs
from milvus_coop.offline.training.networks.transformer import token_length_axis
from milvus_coop.types import Array
from recipes.coop_small.backbone import IMAGE_SPEC, SIZE
from recipes.coop_small.cross_encoder import EMBEDDING, TOKENS
from recipes.coop_small.hubs import EXTRA
from recipes.coop_small.networks import Networks
from recipes.coop_small.texts import TEXT_SPEC, tower_folder
from recipes.coop_small.towers import WORD_DIM

VERSION = "2.0.1"
LICENCE = "Apache-2.0 (code and towers); see README.md for the training data"
_DIM = EMBEDDING + EXTRA
_WEIGHTS_FILE = "weights.bin"
_SMALL = 4096
"""Tensors of fewer elements stay float32."""
_IDS = (TensorSpec("input_ids", "int64", (-1,)), TensorSpec("attention_mask", "int64", (-1,)))
_TEXT = (TensorSpec("text_embedding", "float32", (_DIM,)), TensorSpec("text_tokens", "float32", (-1, WORD_DIM)))
_STORED = (
    TensorSpec("image_tokens", "int8", (TOKENS, WORD_DIM)),
    TensorSpec("image_token_scales", "float32", (TOKENS,)),
)
GRAPHS = (
    GraphSpec("text_encoder", "text_encoder.onnx", _IDS, _TEXT, 64),
    GraphSpec(
        "image_encoder",
        "image_encoder.onnx",
        (TensorSpec("pixel_values", "uint8", (3, SIZE, SIZE)),),
        (TensorSpec("image_embedding", "float32", (_DIM,)), TensorSpec("image_tokens", "float32", (TOKENS, WORD_DIM))),
        64,
    ),
    GraphSpec(
        "cross_encoder",
        "cross_encoder.onnx",
        (*_TEXT, _IDS[1], *_STORED),
        (TensorSpec("match_probability", "float32", ()),),
        256,
    ),
)


def write_bundle(folder: Path, raw: Path, networks: Networks, *, lineage: Mapping[str, Any]) -> None:
    """Export the networks and write every file of the bundle but its card into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    models = zip(networks._fields, networks, strict=True)
    graphs = {f"{name}.onnx": to_onnx(model, *_example(name)) for name, model in models}
    for name in (*graphs, _WEIGHTS_FILE, "tokenizer.json"):
        (folder / name).unlink(missing_ok=True)  # never write into a file that somebody may have linked or mapped
    pack_graphs(graphs.items(), folder, _WEIGHTS_FILE, storage)
    shutil.copyfile(tower_folder(raw) / "tokenizer.json", folder / "tokenizer.json")
    spec = BundleSpec(
        name="coop-small",
        version=VERSION,
        kind="joint",
        dim=_DIM,
        image=IMAGE_SPEC,
        text=TEXT_SPEC,
        tokens=TokenSpec(TOKENS, WORD_DIM),
        graphs=GRAPHS,
        licence=LICENCE,
        lineage=lineage,
    )
    write_record(folder, spec)


def storage(_name: str, values: Array) -> Precision:
    """int8 for matrices and 1 x 1 convolutions, fp16 for other convolutions, fp32 for what is small."""
    if values.size < _SMALL:
        return "fp32"
    return "int8" if values.ndim == 2 or values.shape[2:] == (1, 1) else "fp16"


def _example(name: str) -> tuple[dict[str, torch.Tensor], list[str], dict[str, dict[int, object]]]:
    """Inputs that show the exporter names, dtypes and ranks; output names; and the axis of words."""
    [graph] = [graph for graph in GRAPHS if graph.name == name]
    words = 8
    inputs: dict[str, torch.Tensor] = {}
    axes: dict[str, dict[int, object]] = {}
    for tensor in graph.inputs:
        shape = [words if size == -1 else size for size in tensor.shape]
        inputs[tensor.name] = torch.ones(2, *shape, dtype=getattr(torch, tensor.dtype))
        if -1 in tensor.shape:
            axes[tensor.name] = {1: token_length_axis(64)}
    if len(axes) > 1:
        shared = token_length_axis(64)
        axes = {name: {1: shared} for name in axes}
    return inputs, [tensor.name for tensor in graph.outputs], axes


def check_bundle(folder: Path, images: Sequence[Path], texts: Sequence[str], networks: Networks) -> dict[str, dict[str, float]]:
    """Largest difference and smallest cosine per output between the packed graphs and PyTorch in float32, on real inputs."""
    bundle = load_bundle(folder)
    sessions = {graph.name: open_session(bundle.path(graph.file)) for graph in bundle.spec.graphs}
    words = Tokenizer(bundle.path("tokenizer.json"), bundle.spec.text)(texts)
    decoded = [decode(path, at_least=SIZE, background=IMAGE_SPEC.background) for path in images]
    pixels = {"pixel_values": np.stack([to_pixels(image, bundle.spec.image) for image in decoded])}
    found = compare(networks.text_encoder, sessions["text_encoder"], words, ["text_embedding", "text_tokens"])
    found |= compare(networks.image_encoder, sessions["image_encoder"], pixels, ["image_embedding", "image_tokens"])
    values, scales = quantise(run_graph(sessions["image_encoder"], pixels)["image_tokens"])
    pairs = {
        **run_graph(sessions["text_encoder"], words),
        "attention_mask": words["attention_mask"],
        "image_tokens": values,
        "image_token_scales": scales.astype(np.float32),
    }
    found |= compare(networks.cross_encoder, sessions["cross_encoder"], pairs, ["match_probability"])
    return {name: asdict(difference) for name, difference in found.items()}


def time_pairs(folder: Path, pairs: int = 50, words: int = 16, rounds: int = 200) -> float:
    """Median time of the cross-encoder over some pairs in ms, on one thread."""
    bundle = load_bundle(folder)
    session = open_session(bundle.path(bundle.spec.graph("cross_encoder").file), threads=1)
    dice = np.random.default_rng(0)
    feeds: dict[str, Array] = {
        "text_embedding": dice.normal(size=(pairs, _DIM)).astype(np.float32),
        "text_tokens": dice.normal(size=(pairs, words, WORD_DIM)).astype(np.float32),
        "attention_mask": np.ones((pairs, words), np.int64),
        "image_tokens": dice.integers(-127, 128, (pairs, TOKENS, WORD_DIM)).astype(np.int8),
        "image_token_scales": dice.random((pairs, TOKENS)).astype(np.float32) / 100,
    }
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        run_graph(session, feeds)
        times.append(time.perf_counter() - start)
    return 1000 * float(np.median(times))
