"""Translates errors of tritonclient and gRPC into errors of this package."""

from __future__ import annotations

from tritonclient.utils import InferenceServerException

from milvus_coop.errors import BackendError, BackendInputError, BackendTimeoutError, BackendUnavailableError

OVERLOADED = ("exceeds maximum queue size", "request timeout expired")
"""Words in Triton's message when a model's queue is full or too slow. The gRPC status is the same as for an unreachable server."""
RESTRICTED = "protocol is restricted"
"""Words in Triton's message for a request without the header of a restricted protocol. The gRPC status is again the same."""


class ConnectionLostError(BackendUnavailableError):
    """No server answered. A second attempt makes sense, and another server may answer it."""


class NotServedError(BackendUnavailableError):
    """The server has no such model, or not in this version."""


def status_of(exc: InferenceServerException) -> str:
    """The gRPC status, such as `UNAVAILABLE`."""
    return str(exc.status() or "").removeprefix("StatusCode.")


def translate(exc: InferenceServerException, address: str, model: str, timeout_s: float) -> BackendError:
    """The error of this package that corresponds to `exc`."""
    status, message = status_of(exc), " ".join(str(exc.message()).split())
    if status == "DEADLINE_EXCEEDED":
        return BackendTimeoutError(f"{model} on Triton at {address} did not answer within {timeout_s:.3g} s")
    if any(words in message.lower() for words in OVERLOADED):
        return BackendUnavailableError(f"{model} on Triton at {address} is overloaded: {message}")
    if status == "NOT_FOUND" or "unknown model" in message.lower() or "no available versions" in message.lower():
        return NotServedError(f"Triton at {address} does not serve {model}", expected="the models of `milvus-coop triton export`")
    if status in ("UNAUTHENTICATED", "PERMISSION_DENIED") or RESTRICTED in message.lower():
        return BackendUnavailableError(
            f"Triton at {address} refuses the request: {message}", run="set MILVUS_COOP_TRITON_TOKEN or MILVUS_COOP_TRITON_HEADERS"
        )
    if status in ("UNAVAILABLE", "CANCELLED", ""):
        return ConnectionLostError(f"Triton at {address} cannot be reached: {message}", run="milvus-coop triton serve")
    if status in ("INVALID_ARGUMENT", "OUT_OF_RANGE"):
        return BackendInputError(f"{model} on Triton at {address} refuses its input: {message}")
    # The remaining statuses (INTERNAL, UNKNOWN, ...) are faults of the server, such as a dead process of its Python backend.
    return BackendUnavailableError(f"{model} on Triton at {address} failed: {message} ({status})")
