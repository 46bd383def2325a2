"""The public surface, name by name: changing it is a decision."""

from __future__ import annotations

import importlib

import pytest

import milvus_coop
from milvus_coop import errors


def test_public_names() -> None:
    assert milvus_coop.__all__ == [
        "Backend",
        "Bundle",
        "BundleSpec",
        "CollectionInfo",
        "CoopIngest",
        "CoopModel",
        "CoopSearch",
        "Failure",
        "FakeBackend",
        "Fields",
        "Hit",
        "IngestReport",
        "MilvusCoopError",
        "QueryOptions",
        "SearchResult",
        "Settings",
        "Store",
        "Timings",
        "load_bundle",
    ]


@pytest.mark.parametrize("name", milvus_coop.__all__)
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(milvus_coop, name).__doc__


def test_unknown_name() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Nonsense'"):
        getattr(milvus_coop, "Nonsense")  # noqa: B009 - a static access would not type-check


def test_every_error_is_in_the_tree_of_the_docstring() -> None:
    module = importlib.import_module("milvus_coop.errors")
    classes = [c for c in vars(module).values() if isinstance(c, type) and issubclass(c, errors.MilvusCoopError)]
    tree = errors.__doc__ or ""
    assert len(classes) > 15
    for cls in classes:
        assert f"{cls.__name__}" in tree
        for base in cls.__bases__:
            if not issubclass(base, errors.MilvusCoopError):
                line = next(line for line in tree.splitlines() if f" {cls.__name__}" in line or line.strip() == cls.__name__)
                assert base is Exception or base.__name__ in line


def test_a_message_has_three_parts() -> None:
    error = errors.CollectionNotFoundError("no collection 'x'", expected="one of: a, b", run="milvus-coop ingest")
    assert str(error) == "no collection 'x'; expected: one of: a, b; try: milvus-coop ingest"
    assert isinstance(error, LookupError)
    unavailable = errors.StoreUnavailableError("Milvus is away", run="start it")
    assert str(unavailable) == "Milvus is away; try: start it"
    assert isinstance(unavailable, ConnectionError)
