"""Translates errors of pymilvus, Milvus and gRPC into errors of this package. Only this module reads their codes and messages."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

import grpc
from pymilvus.exceptions import MilvusException, ParamError

from milvus_coop.errors import (
    CollectionExistsError,
    CollectionNotFoundError,
    CollectionNotLoadedError,
    FilterError,
    InvalidArgumentError,
    MilvusCoopError,
    StoreAuthError,
    StoreError,
    StoreTimeoutError,
    StoreUnavailableError,
    quoted,
    shortened,
)

CONNECT = "connect"
"""Name of the call that makes the connection."""

_CONNECT_FAILED = 2
_NOT_LOADED = 101
_COLLECTION_NOT_FOUND = 100
_LITE_BAD_EXPRESSION = 6
_AUTH_CODES = (1400, 1401, 1402)
_FILTER_SIGNS = (
    "cannot parse expression",
    "create query plan",
    "parse expression",
    "invalid expression",
    "too large to convert",
    "recursion depth",
)
_INVALID_PARAMETER = 1100
_ARGUMENT_SIGNS = ("invalid parameter", "is illegal", "parse output field", "codec can't encode")
_READS = ("search", "query")
"""Calls whose arguments are the user's: a filter, names of fields, numbers of hits."""
_AUTH_SIGNS = ("auth check failure", "unauthenticated", "privilege", "permission deny")
_UNAVAILABLE_SIGNS = ("closed channel", "not ready", "no available", "node offline", "channel not available", "not healthy")
_LATE_SIGNS = ("retry timeout", "context deadline exceeded", "context canceled")
"""The last two are a server's, which may answer with them at the moment when its client's time limit ends."""
_LONGEST_MESSAGE = 500
_WORDS = ("and", "or", "not", "exists", "like", "in", "is", "null", "true", "false", "interval", "iso")
"""Words of Milvus' filters, which are no names of fields there."""
_COMPARED = re.compile(r"([^()&|=<>!\[\]]+?)\s*(?:[=!<>]=|[<>])")
"""The part of a filter before a comparison."""
_JOINED = re.compile(r"\s(?:and|or|not|exists)(?=\s)", re.IGNORECASE)
_PLAIN = re.compile(r"[^\W\d]\w*")
_VALUE = re.compile(r"-?[\d.]+(?:e[-+]?\d+)?|'[^']*'|\"[^\"]*\"", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Attempt:
    """The call that failed, and facts for its error message."""

    address: str
    call: str
    """Name of the call, for example `search`."""
    timeout_s: float
    collection: str = ""
    filter: str = ""
    secrets: tuple[str, ...] = ()
    """Strings that a message must never show."""


def translate(exc: BaseException, attempt: Attempt) -> MilvusCoopError:
    """The error of this package that corresponds to `exc`."""
    status = _grpc_status(exc)
    if status is not None:
        code, details = status
        return _of_grpc(code, _one_line(details, attempt), attempt)
    message = _one_line(getattr(exc, "message", "") or str(exc), attempt)
    if isinstance(exc, MilvusException):
        return _of_milvus(exc, message, attempt)
    return StoreError(f"{attempt.call} failed: {type(exc).__name__}: {message}")


def _grpc_status(exc: BaseException) -> tuple[grpc.StatusCode, str] | None:
    """The gRPC status behind an error. pymilvus raises the gRPC error itself, or an own error with it as its code or its cause."""
    for candidate in (exc, exc.__cause__):
        if isinstance(candidate, grpc.RpcError) and isinstance(candidate, grpc.Call):
            return candidate.code(), candidate.details() or ""
        if isinstance(candidate, MilvusException) and isinstance(candidate.code, grpc.StatusCode):
            return candidate.code, candidate.message
    return (grpc.StatusCode.DEADLINE_EXCEEDED, "") if isinstance(exc, grpc.FutureTimeoutError) else None


def _one_line(text: str, attempt: Attempt) -> str:
    """The text on one line, shortened if it is long, and without secrets."""
    for secret in attempt.secrets:
        text = text.replace(secret, "***")
    text = " ".join(text.split()).partition(" expecting {")[0]  # a server lists its whole grammar after this
    return shortened(text, _LONGEST_MESSAGE)


def _of_grpc(code: grpc.StatusCode, details: str, attempt: Attempt) -> MilvusCoopError:
    connecting = attempt.call == CONNECT
    if code == grpc.StatusCode.DEADLINE_EXCEEDED:
        if connecting:
            return StoreUnavailableError(f"Milvus at {attempt.address} did not answer within {attempt.timeout_s:g} s")
        return _late(attempt)
    if code in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED):
        return _refused(attempt)
    if code == grpc.StatusCode.RESOURCE_EXHAUSTED:
        return StoreError(
            f"{attempt.call} needs a larger message than Milvus at {attempt.address} allows, or its quota is used up: {details}",
            run="ask for fewer candidates or queries at a time",
        )
    if code == grpc.StatusCode.UNIMPLEMENTED:
        return StoreUnavailableError(
            f"{attempt.address} does not speak Milvus' gRPC",
            expected="the gRPC port, by default 19530, not behind an HTTP proxy",
            run="add the host to the environment variable no_proxy",
        )
    if connecting or code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED):  # a server that is starting returns UNKNOWN
        return _unreachable(attempt, details)
    return StoreError(f"{attempt.call} failed: {code.name}: {details}")


