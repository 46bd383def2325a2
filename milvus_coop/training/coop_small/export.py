"""Write the bundle: three graphs, one weights file, the tokenizer, and the record that describes them."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from PIL import Image

from milvus_coop.bundle import BundleSpec, GraphSpec, TensorSpec, TokenSpec, load_bundle, write_record
from milvus_coop.export.graphs import to_onnx
from milvus_coop.export.parity import compare
from milvus_coop.export.sessions import open_session, run_graph
from milvus_coop.export.weights import Precision, pack_graphs
from milvus_coop.preprocess.images import to_pixels
from milvus_coop.preprocess.texts import Tokenizer
from milvus_coop.tokens import quantise
from milvus_coop.training.coop_small.backbone import image_spec
from milvus_coop.training.coop_small.cross_encoder import CrossEncoder
from milvus_coop.training.coop_small.layout import EMBEDDING_DIM, TOKEN_DIM, TOKENS
from milvus_coop.training.coop_small.text_features import TEXT_SPEC, tower_folder
from milvus_coop.training.coop_small.towers import ImageEncoder, TextEncoder
from milvus_coop.training.efficientnet_lite import Variant, input_size
from milvus_coop.training.minilm import sentence_length_axis
from milvus_coop.types import Array

WEIGHTS_FILE = "weights.bin"
_MAX_BATCH = {"text_encoder": 64, "image_encoder": 64, "cross_encoder": 256}
_KEEP_ELEMENTS = 4096  # smaller tensors stay float32
_INT8_ELEMENTS = 384 * 384


def bundle_graphs(variant: Variant) -> tuple[GraphSpec, ...]:
    """Names, shapes and dtypes of the three graphs."""
    size = input_size(variant)
    ids = (TensorSpec("input_ids", "int64", (-1,)), TensorSpec("attention_mask", "int64", (-1,)))
    embedding = TensorSpec("text_embedding", "float32", (EMBEDDING_DIM,))
    words = TensorSpec("text_tokens", "float32", (-1, TOKEN_DIM))
    pixels = TensorSpec("pixel_values", "uint8", (3, size, size))
    picture = (
        TensorSpec("image_embedding", "float32", (EMBEDDING_DIM,)),
        TensorSpec("image_tokens", "float32", (TOKENS, TOKEN_DIM)),
    )
    stored = (
        TensorSpec("image_tokens", "int8", (TOKENS, TOKEN_DIM)),
        TensorSpec("image_token_scales", "float32", (TOKENS,)),
    )
    probability = (TensorSpec("match_probability", "float32", ()),)
    return (
        _graph("text_encoder", ids, (embedding, words)),
        _graph("image_encoder", (pixels,), picture),
        _graph("cross_encoder", (embedding, words, ids[1], *stored), probability),
    )


def write_bundle(
    folder: Path,
    raw: Path,
    variant: Variant,
    models: tuple[TextEncoder, ImageEncoder, CrossEncoder],
    *,
    version: str,
    lineage: dict[str, Any],
) -> None:
    """Export the models and write every file of the bundle into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    graphs = _export(models, input_size(variant))
    for name in (*graphs, WEIGHTS_FILE, "tokenizer.json"):
        (folder / name).unlink(missing_ok=True)  # never write into a file that somebody may have linked or mapped
    pack_graphs(graphs.items(), folder, WEIGHTS_FILE, storage_policy)
    shutil.copyfile(tower_folder(raw) / "tokenizer.json", folder / "tokenizer.json")
    spec = BundleSpec(
        name="coop-small",
        version=version,
        kind="joint",
        dim=EMBEDDING_DIM,
        image=image_spec(variant),
        text=TEXT_SPEC,
        tokens=TokenSpec(TOKENS, TOKEN_DIM),
        graphs=bundle_graphs(variant),
        licence="Apache-2.0 (code and towers); see README.md for the training data",
        lineage=lineage,
    )
    write_record(folder, spec)


