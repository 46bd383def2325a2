"""Options of the service: safe unless told otherwise."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from milvus_coop.errors import InvalidArgumentError
from milvus_coop.serving.gateway.options import PREFIX, GatewayOptions
from tests.gateway.conftest import KEY


def test_each_option_is_an_environment_variable() -> None:
    environ = {"HOST": "::1", "PORT": "1", "API_KEYS": f"{KEY}, second", "ANONYMOUS": "yes", "TIMEOUT_S": "2.5", "ROOTS": "a,b"}
    options = GatewayOptions.from_env({PREFIX + name: value for name, value in environ.items()})
    assert (options.host, options.port, options.api_keys) == ("::1", 1, (KEY, "second"))
    assert (options.anonymous, options.timeout_s, options.roots) == (True, 2.5, ("a", "b"))
    for item in fields(GatewayOptions):
        assert GatewayOptions.from_env({PREFIX + item.name.upper(): "1"}) != GatewayOptions(), item.name
    for name, value in (("PORT", "x"), ("ANONYMOUS", "perhaps")):
        with pytest.raises(InvalidArgumentError, match=PREFIX + name):
            GatewayOptions.from_env({PREFIX + name: value})


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("KEY_FILTER", "expected: MILVUS_COOP_SERVE_KEY_FILTERS"),
        ("API_KEY", "expected: MILVUS_COOP_SERVE_API_KEYS"),
        ("ROOT", "expected: MILVUS_COOP_SERVE_ROOTS"),
        ("RATELIMIT", "expected: MILVUS_COOP_SERVE_RATE_LIMIT"),
        ("Max_K", "expected: MILVUS_COOP_SERVE_MAX_K"),
        ("ZZZ", "expected: one of those in `milvus-coop serve --help`"),
        ("", "expected: one of those"),
    ],
)
def test_a_variable_that_no_option_has_is_refused(name: str, expected: str) -> None:
    """Without its filters, a service would show every tenant everything."""
    for value in (KEY, ""):
        with pytest.raises(InvalidArgumentError, match=f"no option has the variable '{PREFIX}{name}'; {expected}") as caught:
            GatewayOptions.from_env({PREFIX + name: value, f"{PREFIX}PORT": "1", "MILVUS_COOP_URI": "x"})
        assert KEY not in str(caught.value)


def test_keys_are_not_shown() -> None:
    assert KEY not in repr(GatewayOptions(api_keys=(KEY,)))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"host": "0.0.0.0"}, "anybody"),
        ({"host": "::"}, "anybody"),
        ({"host": "example.com"}, "anybody"),
        ({"api_keys": ("short",)}, "too short"),
        ({"api_keys": ("long enough but with spaces",)}, "odd characters"),
        ({"timeout_s": 0}, "timeout_s is 0"),
        ({"timeout_s": float("nan")}, "timeout_s is nan"),
        ({"shutdown_s": float("inf")}, "shutdown_s is inf"),
        ({"host": ""}, "host is empty"),
        ({"port": 65_536}, "port is 65536"),
        ({"port": -1}, "port is -1"),
        ({"uploads": f"{__file__}/uploads"}, "nothing can be written"),
        ({"max_k": 0}, "max_k"),
        ({"waiting": -1}, "waiting"),
        ({"roots": ("/no/such/folder",)}, "/no/such/folder"),
        ({"cors_origins": ("*",)}, "CORS"),
        ({"cors_origins": ("https://a.example/path",)}, "CORS"),
        ({"cors_origins": ("https://",)}, "CORS"),
    ],
)
def test_what_is_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidArgumentError, match=said.replace("*", r"\*")):
        GatewayOptions(**options).check()


def test_what_is_taken() -> None:
    for options in (
        GatewayOptions(),
        GatewayOptions(host="127.0.0.9"),
        GatewayOptions(host="::1"),
        GatewayOptions(host="localhost"),
        GatewayOptions(host="0.0.0.0", api_keys=(KEY,)),
        GatewayOptions(host="0.0.0.0", anonymous=True),
        GatewayOptions(waiting=0, cors_origins=("https://a.example", "http://localhost:3000")),
    ):
        options.check()


def test_folders_that_may_be_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert GatewayOptions().folders() == (tmp_path,)  # on loopback: where the service was started
    assert GatewayOptions(host="0.0.0.0").folders() == ()
    assert GatewayOptions(host="0.0.0.0", uploads="up").folders() == (tmp_path / "up",)
    assert GatewayOptions(roots=("photos",)).folders() == (tmp_path / "photos",)


def test_slots() -> None:
    assert GatewayOptions(concurrency=3).slots("onnx") == 3
    assert GatewayOptions().slots("onnx:cuda") >= 2
    assert GatewayOptions().slots("triton://localhost:8001") == 32
