"""Options that several commands share. Each is also an environment variable, read by `Settings.from_env`."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import fields
from typing import Any, TypeVar

import click

from milvus_coop.config import PREFIX, Settings

Command = TypeVar("Command", bound=Callable[..., Any])

_DEFAULTS = Settings()


def _option(name: str, help_text: str, **kwargs: Any) -> Callable[[Command], Command]:
    field = name.lstrip("-").replace("-", "_").removesuffix("_s")
    field = {"timeout": "timeout_s", "wait": "wait_s"}.get(field, field)
    default = getattr(_DEFAULTS, field)
    shown = f"default {default}; " if default else ""
    return click.option(name, field, type=type(default), help=f"{help_text} [{shown}{PREFIX}{field.upper()}]", **kwargs)


_STORE = (
    _option("--uri", "A Milvus Lite path, or http(s)://host:19530."),
    _option("--token", "API key, or user:password, of a Milvus server. Prefer the variable: arguments are visible to others."),
    _option("--ca-file", "Certificate authority (PEM) of a server behind https://."),
    _option("--token-store", "Place of the token files, for bundles that have them: a folder, s3://, gs://, az://, ..."),
    _option(
        "--wait", "Seconds to wait for a Milvus Lite folder that another process has open. By default that is an error at once."
    ),
)
_TIMEOUT = (_option("--timeout", "Seconds for each call to Milvus and to a model server."),)
_COLLECTION = (_option("--collection", "Name of the collection."),)
_MODELS = (
    _option("--bundle", "Name of a shipped bundle, or a bundle's folder."),
    _option("--models", "What runs the bundle: onnx (in this process), onnx:cuda and the like, or triton://host:8001."),
    _option("--threads", "Threads of the model in this process, at most one per core; 0: one per core."),
    _option("--max-pixels", "Maximum pixels of an image that is decoded at full size."),
)


_EMBEDDER = (
    _option(
        "--embedder",
        "An embedding server in the place of the bundle: PROTOCOL+https://host/path?model=NAME, "
        "with PROTOCOL one of openai, vllm, nvclip, nim, jina. Its key is in MILVUS_COOP_EMBEDDER_KEY.",
    ),
)
_RERANKER = (
    _option(
        "--reranker",
        "A rerank server in the place of the bundle's cross-encoder: PROTOCOL+https://host/path?model=NAME, "
        "with PROTOCOL one of vllm, sglang, nim, jina, cohere, tei. Its key is in MILVUS_COOP_RERANKER_KEY.",
    ),
    click.option(
        "--reranker-root",
        "reranker_roots",
        multiple=True,
        callback=lambda context, parameter, value: value or None,
        help=f"Folder whose images may be sent to the rerank server, or s3://bucket/prefix; repeatable. [{PREFIX}RERANKER_ROOTS]",
    ),
)


def with_settings(
    *,
    store: bool = True,
    collection: bool = False,
    models: bool = False,
    bundle: bool = False,
    embedder: bool = False,
    reranker: bool = False,
) -> Callable[[Command], Command]:
    """Add the options of a Milvus connection to a command, which gets them as one `settings: Settings`.

    Args:
        store: add the options of the connection itself. Without them the command has only `--timeout`.
        collection: add `--collection`.
        models: add `--bundle`, `--models`, `--threads` and `--max-pixels`.
        bundle: add `--bundle` alone.
        embedder: add `--embedder`.
        reranker: add `--reranker` and `--reranker-root`.
    """
    options = (_STORE if store else ()) + _TIMEOUT + (_COLLECTION if collection else ()) + (_MODELS if models else ())
    options += (_MODELS[:1] if bundle else ()) + (_EMBEDDER if embedder else ())
    options += _RERANKER if reranker else ()

    def decorate(command: Command) -> Command:
        @functools.wraps(command)
        def run(**kwargs: Any) -> Any:
            given = {name: kwargs.pop(name) for name in _NAMES & kwargs.keys()}
            return command(settings=Settings.from_env().override(**given), **kwargs)

        wrapped: Any = run
        for option in reversed(options):
            wrapped = option(wrapped)
        return wrapped  # type: ignore[no-any-return]

    return decorate


_NAMES = {item.name for item in fields(Settings)}
