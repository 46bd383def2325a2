"""Models whose weights stay in their files: the memory they take, their results, and what becomes of their marks in a graph."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import Qwen3VLForConditionalGeneration, Qwen3VLModel

from milvus_coop.errors import ConvertError
from milvus_coop.offline.convert.checkpoint import open_checkpoint
from milvus_coop.offline.convert.families.qwen3_vl import opened
from milvus_coop.offline.convert.streaming import find_stored, read_stored, rows_of
from milvus_coop.offline.export.graphs import open_session, run_graph, to_onnx
from milvus_coop.offline.export.weights import pack_graphs
from tests.convert.checkpoints import qwen3_vl

IDS = torch.tensor([[5, 3, 9, 2]])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return qwen3_vl(tmp_path_factory.mktemp("streamed") / "model", dtype=torch.bfloat16)


def bytes_held(model: nn.Module) -> int:
    return sum({p.untyped_storage().data_ptr(): p.untyped_storage().nbytes() for p in model.parameters()}.values())


def stored_bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))


@pytest.mark.parametrize("kind", [Qwen3VLModel, Qwen3VLForConditionalGeneration])
def test_it_computes_what_the_whole_model_computes(folder: Path, kind: Any) -> None:
    checkpoint = open_checkpoint(folder)
    model, whole = opened(checkpoint, kind), checkpoint.model(kind)
    before = bytes_held(model)
    with torch.no_grad():
        found, wanted = model(input_ids=IDS)[0], whole(input_ids=IDS)[0]
    assert found.dtype == torch.float32
    assert torch.allclose(found, wanted, atol=1e-5)
    assert found.std() > 0.01
    assert bytes_held(model) == before < 0.5 * bytes_held(whole)


def test_rows_are_read_alone(folder: Path) -> None:
    checkpoint = open_checkpoint(folder)
    table = opened(checkpoint, Qwen3VLModel).language_model.embed_tokens.weight
    whole = checkpoint.model(Qwen3VLModel).language_model.embed_tokens.weight
    assert torch.equal(rows_of(table, [7, 3]), whole[[7, 3]])
    assert rows_of(table, []).shape == (0, whole.shape[1])


def test_what_a_checkpoint_lacks(folder: Path, tmp_path: Path) -> None:
    name = "model.language_model.layers.1.mlp.up_proj.weight"
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    for change, weights in (("lacks", {}), ("has another shape", {name: torch.zeros(3, 3)})):
        rest = {key: value for key, value in load_file(folder / "model.safetensors").items() if key != name}
        save_file(rest | weights, tmp_path / "model.safetensors")
        with pytest.raises(ConvertError, match=r"lacks 1 weights of a Qwen3VLModel, such as language_model\.layers\.1"):
            opened(open_checkpoint(tmp_path), Qwen3VLModel)
        assert change
    (tmp_path / "model.safetensors").write_bytes(b"\0" * 100)
    with pytest.raises(ConvertError, match="cannot be loaded"):
        opened(open_checkpoint(tmp_path), Qwen3VLModel)


class Both(nn.Module):
    """A square matrix as a table and as a product, which the exporter transposes."""

    def __init__(self, language: Any) -> None:
        super().__init__()
        self.table, self.attention = language.embed_tokens, language.layers[0].self_attn
        self.feed = language.layers[0].mlp

    def forward(self, ids: Tensor) -> Tensor:
        states: Tensor = self.feed(self.attention.o_proj(self.attention.q_proj(self.table(ids))))
        return states


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_marks_become_weights(folder: Path, tmp_path: Path, precision: Any) -> None:
    checkpoint = open_checkpoint(folder)
    module, whole = (
        Both(model.language_model).eval() for model in (opened(checkpoint, Qwen3VLModel), checkpoint.model(Qwen3VLModel))
    )
    ids = torch.tensor([[1, 2, 3], [4, 5, 6]])
    model = to_onnx(module, {"ids": ids}, ["states"], stored=find_stored)
    outside = [tensor for tensor in model.graph.initializer if tensor.data_location == onnx.TensorProto.EXTERNAL]
    assert len(outside) == 6
    assert len(model.SerializeToString()) < 0.1 * stored_bytes(folder)
    pack_graphs([("graph.onnx", model)], tmp_path, "weights.bin", lambda *_: precision, read_stored)
    found = run_graph(open_session(tmp_path / "graph.onnx"), {"ids": ids.numpy()})["states"]
    with torch.no_grad():
        wanted = whole(ids).numpy()
    assert np.abs(found - wanted).max() < {"fp32": 1e-5, "fp16": 1e-3}[precision] * np.abs(wanted).max()
