"""Other metadata of known content, in real collections: rows get it without being encoded, on Milvus Lite and on a server."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from milvus_coop import Item
from milvus_coop.ingest import ingest, ingest_items
from milvus_coop.models.backends.fake import FakeBackend
from milvus_coop.store import CollectionOptions, Store
from milvus_coop.types import IngestReport, Row

from .ingest_kit import SPEC, encoder, pictures

N = 30


def counts(report: IngestReport) -> tuple[int, int, int, int]:
    return report.added, report.updated, report.unchanged, report.failed


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> Sequence[Path]:
    return sorted(pictures(tmp_path_factory.mktemp("renewal"), N).rglob("*.png"))


@pytest.mark.parametrize("key", ["", "tenant"])
def test_rows_get_other_metadata(store: Store, paths: Sequence[Path], tmp_path: Path, key: str) -> None:
    collection = store.create(f"renewal_{key}", SPEC, "image", options=CollectionOptions(partition_key=key))
    backend = FakeBackend(SPEC)
    bi_encoder = encoder(backend, tmp_path)

    def run(**metadata: object) -> IngestReport:
        return ingest_items([Item(str(path), path, metadata=metadata) for path in paths], sink=collection, encoder=bi_encoder)

    def rows() -> dict[str, Row]:
        return {row.id: row for page in collection.all_rows() for row in page}

    assert counts(run(tenant="a", year=1, place="Paris")) == (N, 0, 0, 0)
    before = rows()
    backend.rows.clear()
    assert counts(run(tenant="b", year=2)) == (0, N, 0, 0)
    assert backend.rows == {}
    after = rows()
    assert after.keys() == before.keys()
    for id, row in after.items():
        assert row.metadata == {"tenant": "b", "year": 2}
        assert (row.content, row.uri) == (before[id].content, before[id].uri)
        np.testing.assert_array_equal(row.embedding, before[id].embedding)
    assert collection.count() == N
    query = next(iter(after.values())).embedding[None]
    assert len(collection.search(query, N, filter='tenant == "b"')[0]) == N
    assert collection.search(query, N, filter='tenant == "a"') == [[]]
    assert counts(run(tenant="b", year=2)) == (0, 0, N, 0)
    assert counts(ingest(list(paths), sink=collection, encoder=bi_encoder)) == (0, 0, N, 0)
