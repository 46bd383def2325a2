"""`milvus-coop doctor`: a check of what works here, and of what to install for the rest."""

from __future__ import annotations

import platform
from collections.abc import Callable
from dataclasses import asdict, dataclass

import click

from milvus_coop.cli.lines import say, say_json
from milvus_coop.cli.options import with_settings
from milvus_coop.config import Settings
from milvus_coop.errors import MilvusCoopError

PACKAGES = ("milvus-coop", "pymilvus", "milvus-lite", "onnxruntime", "tokenizers", "numpy", "pillow", "fsspec")
EXTRAS = {
    "ray": "ray",
    "triton": "tritonclient",
    "serve": "fastapi",
    "trace": "opentelemetry-sdk",
    "heif": "pillow-heif",
    "s3": "s3fs",
    "train": "torch",
    "eval": "matplotlib",
    "langchain": "langchain-core",
    "llama-index": "llama-index-core",
    "haystack": "haystack-ai",
}
"""Each extra of milvus-coop, and the package that shows whether it is installed."""
DRIVERS = {"gs": "gcsfs", "az": "adlfs"}
"""The packages for object stores that have no extra, by the protocol of their addresses."""


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the doctor's output."""

    name: str
    state: str
    """`ok`, `off` (optional and not installed) or `broken`."""
    detail: str
    install: str = ""
    """The command that installs what is missing."""


@click.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object per check and line.")
@with_settings(models=True, embedder=True, reranker=True)
def doctor(settings: Settings, as_json: bool) -> None:
    """Check this installation: versions, the bundle, the backend, Milvus, and optional parts with the command that installs each.

    Exit code 1 if something is broken.
    """
    checks = [
        Check("python", "ok", f"{platform.python_version()} on {platform.system()} {platform.machine()}"),
        *map(_package, PACKAGES),
        _attempt("bundle", lambda: _bundle(settings)),
        _attempt("backend", lambda: _backend(settings)),
        _attempt("milvus", lambda: _milvus(settings)),
        *([_attempt("reranker", lambda: _reranker(settings))] if settings.reranker else ()),
        *_outdated(settings),
        *(_optional(name, package, f"'milvus-coop[{name}]'") for name, package in EXTRAS.items()),
        *(_optional(name, package, package) for name, package in DRIVERS.items()),
    ]
    for check in checks:
        if as_json:
            say_json(asdict(check))
        else:
            colour = {"ok": "green", "off": "yellow", "broken": "red"}[check.state]
            say(f"{check.state:7}", fg=colour, nl=False)
            say(f" {check.name:12} {'; '.join(filter(None, (check.detail, check.install)))}")
    if any(check.state == "broken" for check in checks):
        raise click.exceptions.Exit(1)


def _package(name: str) -> Check:
    if version := _version(name):
        return Check(name, "ok", version)
    if instead := _builds_of(name):
        return Check(name, "ok", instead)
    return Check(name, "broken", "not installed", f"pip install {name}")


def _builds_of(module: str) -> str:
    """The packages that install this module under other names, as `onnxruntime-gpu` does, with their versions."""
    from importlib import metadata

    packages = metadata.packages_distributions().get(module, ())
    return ", ".join(f"{package} {_version(package)}" for package in dict.fromkeys(packages))


def _optional(name: str, package: str, requirement: str) -> Check:
    version = _version(package)
    if version:
        return Check(name, "ok", f"{package} {version}")
    return Check(name, "off", f"no {package}", f"pip install {requirement}")


def _version(package: str) -> str:
    """The version of an installed package, or ''."""
    from importlib import metadata  # slow to import

    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def _attempt(name: str, detail: Callable[[], str]) -> Check:
    try:
        return Check(name, "ok", detail())
    except MilvusCoopError as exc:
        return Check(name, "broken", str(exc))


def _bundle(settings: Settings) -> str:
    from milvus_coop.bundle import load_bundle

    bundle = load_bundle(settings.bundle)
    bundle.verify()
    return f"{bundle.spec.label}, fingerprint {bundle.spec.fingerprint}, every file verified"


def _backend(settings: Settings) -> str:
    from milvus_coop.models.backends.onnx import devices
    from milvus_coop.models.open import open_models

    models = open_models(settings)
    encoded = models.encoder.encode_texts(["a red apple"])
    models.close()
    name = settings.embedder.partition("?")[0] or settings.models
    return f"{name} encodes a text to {encoded.embeddings.shape[1]} dimensions; in-process devices: {', '.join(devices())}"


def _reranker(settings: Settings) -> str:
    from milvus_coop.deadline import NEVER
    from milvus_coop.search.remote.address import rerank_server_of
    from milvus_coop.search.remote.client import RerankClient

    server = rerank_server_of(settings)
    assert server is not None  # noqa: S101 - the settings name one
    found = RerankClient(server, settings.timeout_s).score("a red apple", ["an apple", "a rainy street"], NEVER)
    named = f" with the model {server.server.model}" if server.server.model else ""
    return f"{server.server.label}{named} scores two texts: {', '.join(f'{p:.3f}' for p in found.probability)}"


def _milvus(settings: Settings) -> str:
    from pathlib import Path

    from milvus_coop.store import Store

    if "://" not in settings.uri and not Path(settings.uri).exists():
        return f"Milvus Lite; {settings.uri} will be made by the first ingest"
    with Store.from_settings(settings) as store:
        return f"{settings.uri}: {len(store.list())} collections"


def _outdated(settings: Settings) -> list[Check]:
    """A check for each collection of this bundle's texts that lacks their states. Nothing if the bundle or Milvus is broken."""
    from pathlib import Path

    from milvus_coop.bundle import load_bundle
    from milvus_coop.bundle.text_states import text_states
    from milvus_coop.store import Store

    if "://" not in settings.uri and not Path(settings.uri).exists():
        return []
    try:
        spec = load_bundle(settings.bundle).spec
        with Store.from_settings(settings) as store:
            infos = store.list() if text_states(spec) else []
    except MilvusCoopError:
        return []
    found = [info.name for info in infos if info.kind == "text" and info.fingerprint == spec.fingerprint and not info.tokens]
    detail = "keeps no states of its texts, as an earlier version made it: an image query encodes each candidate again"
    run = "to upgrade, ingest the texts into a new collection: milvus-coop ingest SOURCES --texts --collection NAME"
    return [Check("text states", "off", f"'{name}' {detail}", run) for name in found]