def _of_milvus(exc: MilvusException, message: str, attempt: Attempt) -> MilvusCoopError:
    lower = message.lower()
    if exc.code == _COLLECTION_NOT_FOUND or "can't find collection" in lower:
        return CollectionNotFoundError(
            f"there is no collection '{attempt.collection}' in {attempt.address}", run="milvus-coop collections list"
        )
    if attempt.filter and (exc.code == _LITE_BAD_EXPRESSION or any(sign in lower for sign in _FILTER_SIGNS)):
        return FilterError(
            f"Milvus rejects the filter {quoted(attempt.filter)}: {message}",
            expected="a Milvus expression such as: year > 2020 and tag == 'cat'",
            run=_other_spelling(attempt.filter),
        )
    if exc.code in _AUTH_CODES or any(sign in lower for sign in _AUTH_SIGNS):
        return _refused(attempt)
    if attempt.call in _READS and _is_about_arguments(exc, lower):
        return InvalidArgumentError(
            f"Milvus rejects an argument of the {attempt.call}: {message}", expected="names of fields, and a valid filter"
        )
    # For some seconds after a restart, Milvus 2.3 looks for the node that served the collection before.
    if exc.code == _NOT_LOADED or (attempt.call == "load_collection" and "unrecoverable error" in lower):
        return CollectionNotLoadedError(
            f"the collection '{attempt.collection}' is not loaded; Milvus is starting, or somebody released it",
            run="try again in a minute, or load the collection in Milvus",
        )
    if exc.code == _CONNECT_FAILED or any(sign in lower for sign in _UNAVAILABLE_SIGNS):
        return _unreachable(attempt, message)
    if any(sign in lower for sign in _LATE_SIGNS):
        return _late(attempt)
    if attempt.call == "create_collection" and ("already exist" in lower or "duplicate collection" in lower):
        return CollectionExistsError(f"the collection '{attempt.collection}' exists in {attempt.address}")
    return StoreError(f"Milvus at {attempt.address} failed to {attempt.call}: {message} (code {int(exc.code)})")


def _other_spelling(filter: str) -> str:
    """The hint on a filter with a name that Milvus takes only as `$meta["name"]`; '' if there is none."""
    for found in _COMPARED.finditer(filter[:_LONGEST_MESSAGE]):
        name = _JOINED.split(" " + found[1])[-1].strip()
        if name and (name.lower() in _WORDS or not _PLAIN.fullmatch(name)) and not _VALUE.fullmatch(name):
            return f"$meta[{json.dumps(name, ensure_ascii=False)}], if {quoted(name)} is the name of a field"
    return ""


def _is_about_arguments(exc: MilvusException, message: str) -> bool:
    return isinstance(exc, ParamError) or exc.code == _INVALID_PARAMETER or any(sign in message for sign in _ARGUMENT_SIGNS)


def _refused(attempt: Attempt) -> StoreAuthError:
    return StoreAuthError(
        f"Milvus at {attempt.address} refuses these credentials, or they do not allow {attempt.call}",
        expected="a token `user:password` or an API key",
        run="set MILVUS_COOP_TOKEN",
    )


def _late(attempt: Attempt) -> StoreTimeoutError:
    return StoreTimeoutError(f"Milvus at {attempt.address} did not finish {attempt.call} within {attempt.timeout_s:g} s")


def _unreachable(attempt: Attempt, details: str) -> StoreUnavailableError:
    return StoreUnavailableError(
        f"Milvus at {attempt.address} cannot be reached or is not ready: {details}",
        expected="a running server, and http:// or https:// as it is set up",
    )
