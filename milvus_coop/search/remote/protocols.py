"""Published rerank protocols: the forms of requests, and the scores in answers.

cohere  https://docs.cohere.com/reference/rerank
jina    https://api.jina.ai/redoc, and the input types at https://jina.ai/models/jina-reranker-m0
nim     https://docs.nvidia.com/nim/nemo-retriever/reranking/2.4/use-the-api-openai.html
sglang  https://docs.sglang.io/docs/supported-models/rerank_models, `V1RerankReqInput` in its protocol.py
tei     https://huggingface.github.io/text-embeddings-inference/
vllm    https://docs.vllm.ai/en/stable/serving/openai_compatible_server/#re-rank-api, vision_rerank_api_online.py of its examples
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from milvus_coop.errors import BackendError
from milvus_coop.servers.parts import Body, Part, data_url, image_part, in_base64
from milvus_coop.types import Array, Kind

BOTH: frozenset[Kind] = frozenset({"text", "image"})
TEXTS: frozenset[Kind] = frozenset({"text"})


@dataclass(frozen=True, slots=True)
class RerankProtocol:
    """The form of requests and answers."""

    path: str
    """The path of requests, if the address names none."""
    body: Callable[[Part, Sequence[Part]], Body]
    """The body of a request without the model: from the query and the documents."""
    score: str
    """The name of a score in an answer."""
    results: str = ""
    """The name of the list of scores in an answer; '' if the answer is that list."""
    queries: frozenset[Kind] = BOTH
    documents: frozenset[Kind] = BOTH
    """The kinds of queries and documents that the protocol can express. A model may read fewer."""
    has_logits: bool = False
    """True if scores are logits."""
    names_model: bool = True
    """True if requests name a model."""

    def request(self, model: str, query: Part, documents: Sequence[Part]) -> bytes:
        """The body of a request as JSON."""
        named = {"model": model} if model and self.names_model else {}
        return json.dumps({**named, **self.body(query, documents)}, ensure_ascii=False).encode(errors="replace")

    def scores(self, content: bytes, n: int) -> Array:
        """The scores of n documents in their order, float64, from the content of an answer.

        Raises:
            BackendError: the answer has another form, or does not have one finite score for each document.
        """
        try:
            answer = json.loads(content)
        except (ValueError, RecursionError) as exc:
            raise BackendError("the answer is not JSON") from exc
        listed = answer.get(self.results) if self.results and isinstance(answer, dict) else answer
        if not isinstance(listed, list):
            raise BackendError(f"the answer has no list {self.results or 'of scores'}")
        if len(listed) != n:
            raise BackendError(f"the answer has {len(listed):,} scores for {n:,} documents")
        found = np.full(n, np.nan)
        for item in listed:
            index, score = (item.get(name) for name in ("index", self.score)) if isinstance(item, dict) else (None, None)
            if type(index) is not int or not 0 <= index < n or not math.isnan(found[index]):
                raise BackendError("the answer has a score for no document, or two scores for one")
            found[index] = _finite(score)
        return found


def _finite(score: object) -> float:
    """The score as a number.

    Raises:
        BackendError: it is not a finite number.
    """
    try:
        number = float(score) if type(score) in (int, float) else math.nan  # type: ignore[arg-type]
    except OverflowError:
        number = math.nan
    if not math.isfinite(number):
        raise BackendError("the answer has a score that is not a finite number")
    return number


def _vllm(query: Part, documents: Sequence[Part]) -> Body:
    def content(part: Part) -> str | Body:
        return part if isinstance(part, str) else {"content": [image_part(part)]}

    return {"query": content(query), "documents": [content(document) for document in documents]}


def _sglang(query: Part, documents: Sequence[Part]) -> Body:
    def content(part: Part) -> str | list[Body]:
        return part if isinstance(part, str) else [image_part(part)]

    return {
        "query": content(query),
        "documents": [content(document) for document in documents],
        "return_documents": False,
    }


def _nim(query: Part, documents: Sequence[Part]) -> Body:
    passages = [{"text": part} if isinstance(part, str) else {"image": data_url(part)} for part in documents]
    return {"query": {"text": query}, "passages": passages, "truncate": "END"}


def _jina(query: Part, documents: Sequence[Part]) -> Body:
    def content(part: Part) -> Body:
        return {"text": part} if isinstance(part, str) else {"image": in_base64(part)}

    return {
        "query": query if isinstance(query, str) else content(query),
        "documents": [content(document) for document in documents],
        "return_documents": False,
    }


def _cohere(query: Part, documents: Sequence[Part]) -> Body:
    return {"query": query, "documents": list(documents)}


def _tei(query: Part, documents: Sequence[Part]) -> Body:
    return {"query": query, "texts": list(documents), "raw_scores": False, "truncate": True}


PROTOCOLS: Mapping[str, RerankProtocol] = {
    "vllm": RerankProtocol("/v1/rerank", _vllm, "relevance_score", "results"),
    "sglang": RerankProtocol("/v1/rerank", _sglang, "score"),
    "nim": RerankProtocol("/v1/ranking", _nim, "logit", "rankings", queries=TEXTS, has_logits=True),
    "jina": RerankProtocol("/v1/rerank", _jina, "relevance_score", "results"),
    "cohere": RerankProtocol("/v2/rerank", _cohere, "relevance_score", "results", queries=TEXTS, documents=TEXTS),
    "tei": RerankProtocol("/rerank", _tei, "score", queries=TEXTS, documents=TEXTS, names_model=False),
}
"""The protocols by the name that an address begins with."""
