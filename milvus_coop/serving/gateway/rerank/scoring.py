"""Scores documents against a query, for all protocols. Paths that a client names are never opened."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus

import numpy as np

from milvus_coop.bundle.spec import CROSS_ENCODER, IMAGE_TOKEN_SCALES, IMAGE_TOKENS, TokenSpec
from milvus_coop.deadline import Deadline
from milvus_coop.errors import InvalidArgumentError, TokensError
from milvus_coop.models.open import Models
from milvus_coop.models.preprocess.texts import check_text
from milvus_coop.models.reranker import PairScores
from milvus_coop.models.tokens import arrange, decode
from milvus_coop.search.contents import content_reader
from milvus_coop.serving.gateway.data_uris import is_data_uri
from milvus_coop.serving.gateway.problems import RefusedError
from milvus_coop.store import CollectionView
from milvus_coop.store.schema import CONTENT_FIELDS
from milvus_coop.types import Array, Content, Kind, StoredText, StoredTokens

UNREADABLE_LOGIT = -1e6
"""The logit of a document that could not be read; far below the logit of any pair."""
SHOWN = 24
"""Maximum number of characters of a document that an error shows."""


@dataclass(frozen=True, slots=True)
class DocumentScores:
    """The cross-encoder's scores of n documents."""

    probability: Array
    """Match probabilities, float32 of shape (n,); 0 for documents that could not be read."""
    logit: Array
    """Logits, float32 of shape (n,); `UNREADABLE_LOGIT` for documents that could not be read."""
    readable: Array
    """True for documents that could be read, bool of shape (n,)."""
    total_tokens: int
    """Number of text and image tokens of all scored pairs."""

    @property
    def unreadable(self) -> int:
        """Number of documents that could not be read."""
        return int((~self.readable).sum())

    def order(self, top_n: int | None = None) -> list[int]:
        """Positions of the documents, best first. Documents with equal scores keep their order; unreadable documents come last."""
        found = np.lexsort((-self.probability, ~self.readable))
        return [int(position) for position in found[:top_n]]


@dataclass(frozen=True, slots=True)
class EncodedQuery:
    """The query that the documents are compared with."""

    kind: Kind
    side: Mapping[str, Array]
    """The cross-encoder's inputs for the query by name: arrays of shape (1, ...)."""


def score_documents(
    models: Models, query: str, documents: Sequence[str | None], collection: CollectionView | None, deadline: Deadline
) -> DocumentScores:
    """Score documents against a query.

    If the query is a token string of the bundle, it is an image, and the documents are texts. Any other query is a text, and the
    documents are token strings, or what the content field of `collection` holds.

    Args:
        models: the models of the bundle in use.
        query: a text, or the base64 image tokens of an image.
        documents: values of one VARCHAR field; None for a row without a value.
        collection: the collection of the documents; None: they are token strings or texts.
        deadline: the moment by which to be done.

    Raises:
        InvalidArgumentError: the query is blank or too long, query and documents are both images, or the bundle keeps no tokens.
        RefusedError: none of the documents can be read.
        DeadlineExceededError: the deadline came first.
        BackendError, TokenStoreError: documents cannot be scored now.
    """
    spec = models.encoder.spec
    if spec.tokens.keep == "nowhere":
        raise InvalidArgumentError(
            f"bundle {spec.label} keeps no image tokens, and this service opens no image that a client names",
            expected="a bundle that keeps tokens in the collection or in a token store; or rerank in the client, with CoopSearch",
        )
    n = len(documents)
    with deadline.toward("the query was encoded"):
        asked = _encode(models, query, deadline.remaining())
    kind = _kind_of_documents(asked, collection)
    reader = content_reader(models.encoder, kind, None if collection is None else collection.tokens)
    scores = _Scores(n)
    step = spec.graph(CROSS_ENCODER).max_batch
    for start in range(0, n, step):
        contents = _contents(documents[start : start + step], kind, collection, spec.tokens)
        goal = f"all {n} documents were scored; {start} were"
        with deadline.toward(goal):
            read = reader.read(contents, deadline.remaining(), deadline)
            deadline.check(goal)
            if read.positions:
                sides = (asked.side, read.side) if asked.kind == "text" else (read.side, asked.side)
                found = models.reranker.score_pairs(*sides, timeout_s=deadline.remaining())
                places = start + np.array(read.positions)
                scores.put(places, found, _count_tokens(spec.tokens, sides[0], len(places)))
    if not scores.readable.any():
        raise _nothing_readable(documents, asked.kind, kind, spec.label, collection)
    return DocumentScores(scores.probability, scores.logit, scores.readable, scores.total_tokens)


