"""Contestants of `peers.py` that find and rerank the same k images with one BLIP checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peers_encoders import images_of
from benchmarks.peers_kit import size_of, versions


class Ours:
    """`CoopSearch.query` on Milvus Lite: the cross-encoder reads stored tokens."""

    def __init__(self, work: str, cores: int) -> None:
        from milvus_coop import CoopSearch

        folder = Path(work, "blip")
        self.search = CoopSearch(
            "blip", uri=folder / "milvus.db", bundle=folder / "bundle", threads=cores, remembered_texts=0, timeout_s=600
        )
        stored = sum(size_of(path) for path in folder.iterdir() if path.name.startswith("milvus"))
        self.facts = versions(["milvus-coop", "onnxruntime"]) | {"stored_bytes": stored / self.search.info().count}

    def query(self, text: str, k: int) -> dict[str, Any]:
        result = self.search.query(text, k=k, limit=k)
        found = sorted((Path(hit.uri).name, hit.ce_score) for hit in result)
        return {"rerank_s": result.timings.rerank_ms / 1000, "scores": [score for _, score in found]}

    def close(self) -> None:
        self.search.close()


class Blip:
    """As BLIP's authors rerank: open the images, and run the whole `BlipForImageTextRetrieval` on k pairs."""

    def __init__(self, work: str, cores: int) -> None:
        import torch

        from benchmarks.reranking import Usual

        torch.set_num_threads(cores)
        self.usual = Usual(Path(work, "blip", "checkpoint"))
        self.paths = images_of(str(Path(work, "blip", "photos")))
        self.facts = versions(["transformers", "torch"]) | {"stored_bytes": 0}

    def query(self, text: str, k: int) -> dict[str, Any]:
        return {"scores": self.usual.from_images(text, self.paths[:k]).tolist()}


class SentenceTransformersPairs:
    """The multimodal `CrossEncoder`, on a vision-language model with random weights: it knows no class of BLIP's kind."""

    def __init__(self, work: str, cores: int) -> None:
        import torch
        from sentence_transformers import CrossEncoder
        from sentence_transformers.base.modules import Transformer
        from sentence_transformers.cross_encoder.modules import LogitScore

        torch.set_num_threads(cores)
        reader = Transformer(str(Path(work, "vlm")), transformer_task="any-to-any")
        self.model = CrossEncoder(modules=[reader, LogitScore(true_token_id=5, false_token_id=6)], device="cpu")
        self.paths = images_of(str(Path(work, "blip", "photos")))
        millions = sum(weight.numel() for weight in self.model.parameters()) / 1e6
        self.facts = versions(["sentence-transformers", "transformers", "torch"]) | {"stored_bytes": 0, "parameters_m": millions}

    def query(self, text: str, k: int) -> dict[str, Any]:
        from PIL import Image

        pairs = [(text, Image.open(path).convert("RGB")) for path in self.paths[:k]]
        return {"scores": np.asarray(self.model.predict(pairs, batch_size=k, show_progress_bar=False)).ravel().tolist()}
