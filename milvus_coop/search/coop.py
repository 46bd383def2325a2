"""`CoopSearch`: the one object most users need."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import TracebackType

import numpy as np

from milvus_coop.bundle.spec import CROSS_ENCODER, IMAGE_ENCODER, TEXT_ENCODER, Score
from milvus_coop.config import Settings
from milvus_coop.errors import BackendTimeoutError, BackendUnavailableError
from milvus_coop.models.backends import Backend
from milvus_coop.models.encoder import Encoder
from milvus_coop.models.open import open_models
from milvus_coop.search.contents import content_reader
from milvus_coop.search.queries import Options, Picture, check_ids, check_options, encode_queries
from milvus_coop.search.ranking import rank
from milvus_coop.search.ranking_service import query_string
from milvus_coop.search.reranking import CandidateReranker, CeScores
from milvus_coop.store import Collection, Fields, Provider, Ranker, RerankService, Store
from milvus_coop.store.ranker import BATCH_SIZE
from milvus_coop.types import Array, Candidate, CollectionInfo, Kind, SearchResult, Timings

_ENCODERS: Mapping[Kind, Sequence[str]] = {"image": (TEXT_ENCODER,), "text": (IMAGE_ENCODER, TEXT_ENCODER)}
"""The graphs that a usual query runs before the cross-encoder, by the kind of the collection."""


class CoopSearch:
    """Searches one collection: Milvus retrieves the best k candidates by ANN search, then the cross-encoder reranks them.

    Safe to share between threads. Close it, or use it as a context manager, to free a Milvus Lite path.
    """

    def __init__(
        self,
        collection: str | None = None,
        *,
        uri: str | Path | None = None,
        token: str | None = None,
        ca_file: str | Path | None = None,
        bundle: str | Path | None = None,
        models: str | Backend | None = None,
        token_store: str | Path | None = None,
        fields: Fields | None = None,
        timeout_s: float | None = None,
        threads: int | None = None,
        settings: Settings | None = None,
    ) -> None:
        """Open a collection. Arguments that are None come from `settings`.

        Args:
            collection: name of the collection; default `images`.
            uri: a Milvus Lite path (default `./milvus_coop.db`), or http(s)://host:19530.
            token: API key of a Milvus server, or `user:password`.
            ca_file: PEM file with the certificate authority of a Milvus server behind https://; default the system's authorities.
            bundle: name of a shipped bundle (default `coop-small`), or a bundle's folder.
            models: the backend that runs the bundle: `onnx`, `onnx:cuda`, triton://host:8001, or a backend object. The caller has
                to close a backend object.
            token_store: place of the token files, for bundles whose image tokens are too large for Milvus; default the place that
                the collection was created with.
            fields: names of the fields of a collection that milvus-coop did not make.
            timeout_s: time limit of each call to Milvus and to a model server; default 10.
            threads: number of threads of the in-process backend; default one per core.
            settings: default the environment (MILVUS_COOP_URI, ...), and the built-in defaults for variables that are not set.

        Raises:
            CollectionNotFoundError, ForeignCollectionError, BundleMismatchError: the collection cannot be used.
            StoreError: Milvus cannot be reached or refuses the request, or the token files are not at their place.
            BundleError: the bundle cannot be used.
        """
        named, backend = (models, None) if isinstance(models, str) else (None, models)
        settings = (settings or Settings.from_env()).override(
            collection=collection,
            uri=uri,
            token=token,
            ca_file=ca_file,
            bundle=bundle,
            models=named,
            token_store=token_store,
            timeout_s=timeout_s,
            threads=threads,
        )
        self._timeout_s = settings.timeout_s
        self._models = open_models(settings, backend)
        try:
            self._store = Store.from_settings(settings, must_exist=True)
            self._collection = self._store.open(settings.collection, self.encoder.spec, fields=fields)
            self._models.backend.load(_ENCODERS[self._collection.kind])
            with suppress(BackendUnavailableError, BackendTimeoutError):  # a search then returns the BE order and the reason
                self._models.backend.load((CROSS_ENCODER,))
        except BaseException:
            self.close()
            raise
        kind = self._collection.kind
        reader = content_reader(self.encoder, kind, self._collection.tokens)
        self._reranker = CandidateReranker(reader, self._models.reranker, kind, settings.timeout_s)

    @property
    def encoder(self) -> Encoder:
        """The bi-encoder in use."""
        return self._models.encoder

    @property
    def collection(self) -> Collection:
        """The open collection."""
        return self._collection

    @property
    def kind(self) -> Kind:
        """The kind of the collection's items: `image` or `text`."""
        return self._collection.kind

    def uris(self, ids: Sequence[str]) -> dict[str, str]:
        """The uris of these items by id. Ids that the collection does not have are left out.

        Raises:
            StoreError: Milvus cannot be reached or refuses the request.
        """
        return self._collection.uris(ids)

    def info(self) -> CollectionInfo:
        """A description of the collection."""
        return self._collection.info()

    def query(
        self,
        text: str | None = None,
        *,
        image: Picture | None = None,
        limit: int = 10,
        k: int | None = None,
        filter: str = "",
        output_fields: Sequence[str] = (),
        rerank: bool = True,
        deadline_ms: float | None = None,
        score: Score | None = None,
    ) -> SearchResult:
        """Search with one text or one image.

        Args:
            text: the text to search with.
            image: the image to search with, instead of `text`: a path, the bytes of an image file, or a Pillow image.
            limit: number of hits to return.
            k: number of candidates to rerank; default 50, or `limit` if that is larger. Hits beyond k follow in BE order.
            filter: a Milvus boolean expression over metadata, such as `year > 2020`.
            output_fields: names of metadata to return in `Hit.fields`.
            rerank: if False, return the hits in BE order.
            deadline_ms: time limit of the whole call. Reranking stops in time to keep it; encoding and retrieval always run.
            score: the score that orders the reranked candidates: `ce`, the match probability, or `sum`, the cross-encoder's logit
                plus the cosine. Default: the score that the bundle's authors use. See `search.ranking.rank`.

        With a bundle that keeps no image tokens, the k images are opened and decoded again for every query, which is slow. Only
        files of this machine are opened.

        Returns:
            Hits, best first. If the cross-encoder did not rerank all k candidates, `reranked` is False and `reason` says why.

        Raises:
            InvalidArgumentError: an argument is out of range, or the text is blank or has more than 20,000 characters.
            ImageError: the image cannot be read.
            FilterError: Milvus rejects the filter.
            StoreError, BackendError: Milvus or the encoder failed. An unreachable or slow cross-encoder is not an error.
        """
        options = check_options(
            limit=limit,
            k=k,
            filter=filter,
            output_fields=output_fields,
            rerank=rerank,
            deadline_ms=deadline_ms,
            score=self.encoder.spec.score if score is None else score,
        )
        return self._run(None if text is None else [text], None if image is None else [image], options)[0]

    def rerank(
        self,
        text: str | None = None,
        *,
        image: Picture | None = None,
        ids: Sequence[str],
        limit: int | None = None,
        deadline_ms: float | None = None,
        score: Score | None = None,
    ) -> SearchResult:
        """Rerank items of the collection that another retriever found.

        Args:
            text: the text that the items are compared with.
            image: an image to compare the items with, as in `query`, instead of `text`.
            ids: ids of the items, best first, at most 16,384. If an id is repeated, its first place counts.
            limit: number of hits to return; default all.
            deadline_ms: as in `query`.
            score: as in `query`.

        Returns:
            Hits, best first. The order of `ids` replaces the BE order: `be_rank` is the place of an item in it, and items with
            equal scores or without a score keep this order. `be_score` is still the cosine. Ids that the collection does not have
            are left out and take no place; `reranked` is then False, and `reason` says how many there are.

        Raises:
            InvalidArgumentError, ImageError, StoreError, BackendError: see `query`.
        """
        distinct = check_ids(ids)
        k = max(1, len(distinct))
        options = check_options(
            limit=k if limit is None else limit,
            k=k,
            filter="",
            output_fields=(),
            rerank=True,
            deadline_ms=deadline_ms,
            score=self.encoder.spec.score if score is None else score,
        )
        (result,) = self._run(
            None if text is None else [text],
            None if image is None else [image],
            options,
            lambda embeddings, _: [self._collection.candidates(distinct, embeddings[0])],
        )
        unknown = len(distinct) - result.candidates
        if not unknown:
            return result
        reason = f"{unknown} of {len(distinct)} ids are not in the collection"
        if result.candidates and result.reason:
            reason = f"{reason}; {result.reason}"
        return replace(result, reranked=False, reason=reason)

    def query_many(
        self,
        texts: Sequence[str] | None = None,
        *,
        images: Sequence[Picture] | None = None,
        limit: int = 10,
        k: int | None = None,
        filter: str = "",
        output_fields: Sequence[str] = (),
        rerank: bool = True,
        deadline_ms: float | None = None,
        score: Score | None = None,
    ) -> list[SearchResult]:
        """Search with many texts or many images in one Milvus call and one cross-encoder batch.

        Arguments and errors are those of `query`; the deadline and the timings apply to the whole call.
        """
        options = check_options(
            limit=limit,
            k=k,
            filter=filter,
            output_fields=output_fields,
            rerank=rerank,
            deadline_ms=deadline_ms,
            score=self.encoder.spec.score if score is None else score,
        )
        return self._run(texts, images, options)

    def ranker(
        self,
        text: str | None = None,
        *,
        image: Picture | None = None,
        endpoint: str,
        api_key: str = "",
        credential: str = "",
        provider: Provider | None = None,
        batch_size: int = BATCH_SIZE,
        score: Score | None = None,
    ) -> Ranker:
        """A pymilvus `Function` that makes Milvus itself rerank, by calling `milvus-coop serve`: `client.search(..., ranker=...)`.

        The search then has the order and the scores of `query` for all candidates that Milvus sends: ten times `limit` on Milvus
        Lite, and all hits of the search on a server. There is no deadline and no fallback to the BE order: if the service fails,
        the search fails.

        Args:
            text: the text to search with, in a collection of images.
            image: the image to search with, in a collection of texts, instead of `text`.
            endpoint: address at which Milvus reaches the service, such as http://gateway:8080.
            api_key: key of the service, for Milvus Lite.
            credential: name of that key in the milvus.yaml of a server; servers accept no key from clients.
            provider: protocol; default `vllm` on a server, and `cohere` on Milvus Lite, which supports no other.
            batch_size: number of documents per request of a server.
            score: must be `ce` if the bundle's authors rank by the sum, because Milvus does not send the cosine to a service.

        Raises:
            InvalidArgumentError: the service cannot read this collection or cannot answer such a query, or Milvus cannot call it in
                this way.
            ImageError: the image cannot be read.
            StoreError: Milvus failed, or has no model rankers (servers before 2.6 would silently ignore this one).
        """
        spec = self.encoder.spec
        query = query_string(
            self.encoder, self._collection.kind, text, image, spec.score if score is None else score, self._timeout_s
        )
        service = RerankService(endpoint, spec.model_name, api_key, credential, provider, batch_size)
        return self._collection.ranker(query, service)

    def _run(
        self,
        texts: Sequence[str] | None,
        images: Sequence[Picture] | None,
        options: Options,
        retrieve: Callable[[Array, Options], list[list[Candidate]]] | None = None,
    ) -> list[SearchResult]:
        if (texts is None) != (images is None) and not (texts or images):
            return []
        clock = [time.perf_counter()]
        queries = encode_queries(self.encoder, texts, images, self._timeout_s)
        clock.append(time.perf_counter())
        candidates = (retrieve or self._retrieve)(queries.embeddings, options)
        clock.append(time.perf_counter())
        scores = CeScores.none(len(candidates), problem="reranking was turned off")
        if options.rerank:
            deadline_s = None if options.deadline_ms is None else clock[0] + options.deadline_ms / 1000
            scores = self._reranker.score(queries, candidates, options.k, deadline_s)
        clock.append(time.perf_counter())
        start, encoded, retrieved, end = (1000 * t for t in clock)
        timings = Timings(encoded - start, retrieved - encoded, end - retrieved, end - start)
        return [
            self._result(found, probability, logit, options, scores.problem, timings)
            for found, probability, logit in zip(candidates, scores.probability, scores.logit, strict=True)
        ]

    def _retrieve(self, embeddings: Array, options: Options) -> list[list[Candidate]]:
        return self._collection.search(embeddings, options.retrieve, filter=options.filter, output_fields=options.output_fields)

    def _result(
        self,
        found: Sequence[Candidate],
        probability: Array,
        logit: Array,
        options: Options,
        problem: str | None,
        timings: Timings,
    ) -> SearchResult:
        scored = int((~np.isnan(probability)).sum())
        complete = bool(found) and scored == min(options.k, len(found))
        return SearchResult(
            hits=rank(found, probability, options.limit, logit=logit, score=options.score),
            reranked=complete,
            rescored=scored,
            candidates=len(found),
            reason=None if complete else problem or "there are no candidates",
            timings=timings,
        )

    def close(self) -> None:
        """Free the connection and the models. Safe to call twice."""
        self._models.close()
        if hasattr(self, "_store"):
            self._store.close()

    def __enter__(self) -> CoopSearch:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.close()
