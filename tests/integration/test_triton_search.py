"""Ingest and search with every model on a real Triton, against the same in this process."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from milvus_coop import CoopIngest, CoopSearch, SearchResult, Store, load_bundle
from milvus_coop.bundle import CROSS_ENCODER
from milvus_coop.models.tokens import arrange, decode
from tests.servers.triton import TritonForTests

pytestmark = pytest.mark.triton

PICTURES = sorted((Path(__file__).parent.parent.parent / "examples" / "images").glob("*.jpg"))[:24]
QUERIES = ["a red apple", "two dogs on a beach", "猫", "🚲 in the rain", "an old stone bridge over a small river in autumn"]
SAME_GRAPH = 1e-5
"""The same graph on the same rows; ONNX Runtime sums in another order for another batch size or number of threads."""
SAME_PICTURE = 5e-3
"""The same after ingest on another backend: a token's int8 value can fall to the other side of a rounding step, here and there."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, triton_server: TritonForTests) -> Path:
    """24 pictures and five captions, ingested in this process (local.db) and through Triton (served.db)."""
    folder = tmp_path_factory.mktemp("triton-search")
    (folder / "photos").mkdir()
    for path in PICTURES:
        shutil.copy(path, folder / "photos")
    (folder / "captions.txt").write_text("\n".join(QUERIES), encoding="utf-8")
    for name, models in (("local.db", "onnx"), ("served.db", triton_server.uri)):
        with CoopIngest("images", uri=folder / name, models=models) as ingest:
            assert ingest.run([folder / "photos"]).added == len(PICTURES)
        with CoopIngest("captions", kind="text", uri=folder / name, models=models) as ingest:
            assert ingest.run([folder / "captions.txt"]).added == len(QUERIES)
    return folder


@pytest.fixture(scope="module")
def local(folder: Path) -> Iterator[CoopSearch]:
    with CoopSearch("images", uri=folder / "local.db", models="onnx") as search:
        yield search


@pytest.fixture(scope="module")
def served(folder: Path, triton_server: TritonForTests) -> Iterator[CoopSearch]:
    with CoopSearch("images", uri=folder / "local.db", models=triton_server.uri) as search:
        yield search


def assert_same(result: SearchResult, expected: SearchResult, tolerance: float) -> None:
    """The same hits with the same scores, in the same order but for hits whose scores are equal within the tolerance."""
    assert (result.reranked, result.reranked_count, result.reason) == (True, expected.reranked_count, None)
    assert [hit.score for hit in result] == pytest.approx([hit.score for hit in expected], abs=tolerance)
    scores = {hit.uri: (hit.be_score, hit.ce_score) for hit in expected}
    assert {hit.uri for hit in result} == set(scores)
    for hit in result:
        assert (hit.be_score, hit.ce_score) == pytest.approx(scores[hit.uri], abs=tolerance)


def test_the_same_hits_as_in_process(local: CoopSearch, served: CoopSearch) -> None:
    for text in QUERIES:
        assert_same(served.query(text, limit=24), local.query(text, limit=24), SAME_GRAPH)
    assert_same(served.query(QUERIES[0], limit=20, k=7), local.query(QUERIES[0], limit=20, k=7), SAME_GRAPH)


def test_the_same_rows_as_in_process(folder: Path) -> None:
    spec = load_bundle("coop-small").spec
    found = []
    for name in ("local.db", "served.db"):
        with Store(folder / name) as store:
            query = np.eye(1, spec.dim, dtype=np.float32)
            found.append({c.uri: c for c in store.open("images", spec).search(query, len(PICTURES))[0]})
    here, there = found
    assert set(here) == set(there)
    for uri, candidate in here.items():
        assert there[uri].be_score == pytest.approx(candidate.be_score, abs=SAME_GRAPH)
        (ours, theirs), scales = arrange([decode(c.payload or "", spec.tokens) for c in (candidate, there[uri])], spec.tokens)
        np.testing.assert_allclose(scales[0], scales[1], rtol=1e-3)  # float16
        assert np.abs(ours.astype(int) - theirs).max() <= 1
        assert (ours != theirs).mean() < 0.01


def test_the_same_hits_after_ingest_through_triton(folder: Path, local: CoopSearch, triton_server: TritonForTests) -> None:
    with CoopSearch("images", uri=folder / "served.db", models=triton_server.uri) as search:
        for text in QUERIES:
            assert_same(search.query(text, limit=24), local.query(text, limit=24), SAME_PICTURE)


def test_image_to_text(folder: Path, triton_server: TritonForTests) -> None:
    with (
        CoopSearch("captions", uri=folder / "local.db", models="onnx") as here,
        CoopSearch("captions", uri=folder / "local.db", models=triton_server.uri) as there,
    ):
        for picture in PICTURES[:3]:
            # The query's own tokens are made on both sides: see SAME_PICTURE.
            assert_same(there.query(image=picture, limit=5), here.query(image=picture, limit=5), SAME_PICTURE)


def test_many_pairs_go_in_several_requests(served: CoopSearch) -> None:
    texts = [f"{text}, number {i}" for i, text in zip(range(60), itertools.cycle(QUERIES), strict=False)]
    assert len(texts) * 24 > 5 * served.encoder.spec.graph(CROSS_ENCODER).max_batch
    together = served.query_many(texts, limit=24)
    for text, result in list(zip(texts, together, strict=True))[::7]:
        assert_same(result, served.query(text, limit=24), SAME_GRAPH)
