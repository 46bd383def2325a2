"""Address of a Triton server, and the options of a connection to it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from milvus_coop.certificates import check_certificates, check_key_pair
from milvus_coop.config import Settings
from milvus_coop.errors import InvalidArgumentError, quoted

SCHEMES = ("triton", "tritons")
DEFAULT_PORT = 8001
EXPECTED = "triton://host:8001, or tritons://host:8001 (TLS)"
_NAME = re.compile("[0-9a-z_.-]+")
_VALUE = re.compile("[ -~]*")
"""The names and values of headers that gRPC accepts."""


@dataclass(frozen=True, slots=True)
class TritonOptions:
    """Address, credentials and limits of a connection to a Triton server."""

    address: str
    """`host:port` of its gRPC endpoint, or a gRPC target such as `dns:///triton:8001`."""
    tls: bool = False
    ca_file: Path | None = None
    """PEM file with the certificate authority; None means the system's authorities."""
    cert_file: Path | None = None
    """PEM file with this client's certificate chain, for mutual TLS."""
    key_file: Path | None = None
    """PEM file with this client's private key, for mutual TLS."""
    token: str = field(default="", repr=False)
    """Bearer token for a gateway in front of Triton."""
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    """More gRPC metadata, such as `{"triton-grpc-protocol-admin-key": "..."}` for Triton's restricted protocols."""
    timeout_s: float = 10.0
    """Time limit of a call that does not set its own."""
    in_flight: int = 4
    """Maximum number of simultaneous requests of one call whose batch is larger than the model's maximum."""

    @property
    def metadata(self) -> dict[str, str]:
        """The headers of every request."""
        return {**self.headers, **({"authorization": f"Bearer {self.token}"} if self.token else {})}


def options_of(models: str, settings: Settings) -> TritonOptions:
    """The options from an address `triton://...` and from the settings.

    Raises:
        InvalidArgumentError: the address is not valid, a file is missing, or TLS files are given without TLS.
    """
    try:
        parts = urlsplit(models)
        host, port = parts.hostname, DEFAULT_PORT if parts.port is None else parts.port
    except ValueError as exc:
        raise InvalidArgumentError(f"models is {quoted(models)}, which has no valid host and port", expected=EXPECTED) from exc
    if "@" in models:
        raise InvalidArgumentError("models names a user, and perhaps a password", expected=EXPECTED, run="MILVUS_COOP_TRITON_TOKEN")
    if parts.scheme not in SCHEMES or not host or not port or parts.path.strip("/") or parts.query:
        raise InvalidArgumentError(f"models is {quoted(models)}", expected=EXPECTED)
    files = (settings.triton_ca_file, settings.triton_cert_file, settings.triton_key_file)
    ca_file, cert_file, key_file = (Path(name) if name else None for name in files)
    tls = parts.scheme == "tritons"
    if not tls and (ca_file or cert_file or key_file):
        raise InvalidArgumentError(f"TLS files are given, but models is {quoted(models)}", expected="tritons://host:8001")
    if (cert_file is None) != (key_file is None):
        raise InvalidArgumentError("a client certificate and its key belong together", expected="both, or neither")
    if ca_file is not None:
        check_certificates(ca_file, "triton_ca_file")
    if cert_file is not None and key_file is not None:
        check_key_pair(cert_file, key_file, ("triton_cert_file", "triton_key_file"))
    token = settings.triton_token.strip()  # files with secrets often end with a line break
    if not _VALUE.fullmatch(token):
        raise InvalidArgumentError("the Triton token has characters that no header can hold", expected="printable ASCII")
    host = f"[{host}]" if ":" in host else host
    return TritonOptions(
        f"{host}:{port}",
        tls=tls,
        ca_file=ca_file,
        cert_file=cert_file,
        key_file=key_file,
        token=token,
        headers=_headers(settings.triton_headers),
        timeout_s=settings.timeout_s,
    )


def _headers(text: str) -> dict[str, str]:
    pairs = (pair.partition("=") for pair in text.split(",") if pair.strip())
    headers = {name.strip().lower(): value.strip() if sign else None for name, sign, value in pairs}
    given = {
        name: value for name, value in headers.items() if value is not None and _NAME.fullmatch(name) and _VALUE.fullmatch(value)
    }
    if len(given) < len(headers):
        raise InvalidArgumentError("the Triton headers are not well formed", expected="name=value,name=value in printable ASCII")
    return given
