"""Contestants of `peers.py` that search among many items with random embeddings and tokens of coop-small's shape.

All encode the query with coop-small on ONNX Runtime, so that they differ in the search and in what is reranked how.
"""

from __future__ import annotations

import importlib.util
import logging
import tempfile
import time
from contextlib import ExitStack
from importlib.metadata import files
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peers_kit import size_of, versions
from benchmarks.query import TEXTS, filled, rows
from milvus_coop import CoopSearch, load_bundle
from milvus_coop.config import Settings
from milvus_coop.models.open import open_models
from milvus_coop.models.tokens import arrange, decode
from milvus_coop.store.schema import HNSW_BUILD, search_params
from milvus_coop.types import StoredTokens

COLLECTION = "peers"
METRIC = "COSINE"
BUNDLE = "coop-small"


def ask(text: int) -> str:
    return f"{TEXTS[text % len(TEXTS)]} {text}"


def database(work: str, items: int, name: str) -> Path:
    return Path(work, f"{name}-{items}.db")


def fill_ours(work: str, items: int) -> None:
    """A collection with embeddings and tokens."""
    with filled(str(database(work, items, "coop")), load_bundle(BUNDLE), items, COLLECTION, keep=True):
        pass


def fill_plain(work: str, items: int) -> None:
    """A collection with an id, an embedding and a uri, as a tutorial of pymilvus makes it."""
    from pymilvus import DataType, MilvusClient

    client = MilvusClient(str(database(work, items, "plain")))
    schema = client.create_schema(auto_id=False, enable_dynamic_field=False)
    schema.add_field("id", DataType.VARCHAR, is_primary=True, max_length=64)
    schema.add_field("uri", DataType.VARCHAR, max_length=2048)
    schema.add_field("embedding", DataType.FLOAT_VECTOR, dim=load_bundle(BUNDLE).spec.dim)
    index = client.prepare_index_params()
    index.add_index("embedding", index_type="HNSW", metric_type=METRIC, params=HNSW_BUILD)
    client.create_collection(COLLECTION, schema=schema, index_params=index)
    for some in rows(load_bundle(BUNDLE), items):
        client.insert(COLLECTION, [{"id": row.id, "uri": row.uri, "embedding": row.embedding} for row in some])
    client.flush(COLLECTION)
    client.close()