class _Scores:
    """The scores of n documents, filled in step by step. At first, no document counts as readable."""

    def __init__(self, n: int) -> None:
        self.probability = np.zeros(n, np.float32)
        self.logit = np.full(n, UNREADABLE_LOGIT, np.float32)
        self.readable = np.zeros(n, bool)
        self.total_tokens = 0

    def put(self, places: Array, found: PairScores, tokens: int) -> None:
        sound = found.sound
        rows = places[sound]
        self.probability[rows] = found.probability[sound]
        self.logit[rows] = found.logit[sound]
        self.readable[rows] = True
        self.total_tokens += tokens


def _encode(models: Models, query: str, timeout_s: float) -> EncodedQuery:
    tokens = models.encoder.spec.tokens
    raw = _decoded(query, tokens)
    if raw is not None:
        values, scales = arrange([raw], tokens)
        return EncodedQuery("image", {IMAGE_TOKENS: values, IMAGE_TOKEN_SCALES: scales})
    check_text(query)
    return EncodedQuery("text", models.encoder.encode_query_texts([query], timeout_s=timeout_s).text_side)


def _kind_of_documents(query: EncodedQuery, collection: CollectionView | None) -> Kind:
    kind: Kind = "image" if query.kind == "text" else "text"
    if collection is not None and collection.kind == query.kind:
        raise InvalidArgumentError(
            f"the query and the items of '{collection.name}' are both {query.kind}s",
            expected="a text for a collection of images, or the image tokens of an image for a collection of texts",
        )
    return kind


def _contents(
    documents: Sequence[str | None], kind: Kind, collection: CollectionView | None, tokens: TokenSpec
) -> list[Content | None]:
    """The content that each document stands for; None if it stands for none. Images, such as data URIs, do not count as texts."""

    def is_image(document: str) -> bool:
        return is_data_uri(document) or _decoded(document, tokens) is not None

    held = {i: d for i, d in enumerate(documents) if d is not None and not (kind == "text" and is_image(d))}
    if collection is not None:
        found = collection.contents_of(list(held.values()))
    else:
        found = [StoredTokens(document) if kind == "image" else StoredText(document) for document in held.values()]
    contents = dict(zip(held, found, strict=True))
    return [contents.get(i) for i in range(len(documents))]


def _decoded(text: str, tokens: TokenSpec) -> bytes | None:
    """The bytes of a token string; None if the text is not a token string."""
    try:
        return decode(text, tokens) if text else None
    except TokensError:
        return None


def _count_tokens(tokens: TokenSpec, text_side: Mapping[str, Array], n: int) -> int:
    mask = next((array for name, array in text_side.items() if name.endswith("attention_mask")), None)
    of_texts = 0 if mask is None else int(mask.sum()) * (n if len(mask) == 1 else 1)
    return of_texts + n * tokens.count


def _nothing_readable(
    documents: Sequence[str | None], query: Kind, kind: Kind, bundle: str, collection: CollectionView | None
) -> RefusedError:
    sent = next((document for document in documents if document), "")
    shown = sent[:SHOWN] + ("..." if len(sent) > SHOWN else "")
    what = f"a token string of bundle {bundle}" if kind == "image" else "a text"
    if kind == "image" and collection is not None and collection.tokens is not None:
        what = f"the key of a token file of '{collection.name}'"
    return RefusedError(
        HTTPStatus.UNPROCESSABLE_ENTITY,
        f"none of the {len(documents)} documents is {what}; the first one has {len(sent)} characters: {shown!r}",
        expected=f"values of the field `{CONTENT_FIELDS[kind]}`, as the query is {'a text' if query == 'text' else 'an image'}: "
        f'input_field_names=["{CONTENT_FIELDS[kind]}"]',
    )
