"""The locks of the container images fit pyproject.toml and constraints.txt, have hashes, and are all that images install."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from milvus_coop.serving.triton import install
from tests.deploy.compose import DEPLOY, ROOT
from tests.lowest import PROJECT

LOCKS = DEPLOY / "docker" / "locks"
EXTRAS: dict[str, tuple[str, ...]] = {
    "gateway": ("serve", "trace", "triton"),
    "triton": ("triton",),
    "ingest": ("triton",),
    "ingest-ray": ("triton", "s3", "ray"),
}
MORE = {"ingest": ("prometheus-client",), "ingest-ray": ("prometheus-client", "ray[default]")}
LEFT_OUT = {"milvus-lite", "faiss-cpu"}
"""Containers use a Milvus server."""
WITHOUT_PYARROW = ("gateway", "triton")
ENTRY = re.compile(
    r"^(?P<requirement>[^\s#\\][^\\\n]*?) \\\n(?P<hashes>(?: {4}--hash=sha256:[0-9a-f]{64}(?: \\)?\n?)+)", re.MULTILINE
)
PYTHON_IMAGE = "3.12"
"""The version of the images' Python."""


def environment(extra: str = "") -> dict[str, str]:
    """That of a marker in an image."""
    facts = {"python_version": PYTHON_IMAGE, "python_full_version": f"{PYTHON_IMAGE}.12", "sys_platform": "linux", "extra": extra}
    return {**{key: str(value) for key, value in default_environment().items()}, **facts, "platform_system": "Linux"}


@cache
def locked(path: Path) -> dict[str, Version]:
    """The packages that an image gets, with their versions. Every line must be one with hashes."""
    text = path.read_text(encoding="utf-8")
    rest = [line for line in ENTRY.sub("", text).splitlines() if line and not line.startswith("#")]
    assert rest == []
    found: dict[str, Version] = {}
    for match in ENTRY.finditer(text):
        requirement = Requirement(match["requirement"])
        (pin,) = requirement.specifier
        assert pin.operator == "=="
        if requirement.marker is None or requirement.marker.evaluate(environment()):
            name = canonicalize_name(requirement.name)
            assert name not in found
            found[name] = Version(pin.version)
    return found


def wanted(name: str) -> Iterator[Requirement]:
    """What an image needs of pyproject.toml."""
    optional = PROJECT["optional-dependencies"]
    lines = (*PROJECT["dependencies"], *(line for extra in EXTRAS[name] for line in optional[extra]), *MORE.get(name, ()))
    left_out = LEFT_OUT | ({"pyarrow"} if name in WITHOUT_PYARROW else set())
    for requirement in map(Requirement, lines):
        applies = requirement.marker is None or requirement.marker.evaluate(environment())
        if applies and canonicalize_name(requirement.name) not in left_out:
            yield requirement


def test_every_lock_is_tested() -> None:
    assert {path.stem for path in LOCKS.iterdir()} == {*EXTRAS, "build"}


@pytest.mark.parametrize("name", EXTRAS)
def test_a_lock_fits_pyproject_and_constraints(name: str) -> None:
    versions = locked(LOCKS / f"{name}.txt")
    for requirement in wanted(name):
        version = versions.get(canonicalize_name(requirement.name))
        assert version is not None, f"{requirement} is not in {name}.txt: make locks"
        assert version in requirement.specifier, f"{requirement} is {version} in {name}.txt: make locks"
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            constraint = Requirement(line)
            version = versions.get(canonicalize_name(constraint.name))
            applies = constraint.marker is None or constraint.marker.evaluate(environment())
            assert version is None or not applies or version in constraint.specifier, f"{line}, but {version}: make locks"
    assert not LEFT_OUT & versions.keys()


@pytest.mark.parametrize("name", EXTRAS)
def test_a_lock_has_what_its_packages_need(name: str) -> None:
    """As far as the same versions are installed here: pip looks at no dependencies when it installs a lock."""
    versions, looked_at = locked(LOCKS / f"{name}.txt"), 0
    for package, version in versions.items():
        try:
            here = distribution(package)
        except PackageNotFoundError:
            continue
        if Version(here.version) != version:
            continue
        looked_at += 1
        for requirement in map(Requirement, here.requires or ()):
            applies = requirement.marker is None or requirement.marker.evaluate(environment())
            if applies and canonicalize_name(requirement.name) not in LEFT_OUT | {"pyarrow"}:
                assert canonicalize_name(requirement.name) in versions, f"{package} needs {requirement}"
    assert looked_at > len(versions) // 2


def test_the_lock_of_tritonserver_has_its_requirements() -> None:
    versions = locked(install.LOCK)
    assert {
        line: versions[line.partition("==")[0]] in Requirement(line).specifier for line in install.REQUIREMENTS
    } == dict.fromkeys(install.REQUIREMENTS, True)


@pytest.mark.parametrize("path", [*sorted(LOCKS.iterdir()), install.LOCK], ids=lambda path: path.stem)
def test_a_lock_names_no_host(path: Path) -> None:
    assert locked(path)
    text = path.read_text(encoding="utf-8")
    assert "://" not in text
    assert "--index" not in text
    assert "make locks" in text


@pytest.mark.parametrize("path", sorted((DEPLOY / "docker").glob("*.Dockerfile")), ids=lambda path: path.stem)
def test_dockerfiles_install_only_what_has_a_hash(path: Path) -> None:
    """Or what they have built, without an index. The exception is TensorRT, whose version is that of NVIDIA's image."""
    text = path.read_text(encoding="utf-8")
    (options,) = re.findall(r'PIP_LOCKED="(.+)"', text)
    assert options == "--quiet --no-deps --only-binary=:all: --require-hashes"
    installs = re.findall(r"pip (?:install|wheel) (.+?)(?: \\\n| &&|\n)", text)
    assert len(installs) >= 4
    for words in installs:
        if "tensorrt==" not in words:
            assert words.startswith("$PIP_LOCKED") or "--no-index" in words, words
    for lock in re.findall(r" -r (\S+\.txt|\$\S+)", text):
        assert (LOCKS / lock.replace("${LOCK}", "ingest.txt")).is_file()
