"""ONNX Runtime sessions for checking an export. The online side has its own sessions in `backends/onnx`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime

from milvus_coop.types import Array


def open_session(model: onnx.ModelProto | Path, threads: int = 2) -> onnxruntime.InferenceSession:
    """A CPU session for a model in memory or for a file with external weights."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    source = str(model) if isinstance(model, Path) else model.SerializeToString()
    return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def run_graph(session: onnxruntime.InferenceSession, feeds: Mapping[str, Array]) -> dict[str, Array]:
    """All outputs by name."""
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, dict(feeds)), strict=True))


def run_batched(session: onnxruntime.InferenceSession, feeds: Mapping[str, Array], batch_size: int = 64) -> dict[str, Array]:
    """Run over the first axis in batches and concatenate."""
    total = len(next(iter(feeds.values())))
    parts: Sequence[dict[str, Array]] = [
        run_graph(session, {name: value[start : start + batch_size] for name, value in feeds.items()})
        for start in range(0, total, batch_size)
    ]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
