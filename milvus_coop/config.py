"""Settings: the defaults, and the environment variables that change them. The SDK and the CLI read no other configuration."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from milvus_coop.errors import InvalidArgumentError

PREFIX = "MILVUS_COOP_"
YES_OR_NO = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}


@dataclass(frozen=True, slots=True)
class Settings:
    """Addresses, folders and limits. Each field is also an environment variable: `uri` is MILVUS_COOP_URI."""

    uri: str = "./milvus_coop.db"
    """Address of Milvus: a Milvus Lite path, or http(s)://host:19530."""
    token: str = field(default="", repr=False)
    """API key of a Milvus server, or `user:password`."""
    ca_file: str = ""
    """PEM file with the certificate authority of a Milvus server behind https://; '' means the system's authorities."""
    collection: str = "images"
    token_store: str = ""
    """Place of the token files, for bundles whose image tokens are too large for Milvus: a local folder, or s3://, gs://, az://,
    ... Each collection has its own folder there. '' means the place that the collection was created with; for a new collection,
    `<uri>.tokens` beside a Milvus Lite database."""
    bundle: str = "coop-small"
    """Name of a shipped bundle, or the folder of a bundle."""
    models: str = "onnx"
    """The backend that runs the bundle: `onnx` (in this process), `onnx:cuda` and the like, or triton://host:8001."""
    timeout_s: float = 10.0
    """Time limit of each call to Milvus and to a model server."""
    threads: int = 0
    """Number of threads of the in-process backend; 0 means one per core."""
    max_pixels: int = 89_478_485
    """Maximum number of pixels of an image that is decoded at full size (268 MB as RGB). Larger images are refused before they are
    decoded, except for JPEG files that are decoded at a reduced size."""
    triton_token: str = field(default="", repr=False)
    """Bearer token for a gateway in front of Triton."""
    triton_headers: str = field(default="", repr=False)
    """More gRPC headers for Triton, `name=value,name=value`. Triton's restricted protocols need one."""
    triton_ca_file: str = ""
    """PEM file with the certificate authority of a tritons:// server; '' means the system's authorities."""
    triton_cert_file: str = ""
    """PEM file with this client's certificate chain, for mutual TLS."""
    triton_key_file: str = ""
    """PEM file with this client's private key, for mutual TLS."""

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None) -> Settings:
        """The defaults, overridden by the environment variables that are set.

        Raises:
            InvalidArgumentError: a variable should hold a number and does not.
        """
        return replace(cls(), **read_environment(cls, PREFIX, environ))

    def override(self, **values: str | Path | int | float | None) -> Settings:
        """A copy of the settings with every given value that is not None; paths become strings."""
        given = {name: str(value) if isinstance(value, Path) else value for name, value in values.items() if value is not None}
        return replace(self, **given)  # type: ignore[arg-type]


def read_environment(settings: type[Any], prefix: str, environ: Mapping[str, str] | None = None) -> dict[str, Any]:
    """The fields of a dataclass that environment variables set.

    The variable of a field is `prefix` and the field's name in capitals. Its value is converted to the type of the field's default.

    Raises:
        InvalidArgumentError: a variable should hold a number, or yes or no, and does not.
    """
    environ = os.environ if environ is None else environ
    named = {item.name: (prefix + item.name.upper(), type(item.default)) for item in fields(settings)}
    return {name: _parse(variable, kind, text) for name, (variable, kind) in named.items() if (text := environ.get(variable, ""))}


def _parse(variable: str, kind: type, text: str) -> Any:
    if kind is tuple:
        return tuple(part for raw in text.split(",") if (part := raw.strip()))
    if kind is bool:
        if text.lower() not in YES_OR_NO:
            raise InvalidArgumentError(f"{variable} is '{text}'", expected=" or ".join(YES_OR_NO))
        return YES_OR_NO[text.lower()]
    try:
        return kind(text)
    except ValueError as exc:
        raise InvalidArgumentError(f"{variable} is '{text}'", expected="a number") from exc
