"""Evaluations of bundles that keep image tokens in files, or nothing of images at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from milvus_coop.bundle.spec import Keep
from milvus_coop.errors import BackendError
from milvus_coop.offline.datasets import Caption
from milvus_coop.offline.evaluation import BundleChoice, EvaluationOptions, EvaluationReport, evaluate
from milvus_coop.offline.evaluation import exhaustive as exhaustive_module
from milvus_coop.offline.evaluation.exhaustive import PairScorer
from milvus_coop.store.token_store import TokenStore
from tests.evaluation.kit import Given, item
from tests.toy_bundle import COUNT, TOKEN_DIM, WORDS, draw, make_bundle

N = 24


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Given:
    folder = tmp_path_factory.mktemp("images")
    words = WORDS[2:]
    texts = [f"{words[i % 9]} {words[i // 9 + 3]} {'dog ' * (i % 4)}" for i in range(N)]
    return Given([item(i, Caption(text.strip()), path=draw(folder / f"{i}.png", i)) for i, text in enumerate(texts)])


def run(data: Given, folder: Path, keep: Keep) -> EvaluationReport:
    options = EvaluationOptions(ks=(3, 10), cost_queries=2, cost_s=0.01, resamples=20)
    make_bundle(folder / keep, keep)
    return evaluate(data, [BundleChoice(folder / keep, name="toy")], options)


def test_files_change_no_figure(data: Given, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = run(data, tmp_path, "collection")
    monkeypatch.setattr(exhaustive_module, "BYTES_PER_CALL", 5 * 16 * COUNT * (TOKEN_DIM + 2))
    report = run(data, tmp_path, "store")
    assert report.quality == expected.quality
    assert {q.variant.system for q in report.quality} == {"be", "ce", "joint-coop"}
    assert {c.pool for c in report.growth} == {12, N}  # in parts, whose files were copied
    bytes_kept = {s.kind: s.content_bytes for s in report.storage}
    assert bytes_kept["image"] == COUNT * (TOKEN_DIM + 2) + 68  # the key


def test_images_are_opened(data: Given, tmp_path: Path) -> None:
    report = run(data, tmp_path, "nowhere")
    assert {q.variant.system for q in report.quality} == {"be", "ce", "joint-coop"}
    assert {s.kind: s.content_bytes for s in report.storage}["image"] == 0


def test_a_lost_file_is_an_error(data: Given, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures of a half-reranked run would be worth nothing."""
    scores = PairScorer.scores

    def lose(self: PairScorer, *arguments: object) -> object:
        with monkeypatch.context() as patch:
            patch.setattr(TokenStore, "read", lambda store, keys, n_bytes, timeout_s=None: [None] * len(keys))
            return scores(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(PairScorer, "scores", lose)
    with pytest.raises(BackendError, match="images have no token file"):
        run(data, tmp_path, "store")
