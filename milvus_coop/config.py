"""Settings: the defaults, and the environment variables that change them. The SDK and the CLI read no other configuration."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypedDict

from milvus_coop.arguments import check_names, many, real_number, strings, whole_number
from milvus_coop.cores import MAX_THREADS
from milvus_coop.errors import InvalidArgumentError, quoted

PREFIX = "MILVUS_COOP_"
MAX_TIMEOUT_S = 86_400.0
MAX_IMAGE_PIXELS = 10**10
MAX_REMEMBERED_TEXTS = 10**6
_LIMITS = {"threads": (0, MAX_THREADS), "max_pixels": (1, MAX_IMAGE_PIXELS), "remembered_texts": (0, MAX_REMEMBERED_TEXTS)}
"""The bounds of the settings that are whole numbers."""
LIST = "a list of folders and addresses"
YES_OR_NO = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}


@dataclass(frozen=True, slots=True)
class Settings:
    """The connection: addresses, folders and limits. Each field is also an environment variable: `uri` is MILVUS_COOP_URI.

    Paths become strings.

    Raises:
        InvalidArgumentError: a value has the wrong type or is out of range.
    """

    uri: str = "./milvus_coop.db"
    """Address of Milvus: a Milvus Lite path, or http(s)://host:19530."""
    token: str = field(default="", repr=False)
    """API key of a Milvus server, or `user:password`."""
    ca_file: str = ""
    """PEM file with the certificate authority of a Milvus server behind https://; '' means the system's authorities."""
    collection: str = "images"
    """Name of the collection."""
    token_store: str = ""
    """Place of the token files, for bundles whose image tokens are too large for Milvus: a local folder, or s3://, gs://, az://,
    ... Each collection has its own folder there. '' means the place that the collection was created with; for a new collection,
    `<uri>.tokens` beside a Milvus Lite database."""
    bundle: str = "coop-small"
    """Name of a shipped bundle, or the folder of a bundle. `NAME@FINGERPRINT` opens only the bundle with that fingerprint."""
    models: str = "onnx"
    """The backend that runs the bundle: `onnx` (in this process), `onnx:cuda` and the like, or triton://host:8001."""
    timeout_s: float = 10.0
    """Time limit of each call to Milvus and to a model server."""
    wait_s: float = 0.0
    """Time to wait for a Milvus Lite folder that another process has open; 0 means an error at once."""
    threads: int = 0
    """Number of threads of the in-process backend; 0 means one per core."""
    max_pixels: int = 89_478_485
    """Maximum number of pixels of an image that is decoded at full size (268 MB as RGB). Larger images are refused before they are
    decoded, except for JPEG files that are decoded at a reduced size."""
    remembered_texts: int = 256
    """Number of query texts whose encodings an open search remembers; 0: none. A text that is asked again, for another page or with
    another filter, is not encoded again."""
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

    embedder: str = ""
    """Address of an embedding server that takes the place of the bundle: `PROTOCOL+https://host/path?model=NAME`, where PROTOCOL is
    openai, vllm, nvclip, nim or jina. '' means the bundle. See docs/servers.md."""
    embedder_model: str = ""
    """Name of the model that embeds; '' means the one after `?model=` in the address."""
    embedder_key: str = field(default="", repr=False)
    """Key of the embedding server. It is sent over https:// and on loopback only."""
    embedder_ca_file: str = ""
    """PEM file with the certificate authority of the embedding server; '' means the system's authorities."""

    reranker: str = ""
    """Address of a rerank server that takes the place of the bundle's cross-encoder in searches: `PROTOCOL+https://host/path`,
    where PROTOCOL is vllm, sglang, nim, jina, cohere or tei. '' means the cross-encoder of the bundle. See docs/servers.md."""
    reranker_model: str = ""
    """Name of the model that the rerank server runs; '' means the one after `?model=` in the address, if there is one."""
    reranker_key: str = field(default="", repr=False)
    """Key of the rerank server. It is sent over https:// and on loopback only."""
    reranker_ca_file: str = ""
    """PEM file with the certificate authority of the rerank server; '' means the system's authorities."""
    reranker_roots: tuple[str, ...] = ()
    """Folders, and prefixes of object stores such as s3://bucket/photos, whose images may be sent to the rerank server. No other
    image is, whatever the rows name."""

    def __post_init__(self) -> None:
        """Check and convert the values."""
        for item in fields(self):
            value = getattr(self, item.name)
            if isinstance(item.default, tuple):
                checked: Any = tuple(
                    os.fspath(part) if isinstance(part, os.PathLike) else part for part in many(item.name, value, LIST)
                )
                if "" in strings(item.name, checked, LIST):
                    raise InvalidArgumentError(f"{item.name} has an empty name", expected="folders and addresses")
            elif isinstance(item.default, str):
                checked = os.fspath(value) if isinstance(value, os.PathLike) else value
                if not isinstance(checked, str):
                    # A secret must not appear in a message, whatever its type.
                    raise InvalidArgumentError(
                        f"{item.name} is {quoted(value)}" if item.repr else f"{item.name} is a {type(value).__name__}",
                        expected="a string",
                    )
            elif isinstance(item.default, float):
                above, least = (math.nextafter(0, -1), "at least 0") if item.default == 0 else (0, "more than 0")
                expected = f"{least} and at most {MAX_TIMEOUT_S:,.0f} seconds"
                checked = real_number(item.name, value, expected, above=above, maximum=MAX_TIMEOUT_S)
            else:
                checked = whole_number(item.name, value, *_LIMITS[item.name])
            object.__setattr__(self, item.name, checked)

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None) -> Settings:
        """The defaults, overridden by the environment variables that are set.

        Raises:
            InvalidArgumentError: a variable should hold a number and does not.
        """
        return replace(cls(), **read_environment(cls, PREFIX, environ))

    @classmethod
    def of(cls, settings: Settings | None) -> Settings:
        """These settings; those of the environment if there are none.

        Raises:
            InvalidArgumentError: `settings` is something else, or a variable has a wrong value.
        """
        if settings is not None and not isinstance(settings, Settings):
            raise InvalidArgumentError(f"settings is {quoted(settings)}", expected="a Settings object")
        return cls.from_env() if settings is None else settings

    def override(self, **values: object) -> Settings:
        """A copy of the settings with every given value that is not None.

        Raises:
            UnknownArgumentError: there is no such setting.
            InvalidArgumentError: a value has the wrong type or is out of range.
        """
        check_names(values, (item.name for item in fields(self)))
        return replace(self, **{name: value for name, value in values.items() if value is not None})  # type: ignore[arg-type]


