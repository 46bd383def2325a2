"""Contestants of `peers.py` that encode a folder of images, and texts, with one CLIP checkpoint.

Each imports its library when it is made, since no environment has all of them.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peers_kit import size_of, versions

BATCH = 16
TEXTS = ["two dogs on a beach", "an old stone bridge over a small river in autumn", "a red apple", "a boat on the sea"]


def images_of(folder: str) -> list[str]:
    return [str(path) for path in sorted(Path(folder).rglob("*.jpg"))]


def texts(count: int) -> list[str]:
    return [f"{TEXTS[number % len(TEXTS)]} {number}" for number in range(count)]


def _batches(values: list[Any]) -> Iterator[list[Any]]:
    return (values[start : start + BATCH] for start in range(0, len(values), BATCH))


def _save(embeddings: Any, out: str) -> dict[str, Any]:
    vectors = np.asarray(embeddings, dtype=np.float32)
    np.save(out, vectors / np.linalg.norm(vectors, axis=1, keepdims=True))
    return {"stored_bytes": vectors.dtype.itemsize * vectors.shape[1]}


class Ours:
    """The encoder of a bundle of the checkpoint, in this process. It also makes the cross-encoder's image tokens."""

    def __init__(self, work: str, cores: int) -> None:
        from milvus_coop.config import Settings
        from milvus_coop.models.open import open_models

        self.models = open_models(Settings.from_env().override(bundle=Path(work, "clip-bundle"), threads=cores))
        self.facts = versions(["milvus-coop", "onnxruntime"])

    def images(self, folder: str, out: str) -> dict[str, Any]:
        from milvus_coop.models.preprocess.images import decode

        encoder = self.models.encoder
        found = [encoder.encode_images([decode(path) for path in batch]).embeddings for batch in _batches(images_of(folder))]
        return _save(np.concatenate(found), out)

    def texts(self, count: int, out: str) -> dict[str, Any]:
        found = [self.models.encoder.encode_texts(batch).embeddings for batch in _batches(texts(count))]
        return _save(np.concatenate(found), out)

    def each_text(self, count: int, out: str) -> dict[str, Any]:
        return _save(np.concatenate([self.models.encoder.encode_texts([text]).embeddings for text in texts(count)]), out)


class OurIngest:
    """A whole ingest: it finds the files, checks and encodes them, and writes embeddings and tokens into Milvus Lite."""

    def __init__(self, work: str, cores: int) -> None:
        from milvus_coop import CoopIngest

        self.folder = tempfile.mkdtemp(prefix="milvus-coop-peers-")
        self.uri = Path(self.folder, "lite.db")
        self.ingest = CoopIngest("peers", uri=self.uri, bundle=Path(work, "clip-bundle"), threads=cores)
        self.facts = versions(["milvus-coop", "milvus-lite"])

    def images(self, folder: str, out: str) -> dict[str, Any]:
        report = self.ingest.run([folder], force=True)
        if report.failed:
            raise RuntimeError(f"{report.failed} images failed")
        return {"stored_bytes": size_of(Path(self.folder)) / report.seen}

    def close(self) -> None:
        self.ingest.close()
        shutil.rmtree(self.folder)


class SentenceTransformers:
    """`SentenceTransformer.encode`, on PyTorch or ONNX Runtime."""

    def __init__(self, work: str, cores: int, backend: Any = "torch") -> None:
        import sentence_transformers
        import torch

        torch.set_num_threads(cores)
        options: dict[str, Any] = (
            {} if backend == "torch" else {"model_kwargs": {"provider": "CPUExecutionProvider", "export": True}}
        )
        self.model = sentence_transformers.SentenceTransformer(str(Path(work, "clip")), device="cpu", backend=backend, **options)
        self.facts = versions(["sentence-transformers", "torch", "transformers", "optimum-onnx"])

    def _encode(self, values: list[Any], out: str) -> dict[str, Any]:
        return _save(self.model.encode(values, batch_size=BATCH, show_progress_bar=False), out)

    def images(self, folder: str, out: str) -> dict[str, Any]:
        from PIL import Image

        return self._encode([Image.open(path) for path in images_of(folder)], out)

    def texts(self, count: int, out: str) -> dict[str, Any]:
        return self._encode(texts(count), out)

    def each_text(self, count: int, out: str) -> dict[str, Any]:
        return _save(np.stack([self.model.encode(text, show_progress_bar=False) for text in texts(count)]), out)


class FastEmbed:
    """`ImageEmbedding.embed`, on an ONNX graph of the checkpoint's vision tower in place of the one that it would download."""

    def __init__(self, work: str, cores: int) -> None:
        import fastembed

        self.model = fastembed.ImageEmbedding(
            "Qdrant/clip-ViT-B-32-vision",
            threads=cores,
            providers=["CPUExecutionProvider"],
            specific_model_path=str(Path(work, "clip-onnx")),
        )
        self.facts = versions(["fastembed", "onnxruntime"])

    def images(self, folder: str, out: str) -> dict[str, Any]:
        return _save(list(self.model.embed(images_of(folder), batch_size=BATCH)), out)


class ClipRetrieval:
    """`clip-retrieval inference`, with the checkpoint as a local `hf_clip` model."""

    def __init__(self, work: str, cores: int) -> None:
        import torch

        try:
            import torchvision  # noqa: F401
        except RuntimeError:  # a wheel for CUDA beside a PyTorch for CPUs: its operators are missing, which resizing does not need
            kind: Any = torch.library.Library
            self._library = kind("torchvision", "DEF")
            for operator in ("nms", "qnms"):
                self._library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        from clip_retrieval.clip_inference.main import main

        torch.set_num_threads(cores)
        self.cores, self.main, self.model = cores, main, f"hf_clip:{Path(work, 'clip')}"
        self.facts = versions(["clip-retrieval", "torch", "transformers", "numpy"])

    def images(self, folder: str, out: str) -> dict[str, Any]:
        with tempfile.TemporaryDirectory(prefix="milvus-coop-peers-") as folder_out:
            self.main(
                input_dataset=folder,
                output_folder=folder_out,
                enable_text=False,
                batch_size=BATCH,
                num_prepro_workers=self.cores,
                clip_model=self.model,
            )
            found = np.load(next(Path(folder_out).rglob("*.npy")))
            _save(found, out)
            stored = sum(size_of(Path(folder_out, name)) for name in ("img_emb", "metadata"))
        return {"stored_bytes": stored / len(found)}
