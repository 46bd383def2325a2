"""Write the multilingual bundle: the base bundle with another text encoder and another tokenizer."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import onnx
import torch
from onnx import ModelProto
from tokenizers import Tokenizer as PieceTokenizer

from milvus_coop.bundle import TEXT_ENCODER, Bundle, TextSpec, load_bundle, write_record
from milvus_coop.export.graphs import to_onnx
from milvus_coop.export.materialise import read_weights
from milvus_coop.export.parity import compare
from milvus_coop.export.sessions import open_session
from milvus_coop.export.weights import Precision, pack_graphs
from milvus_coop.preprocess.texts import Tokenizer
from milvus_coop.training.coop_small.export import WEIGHTS_FILE, storage_policy
from milvus_coop.training.coop_small_multilingual.student import Student
from milvus_coop.types import Array

NAME = "coop-small-multilingual"
TEXT_SPEC = TextSpec(max_length=64)


def write_bundle(folder: Path, base: Bundle, student: Student, tokenizer: PieceTokenizer, lineage: dict[str, Any]) -> Bundle:
    """Write every file of the bundle into `folder`.

    The other graphs are the base bundle's, weight for weight: a picture gets the same embedding and the same tokens.
    """
    folder.mkdir(parents=True, exist_ok=True)
    models = {
        graph.file: _packed(base, graph.file) if graph.name != TEXT_ENCODER else _export(student) for graph in base.spec.graphs
    }
    for name in (*models, WEIGHTS_FILE, "tokenizer.json"):
        (folder / name).unlink(missing_ok=True)
    text_file = base.spec.graph(TEXT_ENCODER).file
    own = {tensor.name for tensor in models[text_file].graph.initializer}
    own -= {tensor.name for file, model in models.items() if file != text_file for tensor in model.graph.initializer}

    def policy(name: str, values: Array) -> Precision:
        return storage_policy(name, values) if name in own else "fp32"  # the base's weights are small already

    pack_graphs(models.items(), folder, WEIGHTS_FILE, policy)
    tokenizer.save(str(folder / "tokenizer.json"))
    lineage = {**lineage, "base": base.spec.label, "base_fingerprint": base.spec.fingerprint}
    spec = dataclasses.replace(base.spec, name=NAME, text=TEXT_SPEC, lineage=lineage, metrics={}, files={})
    return write_record(folder, spec)


def _packed(bundle: Bundle, file: str) -> ModelProto:
    """A graph as it is packed, with its weights inside."""
    model = onnx.load(str(bundle.path(file)), load_external_data=False)
    read_weights(model, bundle)
    return model


def check_bundle(folder: Path, student: Student, texts: Sequence[str]) -> dict[str, dict[str, float]]:
    """Largest difference and smallest cosine per output between the packed text encoder and PyTorch."""
    bundle = load_bundle(folder)
    graph = bundle.spec.graph(TEXT_ENCODER)
    feeds = Tokenizer(bundle.path("tokenizer.json"), bundle.spec.text)(texts)
    found = compare(student, open_session(bundle.path(graph.file)), feeds, [output.name for output in graph.outputs])
    return {name: asdict(difference) for name, difference in found.items()}


def _export(student: Student) -> ModelProto:
    ids = torch.randint(3, 100, (2, 8))
    length = {1: torch.export.Dim("length", min=2, max=TEXT_SPEC.max_length)}
    student.pieces.sparse = student.weights.sparse = False
    return to_onnx(
        student,
        {"input_ids": ids, "attention_mask": torch.ones_like(ids)},
        ["text_embedding", "text_tokens"],
        {"input_ids": length, "attention_mask": length},
    )
