"""Real inputs for every graph of the shipped bundle, and what its packed graphs make of them."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from milvus_coop.bundle import CROSS_ENCODER, IMAGE_ENCODER, TEXT_ENCODER, load_bundle
from milvus_coop.bundle.folder import TOKENIZER, Bundle
from milvus_coop.bundle.spec import IMAGE_TOKEN_SCALES, IMAGE_TOKENS
from milvus_coop.errors import PlanError
from milvus_coop.models.preprocess.images import decode, to_pixels
from milvus_coop.models.preprocess.texts import Tokenizer
from milvus_coop.models.tokens import quantise
from milvus_coop.offline.export.graphs import open_session, run_graph
from milvus_coop.serving.plans.compiler import Compiler
from milvus_coop.serving.plans.libraries import open_tensorrt_rtx
from milvus_coop.serving.plans.materialise import GraphPrecision, materialise
from milvus_coop.types import Array

EXAMPLES = Path(__file__).parent.parent.parent / "examples"
RTX = "tensorrt-rtx-cu12"

Outputs = dict[str, dict[str, Array]]
Plain = Callable[[str, GraphPrecision], Path]


@dataclass(frozen=True)
class Samples:
    """Inputs from examples/, and outputs of the packed graphs; `pairs` is every caption with every picture, captions first."""

    texts: dict[str, Array]
    pixels: Array
    pairs: dict[str, Array]
    outputs: Outputs


def make_pairs(bundle: Bundle, texts: dict[str, Array], outputs: Outputs) -> dict[str, Array]:
    """The cross-encoder's inputs for every caption with every picture."""
    tokens, scales = quantise(outputs[IMAGE_ENCODER][IMAGE_TOKENS])
    side = {**texts, **outputs[TEXT_ENCODER]}
    text, image = np.divmod(np.arange(len(texts["input_ids"]) * len(tokens)), len(tokens))
    pairs = {name: side[name][text] for name in bundle.spec.text_side}
    return {**pairs, IMAGE_TOKENS: tokens[image], IMAGE_TOKEN_SCALES: scales[image].astype(np.float32)}


@pytest.fixture(scope="session")
def bundle() -> Bundle:
    return load_bundle("coop-small")


@pytest.fixture(scope="session")
def samples(bundle: Bundle) -> Samples:
    def packed(graph: str) -> Path:
        return bundle.path(bundle.spec.graph(graph).file)

    texts = Tokenizer(bundle.path(TOKENIZER), bundle.spec.text)((EXAMPLES / "captions.txt").read_text().splitlines())
    pixels = np.stack([to_pixels(decode(path), bundle.spec.image) for path in sorted((EXAMPLES / "images").glob("*.jpg"))])
    outputs = {
        TEXT_ENCODER: run_graph(open_session(packed(TEXT_ENCODER)), texts),
        IMAGE_ENCODER: run_graph(open_session(packed(IMAGE_ENCODER)), {"pixel_values": pixels}),
    }
    pairs = make_pairs(bundle, texts, outputs)
    outputs[CROSS_ENCODER] = run_graph(open_session(packed(CROSS_ENCODER)), pairs)
    return Samples(texts, pixels, pairs, outputs)


@pytest.fixture(scope="session")
def plain(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Plain:
    """(graph, precision) -> its plain file, written once."""
    folder = tmp_path_factory.mktemp("plain")

    def write(graph: str, precision: GraphPrecision) -> Path:
        path: Path = folder / precision / f"{graph}.onnx"
        return path if path.exists() else materialise(bundle, graph, path, precision)

    return write


@pytest.fixture(scope="session")
def rtx() -> Compiler:
    """TensorRT-RTX. It must be there where the test environment asks for it; elsewhere the test is skipped, by name."""
    try:
        return open_tensorrt_rtx()
    except PlanError as exc:
        asked_for = any(RTX in requirement for requirement in importlib.metadata.requires("milvus-coop") or [])
        if asked_for and (platform.system(), platform.machine()) == ("Linux", "x86_64"):
            raise
        pytest.skip(str(exc))


def feeds_of(samples: Samples, graph: str) -> dict[str, Any]:
    return {TEXT_ENCODER: samples.texts, IMAGE_ENCODER: {"pixel_values": samples.pixels}, CROSS_ENCODER: samples.pairs}[graph]