class Ours:
    """`CoopSearch.query`, and Milvus Lite that reranks through our service; both in one process, as Milvus Lite asks for."""

    def __init__(self, work: str, cores: int, items: int, with_service: bool = False) -> None:
        self.stack = ExitStack()
        uri = database(work, items, "coop")
        settings = {"uri": str(uri), "bundle": BUNDLE, "threads": cores, "timeout_s": 600.0, "remembered_texts": 0}
        self.search = self.stack.enter_context(CoopSearch(COLLECTION, **settings))  # type: ignore[arg-type]
        if with_service:
            from pymilvus import MilvusClient

            from benchmarks.milvus_side import serving

            log = Path(self.stack.enter_context(tempfile.TemporaryDirectory(prefix="milvus-coop-peers-")), "log")
            self.url = self.stack.enter_context(serving(log))
            self.client = MilvusClient(str(uri))
            self.stack.callback(self.client.close)
        self.facts = versions(["milvus-coop", "milvus-lite", "pymilvus", "onnxruntime"]) | {"stored_bytes": size_of(uri) / items}

    def query(self, first: int, count: int, k: int) -> dict[str, Any]:
        stages = []
        found = []
        for text in range(first, first + count):
            result = self.search.query(ask(text), k=k, limit=k)
            stages.append(result.timings.retrieve_ms / 1000)
            found.append([hit.id for hit in result])
        return {"retrieve_s": float(np.median(stages)), "ids": found}

    def many(self, first: int, count: int, k: int) -> dict[str, Any]:
        self.search.query_many([ask(text) for text in range(first, first + count)], k=k, limit=k)
        return {}

    def by_milvus(self, first: int, count: int, k: int) -> dict[str, Any]:
        """Milvus Lite sends ten candidates per hit to the service, so this asks for a tenth of k."""
        for text in range(first, first + count):
            vector = self.search.encoder.encode_texts([ask(text)]).embeddings[0]
            ranker = self.search.ranker(ask(text), endpoint=self.url)
            self.client.search(COLLECTION, data=[vector], limit=max(1, k // 10), ranker=ranker, output_fields=["uri"])
        return {}

    def close(self) -> None:
        self.stack.close()


class Plain:
    """pymilvus alone: the nearest neighbours of the query's embedding, and no reranking."""

    def __init__(self, work: str, cores: int, items: int) -> None:
        from pymilvus import MilvusClient

        uri = database(work, items, "plain")
        self.encoder = open_models(Settings.from_env().override(bundle=BUNDLE, threads=cores)).encoder
        self.client = MilvusClient(str(uri))
        self.client.load_collection(COLLECTION)
        self.facts = versions(["pymilvus", "milvus-lite"]) | {"stored_bytes": size_of(uri) / items}

    def query(self, first: int, count: int, k: int) -> dict[str, Any]:
        found, stages = [], []
        for text in range(first, first + count):
            vector = self.encoder.encode_texts([ask(text)]).embeddings[0]
            start = time.perf_counter()
            (hits,) = self.client.search(
                COLLECTION, data=[vector], limit=k, output_fields=["uri"], search_params=search_params("HNSW", METRIC, k)
            )
            stages.append(time.perf_counter() - start)
            found.append([hit["id"] for hit in hits])
        return {"retrieve_s": float(np.median(stages)), "ids": found}

    def close(self) -> None:
        self.client.close()


class MmtRetrieval:
    """`ImageTextRetrieval` of MMT-Retrieval, with coop-small as its two models.

    Its package does not import with a current transformers (`AdamW` is gone), but the module with this class does, alone.
    """

    def __init__(self, work: str, cores: int, items: int) -> None:
        import torch

        torch.set_num_threads(cores)
        self.models = open_models(Settings.from_env().override(bundle=BUNDLE, threads=cores))
        self.retrieval = _retrieval_module().ImageTextRetrieval(embedder=self, cross_encoder=self)
        logging.getLogger().setLevel(logging.WARNING)
        spec = self.models.encoder.spec.tokens
        vectors, tokens = [], []
        for some in rows(load_bundle(BUNDLE), items):
            vectors.append(np.stack([row.embedding for row in some]))
            encoded = [row.content.encoded for row in some if isinstance(row.content, StoredTokens)]
            tokens.append(arrange([decode(string, spec) for string in encoded], spec))
        self.tokens, self.scales = (np.concatenate(arrays) for arrays in zip(*tokens, strict=True))
        self.retrieval.images = list(range(items))
        self.retrieval.image_embeddings = torch.from_numpy(np.concatenate(vectors))
        stored = sum(array.nbytes for array in (self.tokens, self.scales)) + self.retrieval.image_embeddings.nbytes
        self.facts = versions(["mmt-retrieval", "sentence-transformers", "torch"]) | {"stored_bytes": stored / items}

    def encode(self, sentences: list[str], images: list[int] | None = None, **_: Any) -> Any:
        """What it calls on its embedder, with texts; and on its cross-encoder, with as many texts as images."""
        import torch

        encoded = self.models.encoder.encode_texts(sentences)
        if images is None:
            return torch.from_numpy(encoded.embeddings)
        scores = self.models.reranker.score(encoded.text_side, self.tokens[images], self.scales[images])
        return torch.from_numpy(scores)[:, None]

    def query(self, first: int, count: int, k: int) -> dict[str, Any]:
        self.retrieval.cross_encoder = self
        return self._search(first, count, k)

    def exact(self, first: int, count: int, k: int) -> dict[str, Any]:
        self.retrieval.cross_encoder = None
        return self._search(first, count, k)

    def _search(self, first: int, count: int, k: int) -> dict[str, Any]:
        found = [self.retrieval.search(text_queries=[ask(text)], topk=k)["indices"][0] for text in range(first, first + count)]
        return {"ids": [[f"{index:032x}" for index in ranked] for ranked in found]}


def _retrieval_module() -> Any:
    listed = files("mmt-retrieval") or []
    path = next(file for file in listed if file.name == "retrieval.py").locate()
    spec = importlib.util.spec_from_file_location("mmt_retrieval_search", str(path))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