class ModelArguments(TypedDict, total=False):
    """The fields of `Settings` that models need, as keyword arguments of a constructor with the parameters `bundle` and `models`.

    None stands for the value of the `settings` argument.
    """

    timeout_s: float | None
    threads: int | None
    max_pixels: int | None
    triton_token: str | None
    triton_headers: str | None
    triton_ca_file: str | Path | None
    triton_cert_file: str | Path | None
    triton_key_file: str | Path | None


class SettingsArguments(ModelArguments, total=False):
    """The fields of `Settings` as keyword arguments of a constructor with the parameters `collection` and `models`."""

    uri: str | Path | None
    token: str | None
    wait_s: float | None
    ca_file: str | Path | None
    token_store: str | Path | None
    remembered_texts: int | None
    bundle: str | Path | None
    embedder: str | None
    embedder_model: str | None
    embedder_key: str | None
    embedder_ca_file: str | Path | None
    reranker: str | None
    reranker_model: str | None
    reranker_key: str | None
    reranker_ca_file: str | Path | None
    reranker_roots: Iterable[str | Path] | None


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
            raise InvalidArgumentError(f"{variable} is {quoted(text)}", expected=" or ".join(YES_OR_NO))
        return YES_OR_NO[text.lower()]
    try:
        return kind(text)
    except ValueError as exc:
        raise InvalidArgumentError(f"{variable} is {quoted(text)}", expected="a number") from exc
