from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from milvus_coop.config import PREFIX, Settings
from milvus_coop.errors import InvalidArgumentError


def test_defaults_then_environment_then_arguments() -> None:
    environ = {"MILVUS_COOP_URI": "http://milvus:19530", "MILVUS_COOP_TIMEOUT_S": "3", "MILVUS_COOP_BUNDLE": "", "URI": "x"}
    settings = Settings.from_env(environ).override(collection="mine", uri=None, bundle=Path("my") / "bundle")
    assert settings == dataclasses.replace(
        Settings(), uri="http://milvus:19530", timeout_s=3.0, collection="mine", bundle="my/bundle"
    )


def test_every_field_is_a_variable() -> None:
    for item in dataclasses.fields(Settings):
        changed = Settings.from_env({PREFIX + item.name.upper(): "7"})
        assert getattr(changed, item.name) == type(getattr(Settings(), item.name))("7")


def test_a_number_that_is_none() -> None:
    with pytest.raises(InvalidArgumentError, match="MILVUS_COOP_THREADS is 'many'; expected: a number"):
        Settings.from_env({"MILVUS_COOP_THREADS": "many"})


def test_the_token_is_not_shown() -> None:
    assert "secret" not in repr(Settings(token="secret"))
