"""`QueryOptions`: the options of a query, in one place for the SDK, the command line, HTTP and the integrations."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, TypedDict, get_args

from milvus_coop.arguments import check_names, one_of, real_number, string, strings, whole_number
from milvus_coop.bundle.spec import Score
from milvus_coop.config import MAX_TIMEOUT_S
from milvus_coop.errors import InvalidArgumentError, quoted
from milvus_coop.store.schema import MAX_K

if TYPE_CHECKING:
    from typing_extensions import Unpack

DEFAULT_K = 50
"""Default number of candidates. In the paper, a larger k gains nothing more (Table 8: k = 10, 20 and 50 are equal)."""

MAX_DEADLINE_MS = 1000 * MAX_TIMEOUT_S


@dataclass(frozen=True, slots=True)
class QueryOptions:
    """The options of a query. Each field is also a keyword argument of `CoopSearch.query` and `CoopSearch.query_many`.

    Raises:
        InvalidArgumentError: a value has the wrong type or is out of range; the message names the first one.
    """

    limit: int = 10
    """Number of hits to return. `offset + limit` is at most 16,384."""
    offset: int = 0
    """Number of the best hits to leave out, for pages: `offset=20, limit=10` is the third page. All pages are parts of one ranking
    as long as the other options, `limit` included, stay the same."""
    k: int | None = None
    """Number of candidates to rerank; None means 50, or `limit` if that is larger. It does not depend on `offset`. Hits beyond k
    follow in BE order."""
    filter: str = ""
    """A Milvus boolean expression over metadata, such as `year > 2020`."""
    output_fields: Sequence[str] = ()
    """Names of metadata to return in `Hit.fields`; `*` means all. Any iterable is accepted and becomes a tuple."""
    rerank: bool = True
    """If False, the hits are in BE order."""
    deadline_ms: float | None = None
    """Time limit of the whole call: encoding, retrieval, fetching of tokens and reranking. Reranking stops in time to keep it. If
    there are no candidates by then, the call raises `DeadlineExceededError`."""
    score: Score | None = None
    """The score that orders the reranked candidates: `ce`, the match probability, or `sum`, the cross-encoder's logit plus the
    cosine. None means the score that the bundle's authors use. See `search.ranking.rank`."""
    min_score: float | None = None
    """Hits below this value are left out. It is compared with the match probability (0 to 1), whatever `score` is; hits without one
    are left out too, and `SearchResult.reason` says so. With `rerank=False` it is compared with the cosine."""

    def __post_init__(self) -> None:
        """Check and convert the values."""
        limit = whole_number("limit", self.limit, 1, MAX_K)
        offset = whole_number("offset", self.offset, 0, MAX_K - 1)
        if offset + limit > MAX_K:
            raise InvalidArgumentError(
                f"offset + limit is {offset + limit:,}", expected=f"at most {MAX_K:,}, which is Milvus' limit"
            )
        names = tuple(strings("output_fields", self.output_fields, "a list of field names"))
        if "" in names:
            raise InvalidArgumentError("output_fields has an empty name", expected="names of fields")
        if not isinstance(self.rerank, bool):
            raise InvalidArgumentError(f"rerank is {quoted(self.rerank)}", expected="True or False")
        if self.score is not None:
            one_of("score", self.score, get_args(Score))
        checked = {
            "limit": limit,
            "offset": offset,
            "k": None if self.k is None else whole_number("k", self.k, 1, MAX_K),
            "filter": string("filter", self.filter),
            "output_fields": names,
            "deadline_ms": None if self.deadline_ms is None else _deadline(self.deadline_ms),
            "min_score": None if self.min_score is None else self._min_score(self.min_score),
        }
        for name, value in checked.items():
            object.__setattr__(self, name, value)

    def _min_score(self, value: float) -> float:
        if not self.rerank:
            return real_number("min_score", value, "a finite number, which is compared with the cosine")
        expected = "a match probability from 0 to 1"
        if not 0 <= (number := real_number("min_score", value, expected)) <= 1:
            raise InvalidArgumentError(f"min_score is {quoted(value)}", expected=expected)
        return number

    def change(self, **changes: Unpack[QueryArguments]) -> QueryOptions:
        """A copy with other values.

        Raises:
            UnknownArgumentError: there is no such option; the message names the most similar one.
            InvalidArgumentError: a value has the wrong type or is out of range.
        """
        check_names(changes, (item.name for item in fields(self)))
        return replace(self, **changes)  # type: ignore[arg-type]

    @property
    def candidates(self) -> int:
        """Number of candidates to rerank: `k`, or its default."""
        return max(DEFAULT_K, self.limit) if self.k is None else self.k

    @property
    def retrieve(self) -> int:
        """Number of candidates to retrieve: those to rerank, and the hits beyond them."""
        return max(self.candidates, self.offset + self.limit)


class QueryArguments(TypedDict, total=False):
    """The fields of `QueryOptions` as keyword arguments."""

    limit: int
    offset: int
    k: int | None
    filter: str
    output_fields: Iterable[str]
    rerank: bool
    deadline_ms: float | None
    score: Score | None
    min_score: float | None


def options_of(options: QueryOptions | None, changes: QueryArguments) -> QueryOptions:
    """The options of a call that takes them as a record, as keyword arguments, or both; keywords replace values of the record.

    Raises:
        UnknownArgumentError, InvalidArgumentError: see `QueryOptions.change`; or `options` is something else.
    """
    if options is not None and not isinstance(options, QueryOptions):
        raise InvalidArgumentError(f"options is {quoted(options)}", expected="a QueryOptions object")
    return (options or QueryOptions()).change(**changes)


def _deadline(value: float) -> float:
    expected = f"more than 0 and at most {MAX_DEADLINE_MS:,.0f} milliseconds"
    return real_number("deadline_ms", value, expected, above=0, maximum=MAX_DEADLINE_MS)
