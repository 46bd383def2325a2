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
    "triton": ("tritonclient", "pip install 'milvus-coop[triton]'"),
    "service": ("fastapi", "pip install 'milvus-coop[serve]'"),
    "traces": ("opentelemetry-sdk", "pip install 'milvus-coop[trace]'"),
    "training": ("torch", "pip install 'milvus-coop[train]'"),
}


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the doctor's output."""

    name: str
    state: str
    """`ok`, `off` (optional and not installed) or `broken`."""
    detail: str


@click.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object per check and line.")
@with_settings(models=True)
def doctor(settings: Settings, as_json: bool) -> None:
    """Check this installation: versions, the bundle, the backend, Milvus. Exit code 1 if something is broken."""
    checks = [
        Check("python", "ok", f"{platform.python_version()} on {platform.system()} {platform.machine()}"),
        *map(_package, PACKAGES),
        _attempt("bundle", lambda: _bundle(settings)),
        _attempt("backend", lambda: _backend(settings)),
        _attempt("milvus", lambda: _milvus(settings)),
        *(_extra(name, *needs) for name, needs in EXTRAS.items()),
    ]
    for check in checks:
        if as_json:
            say_json(asdict(check))
        else:
            colour = {"ok": "green", "off": "yellow", "broken": "red"}[check.state]
            say(f"{check.state:7}", fg=colour, nl=False)
            say(f" {check.name:12} {check.detail}")
    if any(check.state == "broken" for check in checks):
        raise click.exceptions.Exit(1)


def _package(name: str) -> Check:
    from importlib import metadata  # slow to import

    try:
        return Check(name, "ok", metadata.version(name))
    except metadata.PackageNotFoundError:
        return Check(name, "broken", f"not installed; pip install {name}")


def _extra(name: str, package: str, command: str) -> Check:
    from importlib import metadata

    try:
        return Check(name, "ok", f"{package} {metadata.version(package)}")
    except metadata.PackageNotFoundError:
        return Check(name, "off", f"no {package}; {command}")


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
    return (
        f"{settings.models} encodes a text to {encoded.embeddings.shape[1]} dimensions; in-process devices: {', '.join(devices())}"
    )


def _milvus(settings: Settings) -> str:
    from pathlib import Path

    from milvus_coop.store import Store

    if "://" not in settings.uri and not Path(settings.uri).exists():
        return f"Milvus Lite; {settings.uri} will be made by the first ingest"
    with Store.from_settings(settings) as store:
        return f"{settings.uri}: {len(store.list())} collections"
