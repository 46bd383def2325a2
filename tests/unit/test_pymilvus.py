"""The private parts of pymilvus that this package needs are there, in the newest and in the lowest version that it allows."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import pymilvus
import pytest
from pymilvus.client.utils import SciPyHelper

from milvus_coop.errors import StoreError, StoreUnavailableError
from milvus_coop.store import Store
from milvus_coop.store.handler import handler_of
from tests.contract.store_samples import SPEC
from tests.contract.test_store_failures import Refuser, refuser  # noqa: F401 - a fixture

PARTS = ("_on_rpc_error", "do_bulk_insert", "get_bulk_insert_state")


def test_the_handler_has_them(tmp_path: Path) -> None:
    with Store(tmp_path / "lite.db") as store:
        handler = handler_of(store._connection._client)
        assert all(callable(getattr(handler, name)) for name in PARTS)


def test_scipy_is_found_before_threads_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SciPyHelper, "_checked", False)
    with Store(tmp_path / "lite.db") as store:
        store.create("images", SPEC)
    assert SciPyHelper._checked


@pytest.mark.parametrize("missing", PARTS)
def test_a_pymilvus_without_them_is_named(missing: str) -> None:
    client: Any = SimpleNamespace(_handler=SimpleNamespace(**{name: print for name in PARTS if name != missing}))
    with pytest.raises(StoreError, match=missing) as caught:
        handler_of(client)
    assert pymilvus.__version__ in str(caught.value)
    with pytest.raises(StoreError, match="_on_rpc_error"):
        handler_of(SimpleNamespace())


def test_pymilvus_asks_it_before_it_tries_again(refuser: tuple[Refuser, str]) -> None:  # noqa: F811
    """One call of pymilvus, and the second of this package: pymilvus itself would go on until the timeout."""
    handler, uri = refuser
    handler.status = grpc.StatusCode.UNAVAILABLE
    with Store(uri, timeout_s=5) as store:
        handler.calls = 0
        with pytest.raises(StoreUnavailableError):
            store.list()
        assert handler.calls == 2
