"""`deploy/.env.example` lists every variable that the settings and the compose files read, with its default, and no other."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path
from typing import Any

from milvus_coop.config import PREFIX, Settings
from milvus_coop.serving.gateway.options import PREFIX as SERVE_PREFIX
from milvus_coop.serving.gateway.options import GatewayOptions
from tests.deploy.compose import ENV_EXAMPLE, FILES, SERVICES, interpolated

OF_COMPOSE = {"MILVUS_ROOT_PASSWORD": "", "GATEWAY_PORT": "8080", "MILVUS_PORT": "19530", "PICTURES": "./pictures"}
"""What only compose.yaml reads, and what it takes where the variable is not set."""
JOB = [name for name, service in SERVICES.items() if service.get("profiles")]


def listed() -> dict[str, str]:
    """Variables of the example and their values, whether on or off."""
    return dict(re.findall(r"^(?:# )?([A-Z][A-Z0-9_]*)=(.*)$", ENV_EXAMPLE.read_text(encoding="utf-8"), re.MULTILINE))


def defaults(settings: Any, prefix: str) -> dict[str, str]:
    """Variables of a settings class and their defaults as one would write them."""
    return {prefix + item.name.upper(): _text(getattr(settings, item.name)) for item in fields(settings)}


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ",".join(value) if isinstance(value, tuple) else str(value)


def test_it_lists_everything_with_its_default() -> None:
    assert listed() == {**defaults(Settings(), PREFIX), **defaults(GatewayOptions(), SERVE_PREFIX), **OF_COMPOSE}


def test_each_variable_is_there_once() -> None:
    names = re.findall(r"^(?:# )?([A-Z][A-Z0-9_]*)=", ENV_EXAMPLE.read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(names) == sorted(set(names))


def test_compose_reads_nothing_else() -> None:
    for file in FILES:
        read = interpolated(file)
        assert set(read) <= set(listed()), file
        for name, default in OF_COMPOSE.items():
            assert {read.get(name, default)} <= {default, None}, name


def test_what_has_no_default_is_what_compose_demands() -> None:
    on = re.findall(r"^([A-Z_]+)=(.*)$", ENV_EXAMPLE.read_text(encoding="utf-8"), re.MULTILINE)
    text = FILES[0].read_text(encoding="utf-8")
    assert {name for name, _ in on} == set(re.findall(r"\$\{(\w+):\?", text))
    assert {value for _, value in on} == {""}  # nobody starts with a password that is in the repository


def test_every_setting_reaches_the_containers() -> None:
    assert set(SERVICES["gateway"]["environment"]) == {*defaults(Settings(), PREFIX), *defaults(GatewayOptions(), SERVE_PREFIX)}
    assert JOB == ["ingest"]
    assert set(SERVICES["ingest"]["environment"]) == set(defaults(Settings(), PREFIX))


def test_the_example_is_never_a_real_one() -> None:
    ignored = (Path(__file__).parents[2] / ".gitignore").read_text(encoding="utf-8").split()
    assert "/deploy/.env" in ignored