def _export(models: tuple[TextEncoder, ImageEncoder, CrossEncoder], size: int) -> dict[str, onnx.ModelProto]:
    """The three graphs in float32, by file name; the inputs here only show the exporter names, dtypes and ranks."""
    text_encoder, image_encoder, cross_encoder = models
    ids = torch.randint(1000, 2000, (2, 8))
    mask = torch.ones(2, 8, dtype=torch.int64)
    length = {1: sentence_length_axis()}
    stored = torch.zeros(2, TOKENS, TOKEN_DIM, dtype=torch.int8)
    return {
        "text_encoder.onnx": to_onnx(
            text_encoder,
            {"input_ids": ids, "attention_mask": mask},
            ["text_embedding", "text_tokens"],
            {"input_ids": length, "attention_mask": length},
        ),
        "image_encoder.onnx": to_onnx(
            image_encoder,
            {"pixel_values": torch.zeros(2, 3, size, size, dtype=torch.uint8)},
            ["image_embedding", "image_tokens"],
        ),
        "cross_encoder.onnx": to_onnx(
            cross_encoder,
            {
                "text_embedding": torch.zeros(2, EMBEDDING_DIM),
                "text_tokens": torch.zeros(2, 8, TOKEN_DIM),
                "attention_mask": mask,
                "image_tokens": stored,
                "image_token_scales": torch.ones(2, TOKENS),
            },
            ["match_probability"],
            {"text_tokens": length, "attention_mask": length},
        ),
    }


def check_bundle(
    folder: Path, pictures: Sequence[Image.Image], texts: Sequence[str], models: tuple[TextEncoder, ImageEncoder, CrossEncoder]
) -> dict[str, dict[str, float]]:
    """Largest difference and smallest cosine per output between the packed graphs and PyTorch in float32, on real inputs."""
    bundle = load_bundle(folder)
    sessions = {graph.name: open_session(bundle.path(graph.file)) for graph in bundle.spec.graphs}
    text_encoder, image_encoder, cross_encoder = models
    words = Tokenizer(bundle.path("tokenizer.json"), bundle.spec.text)(texts)
    pixels = {"pixel_values": np.stack([to_pixels(picture, bundle.spec.image) for picture in pictures])}
    found = compare(text_encoder, sessions["text_encoder"], words, ["text_embedding", "text_tokens"])
    found |= compare(image_encoder, sessions["image_encoder"], pixels, ["image_embedding", "image_tokens"])
    values, scales = quantise(run_graph(sessions["image_encoder"], pixels)["image_tokens"])
    pairs = {
        **run_graph(sessions["text_encoder"], words),
        "attention_mask": words["attention_mask"],
        "image_tokens": values,
        "image_token_scales": scales.astype(np.float32),
    }
    found |= compare(cross_encoder, sessions["cross_encoder"], pairs, ["match_probability"])
    return {name: asdict(difference) for name, difference in found.items()}


def time_pairs(folder: Path, pairs: int = 50, words: int = 10, rounds: int = 200) -> float:
    """Median time of the cross-encoder over some pairs in ms, on one thread."""
    bundle = load_bundle(folder)
    session = open_session(bundle.path(bundle.spec.graph("cross_encoder").file), threads=1)
    dice = np.random.default_rng(0)
    count, dim = bundle.spec.tokens.count, bundle.spec.tokens.dim
    feeds: dict[str, Array] = {
        "text_embedding": dice.normal(size=(pairs, EMBEDDING_DIM)).astype(np.float32),
        "text_tokens": dice.normal(size=(pairs, words, TOKEN_DIM)).astype(np.float32),
        "attention_mask": np.ones((pairs, words), np.int64),
        "image_tokens": dice.integers(-127, 128, (pairs, count, dim)).astype(np.int8),
        "image_token_scales": dice.random((pairs, count)).astype(np.float32) / 100,
    }
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        run_graph(session, feeds)
        times.append(time.perf_counter() - start)
    return 1000 * float(np.median(times))


def storage_policy(_name: str, values: Array) -> Precision:
    """int8 for large matrices (text tower, classifier, head), fp16 for convolutions, fp32 for what is small."""
    if values.size < _KEEP_ELEMENTS:
        return "fp32"
    return "int8" if values.ndim == 2 and values.size >= _INT8_ELEMENTS else "fp16"


def _graph(name: str, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]) -> GraphSpec:
    return GraphSpec(name, f"{name}.onnx", inputs, outputs, _MAX_BATCH[name])
