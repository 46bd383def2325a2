"""The four systems of the paper, and which of them a bundle offers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

from milvus_coop.bundle import BundleSpec
from milvus_coop.config import Settings
from milvus_coop.errors import InvalidArgumentError
from milvus_coop.models.backends import Backend
from milvus_coop.models.open import Models, open_models
from milvus_coop.offline.evaluation.memo import MemoBackend

System = Literal["be", "ce", "sep-coop", "joint-coop"]
SYSTEMS: tuple[System, ...] = get_args(System)

LABELS: Mapping[str, str] = {"be": "BE", "ce": "CE", "sep-coop": "Sep+Coop", "joint-coop": "Joint+Coop"}
"""The names of the systems in the paper's tables."""


@dataclass(frozen=True, slots=True)
class BundleChoice:
    """One bundle to evaluate."""

    bundle: str | Path
    """The name of a shipped bundle, or a folder."""
    backend: Backend | None = None
    """The backend that runs the bundle, instead of the one in the settings. The caller closes it."""
    name: str = ""
    """The name in tables; by default the bundle's own name."""


@dataclass(frozen=True, slots=True)
class OpenedBundle:
    """A bundle with the backend that runs it."""

    name: str
    models: Models
    settings: Settings

    @property
    def spec(self) -> BundleSpec:
        """The bundle's record."""
        return self.models.encoder.spec

    @property
    def coop(self) -> System:
        """The Coop system of this bundle: `joint-coop` for one model in both roles, `sep-coop` for two models."""
        return "joint-coop" if self.spec.kind == "joint" else "sep-coop"

    def with_memo(self) -> OpenedBundle:
        """The same bundle on a backend that encodes nothing twice; see `MemoBackend`."""
        return replace(self, models=open_models(self.settings, MemoBackend(self.models.backend)))

    def offers(self, systems: Sequence[System]) -> list[System]:
        """The systems, out of those given, that this bundle offers."""
        return [system for system in systems if system in ("be", "ce", self.coop)]


def open_bundles(bundles: Sequence[str | Path | BundleChoice], settings: Settings) -> list[OpenedBundle]:
    """Open every bundle, each under a unique name.

    Raises:
        InvalidArgumentError: no bundle is given.
        BundleError, BackendError: a bundle cannot be used.
    """
    if not bundles:
        raise InvalidArgumentError("no bundle is given", expected="at least one", run="milvus-coop bundle list")
    opened: list[OpenedBundle] = []
    try:
        for bundle in bundles:
            choice = bundle if isinstance(bundle, BundleChoice) else BundleChoice(bundle)
            own = settings.override(
                bundle=choice.bundle, reranker="", remembered_texts=0
            )  # the cost is that of a text which is new
            models = open_models(own, choice.backend)
            opened.append(OpenedBundle(choice.name or models.encoder.spec.name, models, own))
    except BaseException:
        close_bundles(opened)
        raise
    names = [one.name for one in opened]
    return [replace(one, name=_unique(one, i, names)) for i, one in enumerate(opened)]


def close_bundles(opened: Sequence[OpenedBundle]) -> None:
    """Close the backends that were opened here."""
    for one in opened:
        one.models.close()


def check_systems(systems: Sequence[str], opened: Sequence[OpenedBundle]) -> list[System]:
    """The systems to evaluate. If none is named, all that the bundles offer.

    Raises:
        InvalidArgumentError: there is no such system, or no bundle offers it.
    """
    if unknown := [name for name in systems if name not in SYSTEMS]:
        raise InvalidArgumentError(f"there is no system '{unknown[0]}'", expected=f"some of {', '.join(SYSTEMS)}")
    asked = [system for system in SYSTEMS if not systems or system in systems]
    offered = {system for one in opened for system in one.offers(SYSTEMS)}
    for system in asked:
        if systems and system not in offered:
            kind = "joint" if system == "joint-coop" else "separate"
            have = ", ".join(f"{e.name} ({e.spec.kind})" for e in opened)
            raise InvalidArgumentError(f"no bundle offers '{system}': {have}", expected=f"a --bundle of kind {kind}")
    return asked


def _unique(opened: OpenedBundle, position: int, names: Sequence[str]) -> str:
    if names.count(opened.name) == 1:
        return opened.name
    return f"{opened.spec.label} #{position + 1}"
