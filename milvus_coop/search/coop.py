"""`CoopSearch`: the one object most users need."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np

from milvus_coop.arguments import many, strings
from milvus_coop.bundle.spec import CROSS_ENCODER, IMAGE_ENCODER, TEXT_ENCODER, Score
from milvus_coop.config import Settings, SettingsArguments
from milvus_coop.deadline import Deadline
from milvus_coop.errors import BackendTimeoutError, BackendUnavailableError, InvalidArgumentError, quoted
from milvus_coop.models.backends import Backend
from milvus_coop.models.encoder import Encoder
from milvus_coop.models.open import loading, open_models, split_models
from milvus_coop.models.preprocess.images import ImageInput
from milvus_coop.search.contents import content_reader
from milvus_coop.search.groups import in_groups
from milvus_coop.search.options import QueryArguments, QueryOptions, options_of
from milvus_coop.search.queries import EncodedQueries, check_ids, encode_queries
from milvus_coop.search.ranking import rank
from milvus_coop.search.ranking_service import query_string
from milvus_coop.search.remote.address import RerankServer, rerank_server_of
from milvus_coop.search.reranking import BundleReranker, CandidateReranker, CeScores, NoReranker
from milvus_coop.search.state import ENCODED, RETRIEVED, SearchState
from milvus_coop.search.workers import Workers
from milvus_coop.store import CollectionView, Fields, Provider, Ranker, RerankService, Store
from milvus_coop.store.ranker import BATCH_SIZE
from milvus_coop.types import Array, Candidate, CollectionInfo, Kind, SearchResult, Timings

if TYPE_CHECKING:
    from typing_extensions import Unpack

_ENCODERS: Mapping[Kind, Sequence[str]] = {"image": (TEXT_ENCODER,), "text": (IMAGE_ENCODER, TEXT_ENCODER)}
"""The graphs that a usual query runs before the cross-encoder, by the kind of the collection."""

Retrieve = Callable[[EncodedQueries, QueryOptions, Deadline], list[list[Candidate]]]
"""Retrieves the candidates of each query."""


class CoopSearch:
    """Searches one collection: Milvus retrieves the best k candidates by ANN search, then the cross-encoder reranks them.

    Both are those of the bundle, unless `embedder` or `reranker` name servers. For a rerank server only `reranker_roots` are read.

    Safe to share between threads. Close it, or use it as a context manager, to free a Milvus Lite path.
    """

    def __init__(
        self,
        collection: str | None = None,
        *,
        models: str | Backend | None = None,
        fields: Fields | None = None,
        settings: Settings | None = None,
        **overrides: Unpack[SettingsArguments],
    ) -> None:
        """Open a collection.

        Args:
            collection: name of the collection; default that of `settings`, which is `images`.
            models: the backend that runs the bundle, as in `Settings`; or a backend object, which the caller has to close.
            fields: names of the fields of a collection that milvus-coop did not make.
            settings: the connection; default the environment (MILVUS_COOP_URI, ...), and the built-in defaults for variables that
                are not set.
            overrides: other values for fields of the settings: `uri="http://milvus:19530"`, `bundle=`, `timeout_s=`, ... The
                docstrings of `Settings` say what each one is.

        Raises:
            InvalidArgumentError: an argument has the wrong type, is out of range, or is unknown (then also a TypeError).
            CollectionNotFoundError, ForeignCollectionError, BundleMismatchError: the collection cannot be used.
            StoreError: Milvus cannot be reached or refuses the request, or the token files are not at their place.
            BundleError: the bundle cannot be used.
            BackendError: the embedder does not answer, or its answer is of no use.
        """
        settings, backend = split_models(settings, collection, models, overrides)
        server = rerank_server_of(settings)
        if fields is not None and not isinstance(fields, Fields):
            raise InvalidArgumentError(f"fields is {quoted(fields)}", expected="a Fields object")
        self._timeout_s = settings.timeout_s
        self._workers = Workers()
        self._models = open_models(settings, backend)
        try:
            with loading(self._models.backend, (TEXT_ENCODER,)):
                self._store = Store.from_settings(settings, must_exist=True)
                self._collection: CollectionView = self._store.open(settings.collection, self.encoder.spec, fields=fields)
            self._models.backend.load(_ENCODERS[self._collection.kind])
            self._reranker = self._open_reranker(server)
        except BaseException:
            self.close()
            raise

    def _open_reranker(self, server: RerankServer | None) -> CandidateReranker:
        """The reranker: that of the server, or else the cross-encoder of the bundle."""
        kind, spec = self._collection.kind, self.encoder.spec
        if server is not None:
            from milvus_coop.search.remote.reranker import RemoteReranker

            return RemoteReranker(server, kind, self._timeout_s)
        if not spec.graph(CROSS_ENCODER).outputs:
            return NoReranker()
        with suppress(BackendUnavailableError, BackendTimeoutError):  # a search then returns the BE order and the reason
            self._models.backend.load((CROSS_ENCODER,))
        reader = content_reader(self.encoder, kind, self._collection.tokens)
        return BundleReranker(reader, self._models.reranker, kind, self._timeout_s, spec.score)

    @property
    def encoder(self) -> Encoder:
        """The bi-encoder in use."""
        return self._models.encoder

    @property
    def collection(self) -> CollectionView:
        """The open collection."""
        return self._collection

    @property
    def kind(self) -> Kind:
        """The kind of the collection's items: `image` or `text`."""
        return self._collection.kind

    def reranks(self, query: Kind) -> bool:
        """True if hits for queries of that kind are reranked, as long as nothing fails. A bundle reranks no images for an image."""
        return self._reranker.compares(query)

    def within(self, filter: str) -> CoopSearch:
        """A view of this search that finds only the items that the filter leaves, whatever filter a query adds.

        Use it for a tenant, whose own filter must not widen what it sees. The view shares the models and the connection of this
        object, so close only one of the two.

        Raises:
            FilterError: a bracket or a quote of the filter has no partner.
        """
        view = copy.copy(self)
        view._collection = self._collection.within(filter)
        return view

    def uris(self, ids: Iterable[str]) -> dict[str, str]:
        """The uris of these items by id. Ids that the collection does not have are left out.

        Raises:
            StoreError: Milvus cannot be reached or refuses the request.
        """
        return self._collection.uris(strings("ids", ids, "a list of ids"))

    def info(self) -> CollectionInfo:
        """A description of the collection."""
        return self._collection.info()

    def query(
        self,
        text: str | None = None,
        *,
        image: ImageInput | None = None,
        options: QueryOptions | None = None,
        **changes: Unpack[QueryArguments],
    ) -> SearchResult:
        """Search with one text or one image.

        Args:
            text: the text to search with.
            image: the image to search with, instead of `text`: a path, the bytes of an image file, or a Pillow image.
            options: the options of the query; default `QueryOptions()`.
            changes: other values for fields of the options: `limit=5`, `filter="year > 2020"`, ... The docstrings of
                `QueryOptions` say what each one is.

        With a bundle that keeps no image tokens, the k images are opened and decoded again for every query, which is slow. Only
        files of this machine are opened.

        Returns:
            Hits, best first. If the cross-encoder did not rerank all k candidates, `reranked` is False and `reason` says why.

        Raises:
            InvalidArgumentError: an argument is out of range, has the wrong type or is unknown (then also a TypeError), or the text
                is blank, is not valid Unicode, or has more than 20,000 characters.
            ImageError: the image cannot be read.
            FilterError: Milvus rejects the filter.
            StoreError, BackendError: Milvus or the encoder failed. An unreachable or slow cross-encoder is not an error.
            DeadlineExceededError: the deadline came before Milvus returned candidates. Later, it only cuts the reranking.
        """
        return self._run(None if text is None else [text], None if image is None else [image], options_of(options, changes))[0]

    def rerank(
        self,
        text: str | None = None,
        *,
        image: ImageInput | None = None,
        ids: Iterable[str],
        options: QueryOptions | None = None,
        **changes: Unpack[QueryArguments],
    ) -> SearchResult:
        """Rerank items of the collection that another retriever found.

        Args:
            text: the text that the items are compared with.
            image: an image to compare the items with, as in `query`, instead of `text`.
            ids: ids of the items, best first, at most 16,384. If an id is repeated, its first place counts.
            options: as in `query`. `k`, `filter`, `output_fields` and `rerank` do not apply.
            changes: as in `query`. If neither `options` nor `limit` is given, all hits are returned.

        Returns:
            Hits, best first. The order of `ids` replaces the BE order: `be_rank` is the place of an item in it, and items with
            equal scores or without a score keep this order. `be_score` is still the cosine. Ids that the collection does not have
            are left out and take no place; `reranked` is then False, and `reason` says how many there are.

        Raises:
            InvalidArgumentError, ImageError, StoreError, BackendError, DeadlineExceededError: see `query`.
        """
        distinct = check_ids(ids)
        number = max(1, len(distinct))
        asked = options_of(QueryOptions(limit=number) if options is None else options, changes)
        for name, default in (("k", None), ("filter", ""), ("output_fields", ()), ("rerank", True)):
            if (value := getattr(asked, name)) != default:
                raise InvalidArgumentError(f"{name} is {quoted(value)}", expected=f"no {name}, which rerank does not use")
        asked = asked.change(k=number)
        (result,) = self._run(
            None if text is None else [text],
            None if image is None else [image],
            asked,
            lambda queries, _, deadline: [
                self._collection.candidates(
                    distinct,
                    queries.embeddings[0],
                    with_tokens=self._reranker.reads_contents(queries.kind),
                    deadline=deadline,
                )
            ],
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
        texts: Iterable[str] | None = None,
        *,
        images: Iterable[ImageInput] | None = None,
        options: QueryOptions | None = None,
        **changes: Unpack[QueryArguments],
    ) -> list[SearchResult]:
        """Search with many texts or many images, in a third to a half of the time that single queries take.

        They are searched in groups of 32: one group is encoded and reranked while Milvus searches with another. With a deadline,
        all are one group, so that the deadline cuts all of them at the same depth.

        Args:
            texts: the texts to search with: a list or any other iterable.
            images: the images to search with, instead of `texts`.
            options: as in `query`.
            changes: as in `query`.

        Errors are those of `query`. The deadline and the timings apply to the whole call. The time of a stage is the sum of the
        groups' times, so the three stages may take longer together than the call.
        """
        listed = None if texts is None else many("texts", texts, "a list of texts, or query(text)")
        pictures = None if images is None else many("images", images, "a list of images, or query(image=...)")
        options = options_of(options, changes)
        if options.deadline_ms is not None:
            return self._run(listed, pictures, options)
        return in_groups(lambda some, others: self._run(some, others, options), listed, pictures)

    def ranker(
        self,
        text: str | None = None,
        *,
        image: ImageInput | None = None,
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
            endpoint: address at which Milvus reaches the service, such as http://gateway:8080 or http://gateway:8080/v2.
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
        service = RerankService(endpoint, spec.model_name, api_key, credential, provider, batch_size)
        query = query_string(
            self.encoder, self._collection.kind, text, image, spec.score if score is None else score, self._timeout_s
        )
        return self._collection.ranker(query, service)

    def _run(
        self,
        texts: Sequence[str] | None,
        images: Sequence[ImageInput] | None,
        options: QueryOptions,
        retrieve: Retrieve | None = None,
    ) -> list[SearchResult]:
        if (texts is None) != (images is None) and not (texts or images):
            return []
        deadline, state = Deadline.after_ms(options.deadline_ms), SearchState()

        def work() -> None:
            self._search(texts, images, options, retrieve or self._retrieve, deadline, state)

        in_time = True
        if deadline.is_never:
            work()
        else:
            in_time = self._workers.run(work, deadline)
        if state.found is None:
            raise deadline.exceeded(state.goal)
        candidates, scores = state.found
        if not in_time:
            scores = scores.cut(sum(min(options.candidates, len(found)) for found in candidates))
        timings = state.timings()
        return [
            self._result(found, probability, logit, options, scores.problem, timings)
            for found, probability, logit in zip(candidates, scores.probability, scores.logit, strict=True)
        ]

    def _search(
        self,
        texts: Sequence[str] | None,
        images: Sequence[ImageInput] | None,
        options: QueryOptions,
        retrieve: Retrieve,
        deadline: Deadline,
        state: SearchState,
    ) -> None:
        with deadline.toward(ENCODED):
            queries = encode_queries(self.encoder, texts, images, self._timeout_s, deadline)
        state.encoded()
        with deadline.toward(RETRIEVED):
            candidates = retrieve(queries, options, deadline)
        scores = CeScores.none(candidates, options.candidates, None if options.rerank else "reranking was turned off")
        state.retrieved(candidates, scores)
        if options.rerank:
            self._reranker.score(queries, candidates, scores, deadline)

    def _retrieve(self, queries: EncodedQueries, options: QueryOptions, deadline: Deadline) -> list[list[Candidate]]:
        return self._collection.search(
            queries.embeddings,
            options.retrieve,
            filter=options.filter,
            output_fields=options.output_fields,
            with_tokens=options.rerank and self._reranker.reads_contents(queries.kind),
            deadline=deadline,
        )

    def _result(
        self,
        found: Sequence[Candidate],
        probability: Array,
        logit: Array,
        options: QueryOptions,
        problem: str | None,
        timings: Timings,
    ) -> SearchResult:
        scored, asked = int((~np.isnan(probability)).sum()), min(options.candidates, len(found))
        complete = bool(found) and scored == asked
        reason = None if complete else problem or "there are no candidates"
        if options.rerank and options.min_score is not None and scored < asked:
            reason = f"{reason}; min_score leaves out {asked - scored} candidates that have no match probability"
        hits = rank(
            found,
            probability,
            options.limit,
            logit=logit,
            score=options.score or self._reranker.default_score,
            offset=options.offset,
            min_ce_score=options.min_score if options.rerank else None,
            min_be_score=None if options.rerank else options.min_score,
        )
        return SearchResult(
            hits=hits,
            reranked=complete,
            reranked_count=scored,
            candidates=len(found),
            reason=reason,
            timings=timings,
        )

    def close(self) -> None:
        """Free the connection and the models. Safe to call twice."""
        self._workers.close()
        self._models.close()
        if hasattr(self, "_reranker"):
            self._reranker.close()
        if hasattr(self, "_store"):
            self._store.close()

    def __enter__(self) -> CoopSearch:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.close()
