"""Settings: defaults, and the environment variables that change them. The SDK and the CLI read nothing else."""

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
    """Where things are. Each field is also an environment variable: `uri` is MILVUS_COOP_URI."""

    uri: str = "./milvus_coop.db"
    """A Milvus Lite path, or http(s)://host:19530."""
    token: str = field(default="", repr=False)
    """API key, or `user:password`, of a Milvus server."""
    ca_file: str = ""
    """PEM file with the certificate authority of a Milvus server behind https://; '': the system's."""
    collection: str = "images"
    token_store: str = ""
    """Where the token files of collections are, a folder for each, for bundles whose image tokens are too large for Milvus: a local
    folder, or s3://, gs://, az://, ... '': where the collection was made with; for a new one `<uri>.tokens` beside a Milvus Lite
    database."""
    bundle: str = "coop-small"
    """Name of a shipped bundle, or a folder."""
    models: str = "onnx"
    """What runs the bundle: `onnx` (in this process), `onnx:cuda` and the like, or triton://host:8001."""
    timeout_s: float = 10.0
    """Limit for each call to Milvus and to a model server."""
    threads: int = 0
    """Threads of the in-process backend; 0: one per core."""
    triton_token: str = field(default="", repr=False)
    """Bearer token for a gateway in front of Triton."""
    triton_headers: str = field(default="", repr=False)
    """More gRPC headers for Triton, `name=value,name=value`; its restricted protocols ask for such."""
    triton_ca_file: str = ""
    """PEM file with the certificate authority of a tritons:// server; '': the system's."""
    triton_cert_file: str = ""
    """PEM file with this client's certificate chain, for mutual TLS."""
    triton_key_file: str = ""
    """PEM file with this client's private key, for mutual TLS."""

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None) -> Settings:
        """The defaults, changed by what the environment sets.

        Raises:
            InvalidArgumentError: if a variable that holds a number does not.
        """
        return replace(cls(), **read_environment(cls, PREFIX, environ))

    def override(self, **values: str | Path | int | float | None) -> Settings:
        """A copy with every value that is not None put in place; paths become strings."""
        given = {name: str(value) if isinstance(value, Path) else value for name, value in values.items() if value is not None}
        return replace(self, **given)  # type: ignore[arg-type]


def read_environment(settings: type[Any], prefix: str, environ: Mapping[str, str] | None = None) -> dict[str, Any]:
    """What the environment says of the fields of a dataclass, each named `prefix` and its name in capitals, as its default's type.

    Raises:
        InvalidArgumentError: if a variable that holds a number or a yes or no does not.
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
