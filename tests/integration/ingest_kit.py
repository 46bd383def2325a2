"""What the tests of ingest share: a small model that means nothing, pictures, a collection in memory, and a program to kill.

Run as a program it ingests a folder into Milvus Lite, slowly, and prints a line of JSON now and then:
`python -m tests.integration.ingest_kit DATABASE FOLDER`.
"""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from PIL import Image

from milvus_coop.bundle.spec import BundleSpec, GraphSpec, ImageSpec, TensorSpec, TextSpec, TokenSpec
from milvus_coop.errors import StoreError
from milvus_coop.ingest import IngestInterrupted, Progress, ingest
from milvus_coop.models.backends.fake import FakeBackend
from milvus_coop.models.encoder import BundleEncoder, Encoder
from milvus_coop.models.preprocess.texts import Tokenizer
from milvus_coop.store import Store
from milvus_coop.types import Row, Stamp

SIZE, DIM, TOKENS, TOKEN_DIM = 32, 16, 2, 8
MASKED = (TensorSpec("input_ids", "int64", (-1,)), TensorSpec("attention_mask", "int64", (-1,)))

SPEC = BundleSpec(
    name="test",
    version="1",
    kind="joint",
    dim=DIM,
    image=ImageSpec(SIZE, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)),
    text=TextSpec(32),
    tokens=TokenSpec(TOKENS, TOKEN_DIM),
    graphs=(
        GraphSpec("text_encoder", "text.onnx", MASKED, (TensorSpec("text_embedding", "float32", (DIM,)),)),
        GraphSpec(
            "image_encoder",
            "image.onnx",
            (TensorSpec("pixel_values", "uint8", (3, SIZE, SIZE)),),
            (TensorSpec("image_embedding", "float32", (DIM,)), TensorSpec("image_tokens", "float32", (TOKENS, TOKEN_DIM))),
        ),
        GraphSpec(
            "cross_encoder",
            "cross.onnx",
            (*MASKED, TensorSpec("image_tokens", "int8", (TOKENS, TOKEN_DIM))),
            (TensorSpec("match_probability", "float32", ()),),
        ),
    ),
)


class MemorySink:
    """A collection in memory that remembers what was asked of it, and fails on request."""

    def __init__(self) -> None:
        self.held: dict[str, Row] = {}
        self.upserts: list[int] = []
        self.looked_up = 0
        self.fail_at_upsert: int | None = None
        self.fail_lookups = False
        self.error = StoreError("the disk is full")
        self._lock = threading.Lock()

    def stamps(self, ids: Sequence[str]) -> dict[str, Stamp]:
        with self._lock:
            if self.fail_lookups:
                raise self.error
            self.looked_up += len(ids)
            return {key: _stamp(self.held[key]) for key in ids if key in self.held}

    def rows(self, ids: Sequence[str]) -> dict[str, Row]:
        return {key: self.held[key] for key in ids if key in self.held}

    def all_stamps(self) -> Iterator[tuple[str, Stamp]]:
        yield from [(key, _stamp(row)) for key, row in self.held.items()]

    def upsert(self, rows: Sequence[Row]) -> None:
        with self._lock:
            if len(self.upserts) == self.fail_at_upsert:
                raise self.error
            self.upserts.append(len(rows))
            self.held.update({row.id: row for row in rows})

    def insert(self, rows: Sequence[Row]) -> None:
        self.upsert(rows)

    def settle(self) -> None:
        pass

    def refusal(self, metadata: Mapping[str, Any] | None) -> str:
        return ""

    def delete(self, ids: Sequence[str]) -> None:
        for key in ids:
            del self.held[key]

    def uris(self) -> set[str]:
        return {row.uri for row in self.held.values()}


def _stamp(row: Row) -> Stamp:
    return Stamp(row.uri, row.digest, row.size, row.mtime_ns)


def encoder(backend: FakeBackend, folder: Path, runs: int = 1) -> Encoder:
    """An encoder; its tokenizer is written into the folder."""
    path = folder / ".tokenizer.json"
    model = tokenizers.models.WordLevel({"[UNK]": 0, "a": 1, "dog": 2, "cat": 3}, unk_token="[UNK]")
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.save(str(path))
    return BundleEncoder(backend, Tokenizer(path, SPEC.text), runs=runs)


def picture(path: Path, seed: int = 0, size: int = SIZE) -> Path:
    """Write a picture that no other seed gives."""
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    Image.fromarray(values).resize((size, size), Image.Resampling.NEAREST).save(path)
    return path


def pictures(folder: Path, n: int) -> Path:
    """A folder with n small pictures."""
    for i in range(n):
        picture(folder / f"{i % 7}" / f"{i:05}.png", seed=i)
    return folder


def main(database: str, folder: str) -> None:
    """Ingest slowly, and say how far it is."""
    backend = FakeBackend(SPEC, delays_s={"image_encoder": 0.02})

    def tell(progress: Progress) -> None:
        print(json.dumps(asdict(progress)), flush=True)  # noqa: T201 - this is what the test listens to

    with Store(database) as store:
        collection = store.open_or_create("images", SPEC, "image")
        try:
            ingest([folder], sink=collection, encoder=encoder(backend, Path(database).parent), on_progress=tell)
        except IngestInterrupted as exc:
            print(json.dumps({"interrupted": exc.report.added}), flush=True)  # noqa: T201
            sys.exit(130)


if __name__ == "__main__":
    main(*sys.argv[1:])
