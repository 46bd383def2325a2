"""Packing and exporting: small files, the same numbers, nothing shared between batch mates."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto
from torch import nn

from milvus_coop.offline.export.graphs import open_session, run_graph, to_onnx
from milvus_coop.offline.export.parity import compare, difference
from milvus_coop.offline.export.weights import Precision, pack_graphs, quantise_in_groups
from milvus_coop.offline.training.networks.transformer import token_length_axis
from recipes.coop_small.minilm import MiniLM

SAME = 1e-5  # one float32 rounding step of a sum over 384 products


class _TwoLayers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(100, 64)
        self.first = nn.Linear(64, 48)
        self.shared = nn.Linear(48, 48)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """int64 (B, 3) -> (B, 48)."""
        hidden = torch.relu(self.first(self.table(ids).mean(1)))
        result: torch.Tensor = self.shared(hidden)
        return result


class _Positions(nn.Module):
    """Learned positions that are looked up with constant numbers, as CLIP does it, and a vector that is added to them."""

    def __init__(self) -> None:
        super().__init__()
        self.positions = nn.Embedding(700, 400)
        self.kind = nn.Parameter(torch.randn(1, 400))
        self.numbers = nn.Buffer(torch.arange(700), persistent=False)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """(B, 700, 400) -> the same."""
        result: torch.Tensor = states + (self.positions(self.numbers) + self.kind)
        return result


def test_large_positions_are_folded() -> None:
    module, states = _Positions().eval(), torch.randn(2, 700, 400)
    model = to_onnx(module, {"states": states}, ["result"])
    assert {node.op_type for node in model.graph.node} == {"Add"}, "a bundle may not compute with weights alone"
    [result] = compare(module, open_session(model), {"states": states.numpy()}, ["result"]).values()
    assert result.largest < SAME


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> tuple[_TwoLayers, Path]:
    """The same module twice in one folder, int8."""
    torch.manual_seed(0)
    module, folder = _TwoLayers().eval(), tmp_path_factory.mktemp("packed")
    example = {"ids": torch.zeros(2, 3, dtype=torch.int64)}
    models = {f"{name}.onnx": to_onnx(module, example, ["result"]) for name in "ab"}
    pack_graphs(models.items(), folder, "weights.bin", lambda _, values: "int8" if values.size > 1000 else "fp32")
    return module, folder


def test_packed_graph_agrees_with_the_module(packed: tuple[_TwoLayers, Path]) -> None:
    module, folder = packed
    feeds = {"ids": np.random.default_rng(0).integers(0, 100, (5, 3))}
    [result] = compare(module, open_session(folder / "a.onnx"), feeds, ["result"]).values()
    assert result.smallest_cosine > 0.999
    assert result.largest < 0.02


@pytest.mark.parametrize(("precision", "small"), [("int8", TensorProto.INT8), ("fp16", TensorProto.FLOAT16)])
def test_rows_are_looked_up_before_they_become_float(tmp_path: Path, precision: Precision, small: int) -> None:
    """So a table of words does not take four times its bytes in memory."""

    class Words(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.tied = nn.Embedding(100, 128), nn.Embedding(90, 128)

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            result: torch.Tensor = (self.table(ids) + self.tied(ids)) @ self.tied.weight.T  # this one is read whole
            return result

    module, ids = Words().eval(), np.random.default_rng(0).integers(0, 90, (3, 4, 5))
    model = to_onnx(module, {"ids": torch.zeros(2, 4, 5, dtype=torch.int64)}, ["result"])
    pack_graphs([("whole.onnx", onnx.ModelProto.FromString(model.SerializeToString()))], tmp_path, "w.bin", lambda *_: "fp32")
    pack_graphs([("small.onnx", model)], tmp_path, "weights.bin", lambda _, values: precision if values.size > 1000 else "fp32")
    graph = onnx.load(str(tmp_path / "small.onnx"), load_external_data=False).graph
    onnx.checker.check_model(str(tmp_path / "small.onnx"), full_check=True)
    types = {tensor.name: tensor.data_type for tensor in graph.initializer}
    assert types["table.weight.int8" if precision == "int8" else "table.weight.half"] == small
    read = {node.input[0]: node.output[0] for node in graph.node if node.op_type == "Gather"}
    assert len([name for name in read if name in types]) == (2 if precision == "int8" else 1)
    whole, found = (run_graph(open_session(tmp_path / name), {"ids": ids})["result"] for name in ("whole.onnx", "small.onnx"))
    assert found.shape == (3, 4, 5, 90)
    np.testing.assert_allclose(found, whole, atol=0.03 * np.abs(whole).max())


def test_equal_weights_are_stored_once(packed: tuple[_TwoLayers, Path]) -> None:
    _, folder = packed
    elements = 100 * 64 + 64 * 48 + 48 * 48
    assert elements <= (folder / "weights.bin").stat().st_size <= 1.2 * elements
    for name in "ab":
        onnx.checker.check_model(str(folder / f"{name}.onnx"))


def test_only_standard_operators(packed: tuple[_TwoLayers, Path]) -> None:
    _, folder = packed
    model = onnx.load(str(folder / "a.onnx"), load_external_data=False)
    assert {opset.domain for opset in model.opset_import} <= {"", "ai.onnx"}
    assert not {"QuantizeLinear", "DequantizeLinear"} & {node.op_type for node in model.graph.node}


@pytest.mark.parametrize("shape", [(6, 9), (5, 128), (128, 5)])
@pytest.mark.parametrize("axis", [0, 1])
def test_quantisation_in_groups_is_off_by_half_a_step(shape: tuple[int, int], axis: int) -> None:
    values = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    values[2] = 0
    small, scales = quantise_in_groups(values, axis)
    steps = np.broadcast_to(scales, small.shape).reshape(shape)
    assert (np.abs((small * scales).reshape(shape) - values) <= steps / 2 + 1e-7).all()


def test_one_tensor_given_twice_stays_two_inputs() -> None:
    class Sum(nn.Module):
        def forward(self, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
            return left + 2 * right

    same = torch.zeros(2, 3)
    session = open_session(to_onnx(Sum(), {"left": same, "right": same}, ["result"]))
    result = run_graph(session, {"left": np.ones((1, 3), np.float32), "right": np.zeros((1, 3), np.float32)})["result"]
    assert result.tolist() == [[1.0, 1.0, 1.0]]


def test_what_is_made_of_weights_alone_is_computed() -> None:
    """Position embeddings of CLIP, SigLIP: the exporter leaves large ones as a lookup, which `check_graph` refuses."""

    class Positions(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.start = nn.Parameter(torch.ones(1, 1, 64))
            self.table, self.ids = nn.Embedding(200, 64), nn.Buffer(torch.arange(199, -1, -1)[None])

        def forward(self, states: torch.Tensor) -> torch.Tensor:
            first = self.start + self.table.weight[None, :1]  # as ViLT, in two nodes
            result: torch.Tensor = states + self.table(self.ids) * first
            return result

    module, states = Positions().eval(), torch.ones(2, 200, 64)
    model = to_onnx(module, {"states": states}, ["result"])
    assert [node.op_type for node in model.graph.node][-1:] == ["Add"]
    assert not {"Gather", "Slice"} & {node.op_type for node in model.graph.node}
    assert all(tensor.dims[0] == 1 for tensor in model.graph.initializer)
    found = run_graph(open_session(model), {"states": states.numpy()})["result"]
    np.testing.assert_allclose(found, module(states).detach().numpy(), atol=1e-6)


def test_difference_finds_the_worst_row() -> None:
    found = difference(np.array([[1.0, 0.0], [0.0, 2.0]]), np.array([[1.0, 0.0], [0.0, -2.0]]))
    assert (found.largest, found.smallest_cosine) == (4.0, -1.0)


def test_minilm_export_ignores_padding_and_batch_mates() -> None:
    torch.manual_seed(0)
    module = MiniLM(vocabulary=50, width=24, heads=2, layers=2, positions=16).eval()
    ids = torch.randint(0, 50, (2, 8))
    axis = {1: token_length_axis(16)}
    session = open_session(
        to_onnx(
            module,
            {"input_ids": ids, "attention_mask": torch.ones_like(ids)},
            ["sentence", "tokens"],
            {"input_ids": axis, "attention_mask": axis},
        )
    )
    short = np.random.default_rng(0).integers(0, 50, (1, 5))
    alone = run_graph(session, {"input_ids": short, "attention_mask": np.ones_like(short)})
    padded = np.pad(short, ((0, 2), (0, 9)))
    mask = np.zeros_like(padded)
    mask[0, :5], mask[1:, :3] = 1, 1
    mates = run_graph(session, {"input_ids": padded, "attention_mask": mask})
    assert np.abs(mates["sentence"][:1] - alone["sentence"]).max() < SAME
    assert np.abs(mates["tokens"][:1, :5] - alone["tokens"]).max() < SAME
