"""Run the frozen image tower over every picture once and cache what it says, source by source."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from milvus_coop.export.sessions import open_session, run_graph
from milvus_coop.preprocess.images import to_pixels
from milvus_coop.training.coop_small.backbone import backbone_graph, image_spec
from milvus_coop.training.coop_small.pictures import on_background, open_picture
from milvus_coop.training.coop_small.records import Record, read_records
from milvus_coop.training.coop_small.regions import CellCompressor, compressor_of, fit_compressor
from milvus_coop.training.coop_small.workspace import Workspace
from milvus_coop.training.efficientnet_lite import Variant
from milvus_coop.types import Array

logger = logging.getLogger(__name__)
_BATCH = 32
_WORKERS = 2
_TYPICAL = ("stamps", "clipart", "noto", "twemoji")
_COSINES = np.cos(np.pi * np.outer(np.arange(8), np.arange(32) + 0.5) / 32)
"""The eight slowest rows of the 32-point DCT-II."""


def extract_features(workspace: Workspace, variant: Variant) -> None:
    """Cache `pooled` (n, 1280), `cells` (n, 16, 1280), both float16, and `hash` (n, 64) per source.

    A file that is there is complete and kept. About 90 pictures/s on two cores.
    """
    folder = workspace.folder(f"features/{variant}")
    records = read_records(workspace.root / "records.jsonl")
    session = open_session(backbone_graph(workspace.raw, variant))
    spec = image_spec(variant)
    for source in dict.fromkeys(record.source for record in records):
        if feature_file(folder, source, "pooled").is_file():
            continue
        chosen = [record for record in records if record.source == source]
        logger.info("%s: %d pictures", source, len(chosen))
        columns: dict[str, list[Array]] = {"cells": [], "hash": [], "pooled": []}
        pictures = _prefetch(chosen, workspace.raw)
        while batch := list(islice(pictures, _BATCH)):
            pixels = np.stack([to_pixels(picture, spec) for picture in batch])
            outputs = run_graph(session, {"pixel_values": pixels})
            columns["cells"].append(outputs["cells"].astype(np.float16))
            columns["hash"].append(np.stack([perceptual_hash(picture) for picture in batch]))
            columns["pooled"].append(outputs["pooled"].astype(np.float16))
        for name, parts in columns.items():
            np.save(feature_file(folder, source, name), np.concatenate(parts))


def fitted_compressor(folder: Path) -> CellCompressor:
    """The compressor of the cells' features, fitted on every fourth picture of the stamps, clip art and two emoji sets."""
    file = folder / "compressor.safetensors"
    if not file.is_file():
        parts = [np.load(feature_file(folder, source, "cells"), mmap_mode="r")[::4] for source in _TYPICAL]
        cells = np.concatenate(parts).reshape(-1, parts[0].shape[-1]).astype(np.float32)
        save_file(fit_compressor(torch.from_numpy(cells)).state_dict(), file)
    weights = load_file(file)
    return compressor_of(weights["line.weight"], weights["line.bias"])


def feature_file(folder: Path, source: str, name: str) -> Path:
    """Where one array of one source lies."""
    return folder / f"{source}.{name}.npy"


def perceptual_hash(picture: Image.Image) -> Array:
    """64 bits of shape: signs, against their median, of the lowest 8 x 8 DCT coefficients of a 32 x 32 grey copy."""
    grey = np.asarray(picture.convert("L").resize((32, 32), Image.Resampling.BILINEAR), dtype=np.float64)
    low = (_COSINES @ grey @ _COSINES.T).ravel()
    bits: Array = low > np.median(low[1:])
    return bits


def _prefetch(records: Iterable[Record], raw: Path) -> Iterator[Image.Image]:
    """Pictures in order, on white, decoded a little ahead in threads."""
    waiting: deque[Future[Image.Image]] = deque()
    with ThreadPoolExecutor(_WORKERS) as pool:
        for record in records:
            waiting.append(pool.submit(_open, record, raw))
            if len(waiting) > 2 * _BATCH:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _open(record: Record, raw: Path) -> Image.Image:
    return on_background(open_picture(record, raw))
