"""What `--models triton://...` and the settings beside it mean."""

from __future__ import annotations

from pathlib import Path

import pytest
from tritonclient.utils import InferenceServerException

from milvus_coop.bundle import load_bundle
from milvus_coop.config import Settings
from milvus_coop.errors import (
    BackendError,
    BackendInputError,
    BackendTimeoutError,
    BackendUnavailableError,
    InvalidArgumentError,
)
from milvus_coop.models.backends import open_backend
from milvus_coop.models.backends.triton.failures import ConnectionLostError, NotServedError, translate
from milvus_coop.models.backends.triton.options import options_of
from tests.certificates import make_certificate


@pytest.mark.parametrize(
    ("models", "address", "tls"),
    [
        ("triton://host", "host:8001", False),
        ("triton://host:9001", "host:9001", False),
        ("triton://host:9001/", "host:9001", False),
        ("tritons://triton.models.svc", "triton.models.svc:8001", True),
        ("triton://[::1]:9001", "[::1]:9001", False),
        ("triton://10.0.0.7", "10.0.0.7:8001", False),
    ],
)
def test_addresses(models: str, address: str, tls: bool) -> None:
    options = options_of(models, Settings(timeout_s=3))
    assert (options.address, options.tls, options.timeout_s) == (address, tls, 3)
    assert options.metadata == {}


@pytest.mark.parametrize(
    "models",
    [
        "triton://",
        "triton:",
        "triton",
        "triton:host:8001",
        "triton://host:port",
        "triton://host:99999",
        "triton://host:0",
        "triton://host/models",
        "triton://host?x=1",
        "triton://me:secret@host",
        "triton://[::1",
    ],
)
def test_addresses_that_are_none(models: str) -> None:
    with pytest.raises(InvalidArgumentError, match=r"expected: triton://host:8001, or tritons://host:8001 \(TLS\)") as caught:
        options_of(models, Settings())
    assert "secret" not in str(caught.value)


def test_headers_and_token() -> None:
    settings = Settings(triton_headers="Triton-GRPC-Protocol-Admin=s3cret, x-tenant = a=b ,", triton_token="t0ken")
    options = options_of("triton://host", settings)
    assert options.metadata == {
        "triton-grpc-protocol-admin": "s3cret",
        "x-tenant": "a=b",
        "authorization": "Bearer t0ken",
    }
    for text in (repr(options), str(options), repr(settings)):
        assert "s3cret" not in text
        assert "t0ken" not in text


@pytest.mark.parametrize(
    "headers", ["s3cret", "name=value,s3cret", "=s3cret", "a b=s3cret", "näme=s3cret", "name=s3crét", "a=s3cret\nb"]
)
def test_headers_that_are_none(headers: str) -> None:
    with pytest.raises(InvalidArgumentError, match="headers") as caught:
        options_of("triton://host", Settings(triton_headers=headers))
    assert "s3cr" not in str(caught.value)


@pytest.mark.parametrize("token", ["s3c\nr3t", "s3cr\u00e9t"])
def test_a_token_that_cannot_be_sent(token: str) -> None:
    with pytest.raises(InvalidArgumentError, match="token") as caught:
        options_of("triton://host", Settings(triton_token=token))
    assert "s3c" not in str(caught.value)
    assert options_of("triton://host", Settings(triton_token="s3cret\n")).token == "s3cret"


def test_tls_files(tmp_path: Path) -> None:
    pem = make_certificate(tmp_path, "a")  # with its key
    options = options_of("tritons://host", Settings(triton_ca_file=str(pem)))
    assert (options.ca_file, options.cert_file, options.key_file) == (pem, None, None)
    options = options_of("tritons://host", Settings(triton_cert_file=str(pem), triton_key_file=str(pem)))
    assert (options.ca_file, options.cert_file, options.key_file) == (None, pem, pem)
    with pytest.raises(InvalidArgumentError, match=r"triton_ca_file is .*missing\.pem, which cannot be read: No such file"):
        options_of("tritons://host", Settings(triton_ca_file=str(tmp_path / "missing.pem")))
    with pytest.raises(InvalidArgumentError, match="TLS files are given, but models is 'triton://host'; expected: tritons://"):
        options_of("triton://host", Settings(triton_ca_file=str(pem)))
    for lonely in (Settings(triton_cert_file=str(pem)), Settings(triton_key_file=str(pem))):
        with pytest.raises(InvalidArgumentError, match="belong together; expected: both, or neither"):
            options_of("tritons://host", lonely)


def test_nothing_is_sent_when_a_backend_is_made() -> None:
    backend = open_backend(Settings(models="triton://host.invalid:1"), load_bundle("coop-small"))
    backend.close()


@pytest.mark.parametrize(
    ("status", "message", "kind", "says"),
    [
        ("UNAVAILABLE", "failed to connect to all addresses", ConnectionLostError, "cannot be reached"),
        ("UNAVAILABLE", "Socket closed", ConnectionLostError, "cannot be reached"),
        ("CANCELLED", "Channel closed!", ConnectionLostError, "cannot be reached"),
        (None, "no status at all", ConnectionLostError, "cannot be reached"),
        ("UNAVAILABLE", "Exceeds maximum queue size of 'm'", BackendUnavailableError, "overloaded"),
        ("UNAVAILABLE", "Request timeout expired", BackendUnavailableError, "overloaded"),
        ("UNAVAILABLE", "This protocol is restricted, expecting header 'x'", BackendUnavailableError, "refuses the request"),
        ("UNAUTHENTICATED", "who are you", BackendUnavailableError, "MILVUS_COOP_TRITON_TOKEN"),
        ("PERMISSION_DENIED", "not you", BackendUnavailableError, "MILVUS_COOP_TRITON_TOKEN"),
        ("DEADLINE_EXCEEDED", "Deadline Exceeded", BackendTimeoutError, "within 1.5 s"),
        ("NOT_FOUND", "Request for unknown model", NotServedError, "does not serve m"),
        ("UNAVAILABLE", "Request for unknown model: 'm' has no available versions", NotServedError, "does not serve m"),
        ("INVALID_ARGUMENT", "unexpected shape", BackendInputError, "refuses its input: unexpected shape"),
        ("INTERNAL", "Stub process 'm' is not healthy.", BackendUnavailableError, r"failed: Stub .* \(INTERNAL\)"),
        ("UNKNOWN", "what", BackendUnavailableError, r"failed: what \(UNKNOWN\)"),
        ("RESOURCE_EXHAUSTED", "too large", BackendUnavailableError, "RESOURCE_EXHAUSTED"),
        ("UNIMPLEMENTED", "nothing here", BackendUnavailableError, "UNIMPLEMENTED"),
    ],
)
def test_every_status_has_an_error(status: str | None, message: str, kind: type[BackendError], says: str) -> None:
    full = None if status is None else f"StatusCode.{status}"
    error = translate(InferenceServerException(message, full), "host:8001", "m", 1.5)
    assert type(error) is kind
    with pytest.raises(kind, match=says):
        raise error
    assert "host:8001" in str(error)
