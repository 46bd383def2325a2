"""The interface of all rerank protocols, and their common records: requests, and facts for answers."""

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
"""Minimum number of digits of a fingerprint after the @ in a model's name."""


class Body(BaseModel):
    """The body of a request. Fields of a protocol that this service does not use are ignored.

    Long lists are `FailFast`. Otherwise a body with millions of wrong entries would cause millions of errors and take gigabytes.
    """

    model_config = ConfigDict(extra="ignore", strict=True, frozen=True)


@dataclass(frozen=True, slots=True)
class Ask:
    """A rerank request in any protocol."""

    query: str
    documents: Sequence[str | None]
    model: str = ""
    top_n: int | None = None
    returns: bool = False
    """True if the answer repeats the documents."""
    raw: bool = False
    """True if the answer has logits instead of probabilities."""


@dataclass(frozen=True, slots=True)
class Context:
    """Facts for an answer beside the scores."""

    id: str
    model: str
    warnings: Sequence[str] = field(default=())


class Protocol(ABC):
    """A published protocol: the form of its requests, answers and errors."""

    name: ClassVar[str]
    """Name of the protocol in metrics and logs."""
    body: ClassVar[type[Body]]
    """Form of a request."""
    answered: ClassVar[Any]
    """Form of an answer: a type that pydantic can describe."""
    failed: ClassVar[type[BaseModel]]
    """Form of an error."""
    statuses: ClassVar[Sequence[int]]
    """Statuses of errors."""

    @abstractmethod
    def ask(self, body: Any) -> Ask:
        """The request in a checked body.

        Raises:
            RefusedError: the request asks for something that this service cannot do.
        """

    @abstractmethod
    def answer(self, ask: Ask, scores: DocumentScores, context: Context) -> Any:
        """The JSON of the answer."""

    @abstractmethod
    def failure(self, status: int, message: str, request_id: str) -> tuple[int, dict[str, Any]]:
        """Status and JSON of an error in this protocol, from its HTTP status."""

    def parse(self, value: Any) -> Ask:
        """The request in a decoded body.

        Raises:
            RefusedError: the body does not have the form of the protocol.
        """
        try:
            return self.ask(self.body.model_validate(value))
        except ValidationError as exc:
            raise RefusedError(HTTPStatus.BAD_REQUEST, describe(exc)) from exc


def inlined(body: type[Body]) -> dict[str, Any]:
    """The JSON schema of a body without references; they would refer to the root of the OpenAPI document."""
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
    """Check that a client means the bundle in use. Tokens of another bundle may have the same size and would give wrong scores.

    Args:
        model: '' for any bundle, the bundle's name, or `name@` and the first digits of its fingerprint.
        spec: the record of the bundle in use.

    Raises:
        RefusedError: the client means another bundle.
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
