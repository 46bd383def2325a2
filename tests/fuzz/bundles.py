"""Generated bundles: a small real one, of which a file is damaged, the record says something else, or a graph is another one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from hypothesis import strategies as st

from milvus_coop.bundle.files import hash_content
from milvus_coop.bundle.folder import RECORD
from milvus_coop.bundle.graphs import OPERATORS
from milvus_coop.bundle.spec import BundleSpec
from milvus_coop.errors import BundleError
from milvus_coop.records import read_record
from tests.changes import change_one
from tests.fuzz.damage import damaged

NUMBERS = st.sampled_from([0, 1, -1, 2, 3, 7, 100_000, 2**31 - 1, -(2**31), 2**62, -(2**63)]) | st.integers(-(2**63), 2**63 - 1)
Files = dict[str, bytes]


def files_of(folder: Path) -> Files:
    """The content of every file of a bundle."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@st.composite
def other_bundles(draw: st.DrawFn, files: Files) -> Files:
    """The files of a bundle after a change. In most cases the record has the hashes and the fingerprint that fit it."""
    how = draw(st.sampled_from(["damage", "record", "graph"]))
    record = json.loads(files[RECORD])
    if how == "record":
        change_one(record, draw)
        return {**files, RECORD: _signed(record)}
    name = draw(st.sampled_from(sorted(files if how == "damage" else (name for name in files if name.endswith(".onnx")))))
    content = draw(damaged(files, name)) if how == "damage" else _other_graph(draw, files[name])
    if name == RECORD or draw(st.integers(0, 9)) == 0:
        return {**files, name: content}
    found = hash_content(content)
    record["files"][name] = {"n_bytes": found.n_bytes, "sha256": found.sha256}
    return {**files, name: content, RECORD: _signed(record)}


def _signed(record: dict[str, Any]) -> bytes:
    """The text of the record, with the fingerprint that belongs to it, if it can be read at all."""
    given = {key: value for key, value in record.items() if key not in ("format", "fingerprint")}
    try:
        return read_record(BundleSpec, given, BundleError).to_json().encode()
    except (BundleError, ValueError):
        return json.dumps(record).encode()


def _other_graph(draw: st.DrawFn, content: bytes) -> bytes:
    """A graph with one to three changes of its nodes and weights. It is still an ONNX file."""
    model = onnx.load_from_string(content)
    for _ in range(draw(st.integers(1, 3))):
        node = draw(st.sampled_from(list(model.graph.node)))
        weights = draw(st.sampled_from(list(model.graph.initializer)))
        how = draw(st.sampled_from(["operator", "attribute", "input", "shape", "numbers"]))
        if how == "operator":
            node.op_type = draw(st.sampled_from([*sorted(OPERATORS), "If", "Loop", "ConstantOfShape"]))
        elif how == "attribute" and node.attribute:
            _change_attribute(draw, draw(st.sampled_from(list(node.attribute))))
        elif how == "input" and node.input:
            names = sorted({name for one in model.graph.node for name in (*one.input, *one.output)})
            node.input[draw(st.integers(0, len(node.input) - 1))] = draw(st.sampled_from(["", *names]))
        elif how == "shape":
            weights.dims[:] = draw(st.lists(NUMBERS, max_size=3) | st.permutations(list(weights.dims)))
        elif how == "numbers" and weights.data_type == onnx.TensorProto.INT64:
            count = len(weights.raw_data) // 8
            weights.raw_data = np.array(draw(st.lists(NUMBERS, min_size=count, max_size=count)), np.int64).tobytes()
    return bytes(model.SerializeToString())


def _change_attribute(draw: st.DrawFn, attribute: Any) -> None:
    if attribute.ints:
        attribute.ints[draw(st.integers(0, len(attribute.ints) - 1))] = draw(NUMBERS)
    else:
        attribute.i = draw(NUMBERS)
