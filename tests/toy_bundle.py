"""A bundle of a few kilobytes whose graphs are real: fixed random weights, in each of the three ways to keep what the CE reads.

The three share all weights, so they rank alike; with `keep="nowhere"` the cross-encoder computes its tokens from pixels, exactly.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import tokenizers
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from milvus_coop.bundle.folder import TOKENIZER, Bundle, write_record
from milvus_coop.bundle.spec import BundleSpec, GraphSpec, ImageSpec, Keep, Score, TensorSpec, TextSpec, TokenSpec

SIZE, CELL, DIM, TOKEN_DIM = 32, 8, 16, 8
GRID = SIZE // CELL
COUNT = GRID * GRID
WORDS = ("[PAD]", "[UNK]", "a", "red", "green", "blue", "dog", "cat", "on", "the", "beach")
OPSET, IR_VERSION = 17, 9

IDS = (TensorSpec("input_ids", "int64", (-1,)), TensorSpec("attention_mask", "int64", (-1,)))
PIXELS = TensorSpec("pixel_values", "uint8", (3, SIZE, SIZE))
CE_PIXELS = TensorSpec("ce_pixel_values", "uint8", (3, SIZE, SIZE))
TOKENS = TensorSpec("image_tokens", "float32", (COUNT, TOKEN_DIM))
STORED = (TensorSpec("image_tokens", "int8", (COUNT, TOKEN_DIM)), TensorSpec("image_token_scales", "float32", (COUNT,)))
MATCH = (TensorSpec("match_probability", "float32", ()), TensorSpec("match_logit", "float32", ()))
TYPES = {"int64": TensorProto.INT64, "uint8": TensorProto.UINT8, "int8": TensorProto.INT8, "float32": TensorProto.FLOAT}


def make_bundle(folder: Path, keep: Keep = "collection", score: Score = "ce", *, weights: int = 0) -> Bundle:
    """Write the bundle into a folder that may not exist yet. Another number `weights` makes another model."""
    folder.mkdir(parents=True, exist_ok=True)
    model = tokenizers.models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]")
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / TOKENIZER))
    of_image = (CE_PIXELS,) if keep == "nowhere" else STORED
    embedding = TensorSpec("image_embedding", "float32", (DIM,))
    graphs = (
        GraphSpec("text_encoder", "text_encoder.onnx", IDS, (TensorSpec("text_embedding", "float32", (DIM,)),)),
        GraphSpec("image_encoder", "image_encoder.onnx", (PIXELS,), (embedding,) if keep == "nowhere" else (embedding, TOKENS)),
        GraphSpec("cross_encoder", "cross_encoder.onnx", (*IDS, *of_image), MATCH),
    )
    for graph, nodes in zip(graphs, (_text_nodes(weights), _image_nodes(weights, keep), _cross_nodes(weights, keep)), strict=True):
        _save(folder / graph.file, graph, nodes)
    spec = BundleSpec(
        name=f"toy-{keep}",
        version="1",
        kind="joint",
        dim=DIM,
        image=ImageSpec(SIZE, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), fit="stretch"),
        text=TextSpec(16),
        tokens=TokenSpec(0, 0, keep) if keep == "nowhere" else TokenSpec(COUNT, TOKEN_DIM, keep),
        graphs=graphs,
        score=score,
    )
    return write_record(folder, spec)


def draw(path: Path, seed: int) -> Path:
    """Write a picture that no other seed gives."""
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(seed).integers(0, 256, (GRID, GRID, 3), dtype=np.uint8)
    Image.fromarray(values).resize((SIZE, SIZE), Image.Resampling.NEAREST).save(path)
    return path


class _Nodes:
    """A graph in the making; every method adds nodes and returns the name of what they make."""

    def __init__(self, weights: int) -> None:
        self._offset = 10 * weights
        self.nodes: list[Any] = []
        self.weights: list[Any] = []

    def __call__(self, kind: str, *inputs: str, out: str = "", **attributes: Any) -> str:
        out = out or f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [out], **attributes))
        return out

    def constant(self, *values: Any, dtype: type = np.int64) -> str:
        self.weights.append(numpy_helper.from_array(np.array(values, dtype), f"w{len(self.weights)}"))
        return str(self.weights[-1].name)

    def random(self, seed: int, *shape: int) -> str:
        values = np.random.default_rng(seed + self._offset).standard_normal(shape).astype(np.float32)
        self.weights.append(numpy_helper.from_array(values, f"w{len(self.weights)}"))
        return str(self.weights[-1].name)

    def unit(self, x: str, out: str) -> str:
        return self("LpNormalization", x, out=out, axis=-1, p=2)

    def bag(self, seed: int, width: int) -> str:
        """Sum of the words' vectors: (n, width)."""
        words = self("Gather", self.random(seed, len(WORDS), width), "input_ids")
        mask = self("Unsqueeze", self("Cast", "attention_mask", to=TensorProto.FLOAT), self.constant(2))
        return self("ReduceSum", self("Mul", words, mask), self.constant(1), keepdims=0)

    def cells(self, pixels: str) -> str:
        """Mean colour of each cell, around 0: (n, 3, COUNT)."""
        values = self("Div", self("Cast", pixels, to=TensorProto.FLOAT), self.constant(255.0, dtype=np.float32))
        values = self("Sub", values, self.constant(0.5, dtype=np.float32))
        pooled = self("AveragePool", values, kernel_shape=[CELL, CELL], strides=[CELL, CELL])
        return self("Reshape", pooled, self.constant(0, 3, COUNT))

    def tokens(self, cells: str, out: str = "") -> str:
        """(n, COUNT, TOKEN_DIM)."""
        return self("MatMul", self("Transpose", cells, perm=[0, 2, 1]), self.random(3, 3, TOKEN_DIM), out=out)


def _text_nodes(weights: int) -> _Nodes:
    add = _Nodes(weights)
    add.unit(add.bag(1, DIM), "text_embedding")
    return add


def _image_nodes(weights: int, keep: Keep) -> _Nodes:
    add = _Nodes(weights)
    cells = add.cells("pixel_values")
    flat = add("Reshape", cells, add.constant(0, 3 * COUNT))
    add.unit(add("MatMul", flat, add.random(2, 3 * COUNT, DIM)), "image_embedding")
    if keep != "nowhere":
        add.tokens(cells, "image_tokens")
    return add


def _cross_nodes(weights: int, keep: Keep) -> _Nodes:
    """The logit is the mean over tokens of tanh(token . text)."""
    add = _Nodes(weights)
    if keep == "nowhere":
        tokens = add.tokens(add.cells("ce_pixel_values"))
    else:
        scales = add("Unsqueeze", "image_token_scales", add.constant(2))
        tokens = add("Mul", add("Cast", "image_tokens", to=TensorProto.FLOAT), scales)
    text = add("Unsqueeze", add.bag(4, TOKEN_DIM), add.constant(2))
    products = add("Squeeze", add("MatMul", tokens, text), add.constant(2))
    add("ReduceMean", add("Tanh", products), out="match_logit", axes=[1], keepdims=0)
    add("Sigmoid", "match_logit", out="match_probability")
    return add


def _save(path: Path, graph: GraphSpec, nodes: _Nodes) -> None:
    def infos(tensors: tuple[TensorSpec, ...]) -> list[Any]:
        return [
            helper.make_tensor_value_info(t.name, TYPES[t.dtype], ["n", *("length" if size == -1 else size for size in t.shape)])
            for t in tensors
        ]

    made = helper.make_graph(nodes.nodes, graph.name, infos(graph.inputs), infos(graph.outputs), nodes.weights)
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, str(path))
