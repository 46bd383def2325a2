"""What the protocols have in common: a question, and the way from an error to a sentence."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, ValidationError

from milvus_coop.bundle.spec import BundleSpec
from milvus_coop.serving.gateway.bodies import describe
from milvus_coop.serving.gateway.problems import RefusedError
from milvus_coop.serving.gateway.rerank.scoring import DocumentScores

SHORTEST_PREFIX = 4
"""Digits of a fingerprint that a model's name must have after its @."""


class Body(BaseModel):
    """A request's body. What a protocol has and we have no use for is ignored.

    Long lists are `FailFast`: a body of millions of wrong entries would otherwise become as many errors, and gigabytes.
    """

    model_config = ConfigDict(extra="ignore", strict=True, frozen=True)


@dataclass(frozen=True, slots=True)
class Ask:
    """A rerank request, whatever its protocol."""

    query: str
    documents: Sequence[str | None]
    model: str = ""
    top_n: int | None = None
    returns: bool = False
    """Whether the answer repeats the documents."""
    raw: bool = False
    """Whether it is to tell logits."""


@dataclass(frozen=True, slots=True)
class Context:
    """What an answer says beside scores."""

    id: str
    model: str
    warnings: Sequence[str] = field(default=())


class Protocol(ABC):
    """One published form of request, answer and error."""

    name: ClassVar[str]
    """For metrics and logs."""
    body: ClassVar[type[Body]]
    """What a request looks like."""
    answered: ClassVar[Any]
    """What an answer looks like: a type that pydantic knows."""
    failed: ClassVar[type[BaseModel]]
    """What an error looks like."""
    statuses: ClassVar[Sequence[int]]
    """Of errors."""

    @abstractmethod
    def ask(self, body: Any) -> Ask:
        """The question in a checked body.

        Raises:
            RefusedError: it asks for what this service cannot do.
        """

    @abstractmethod
    def answer(self, ask: Ask, scores: DocumentScores, context: Context) -> Any:
        """The JSON of the answer."""

    @abstractmethod
    def failure(self, status: int, message: str, request_id: str) -> tuple[int, dict[str, Any]]:
        """Status and JSON of an error, from the status that HTTP has for it."""

    def parse(self, value: Any) -> Ask:
        """The question in a decoded body.

        Raises:
            RefusedError: it does not have the protocol's form.
        """
        try:
            return self.ask(self.body.model_validate(value))
        except ValidationError as exc:
            raise RefusedError(HTTPStatus.BAD_REQUEST, describe(exc)) from exc


def inlined(body: type[Body]) -> dict[str, Any]:
    """The JSON schema of a body in one piece: what it refers to would be looked for at the root of the OpenAPI document."""
    schema = body.model_json_schema()
    definitions = schema.pop("$defs", {})

    def inline(part: Any) -> Any:
        if isinstance(part, dict):
            name = str(part.get("$ref", "")).rpartition("/")[2]
            return inline(definitions[name]) if name else {key: inline(value) for key, value in part.items()}
        return [inline(item) for item in part] if isinstance(part, list) else part

    found: dict[str, Any] = inline(schema)
    return found


def check_model(model: str, spec: BundleSpec) -> None:
    """Make sure that a client means the bundle in use: tokens of another one may have the same size, and would give nonsense.

    Args:
        model: '' for whichever there is, the bundle's name, or `name@` and the first digits of its fingerprint.
        spec: of the bundle in use.

    Raises:
        RefusedError: it means another.
    """
    name, at, prefix = model.partition("@")
    fits = len(prefix) >= SHORTEST_PREFIX and spec.fingerprint.startswith(prefix) if at else True
    if model and not (name == spec.name and fits):
        hint = " (which Milvus Lite says if no model_name is set)" if model == "rerank-v3.5" else ""
        raise RefusedError(
            HTTPStatus.NOT_FOUND,
            f"there is no model '{model[:100]}' here{hint}",
            expected=f"'{spec.model_name}', as CoopSearch.ranker() says, or '{spec.name}': set model_name, or model",
        )
