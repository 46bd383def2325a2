"""Whole evaluations, against what `CoopSearch` answers when it is asked one query and one k at a time."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from milvus_coop import CoopIngest, CoopSearch, FakeBackend, Store, load_bundle
from milvus_coop.bundle import write_record
from milvus_coop.bundle.folder import TOKENIZER
from milvus_coop.bundle.text_states import state_bytes, text_states
from milvus_coop.errors import BackendError, BackendUnavailableError, DatasetError, InvalidArgumentError
from milvus_coop.models.preprocess.texts import Tokenizer
from milvus_coop.offline.datasets import Caption
from milvus_coop.offline.evaluation import (
    BundleChoice,
    EvaluationOptions,
    EvaluationProgress,
    EvaluationReport,
    evaluate,
    tables,
)
from milvus_coop.offline.evaluation.metrics import METRICS, figures
from milvus_coop.offline.evaluation.records import Quality
from milvus_coop.types import SearchResult
from tests.evaluation.kit import Given, drawn, examples, fake, item

KS = (2, 5, 12)
N = 14
QUICK = EvaluationOptions(ks=(3, 10), cost_queries=0, resamples=50)


@pytest.fixture(scope="module")
def report() -> EvaluationReport:
    return evaluate(examples(N), ["coop-small"], EvaluationOptions(ks=KS, cost_queries=5, cost_s=0.1, resamples=200))


def row(report: EvaluationReport, system: str, k: int | None = None) -> Quality:
    (found,) = [q for q in report.quality if (q.variant.system, q.variant.k) == (system, k)]
    return found


@pytest.fixture(scope="module")
def by_hand(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same data, ingested by hand; a text has the number of its image."""
    items = examples(N).items("test")
    folder = tmp_path_factory.mktemp("by_hand")
    uri = folder / "lite.db"
    lists = {
        "image": [{"uri": str(n), "path": str(i.path)} for n, i in enumerate(items)],
        "text": [{"uri": str(n), "text": i.captions[0].text} for n, i in enumerate(items)],
    }
    for kind, rows in lists.items():
        source = folder / f"{kind}.jsonl"
        source.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
        with CoopIngest(f"{kind}s", kind=kind, uri=uri) as ingest:  # type: ignore[arg-type]
            ingest.run([source])
    return uri


def asked_separately(uri: Path, k: int, rerank: bool) -> dict[str, list[SearchResult]]:
    """Every query alone, with this k and no other."""
    items = examples(N).items("test")
    with CoopSearch("images", uri=uri) as search:
        of_texts = [search.query(i.captions[0].text, limit=10, k=k, rerank=rerank) for i in items]
    with CoopSearch("texts", uri=uri) as search:
        of_images = [search.query(image=i.path, limit=10, k=k, rerank=rerank) for i in items]
    return {"image retrieval": of_texts, "text retrieval": of_images}


@pytest.mark.parametrize("k", [None, *KS])
def test_one_search_with_the_largest_k_is_as_good_as_one_for_each(report: EvaluationReport, by_hand: Path, k: int | None) -> None:
    results = asked_separately(by_hand, k or 10, rerank=k is not None)
    found = row(report, "joint-coop" if k else "be", k)
    for direction, some in results.items():
        ranks = [tuple(hit.rank for hit in result if hit.uri == str(n)) for n, result in enumerate(some)]
        expected = np.mean([figures(r, 1) for r in ranks], axis=0)
        ours = [found.figures[direction][metric].value for metric in METRICS]  # type: ignore[index]
        np.testing.assert_allclose(ours, expected, atol=1e-9, err_msg=direction)


def test_rows_are_the_systems_that_the_bundle_offers(report: EvaluationReport) -> None:
    labels = [q.variant.label for q in report.quality]
    assert labels == ["BE", "CE", "Joint+Coop, k=2", "Joint+Coop, k=5", "Joint+Coop, k=12"]
    assert report.queries == {"en": {"image retrieval": N, "text retrieval": N}}


def test_figures_lie_in_their_intervals_and_gains_are_differences(report: EvaluationReport) -> None:
    be = row(report, "be")
    assert not be.gain
    for q in report.quality:
        for by_metric in q.figures.values():
            assert set(by_metric) == set(METRICS)
            assert all(f.low <= f.value <= f.high for f in by_metric.values())
        recalls = [q.figures[d][m].value for d in q.figures for m in METRICS[:3]]
        assert q.mean_recall.value == pytest.approx(np.mean(recalls))
        if q is not be:
            assert q.gain["mR"].value == pytest.approx(q.mean_recall.value - be.mean_recall.value)


def test_coop_finds_no_more_than_the_candidates_hold(report: EvaluationReport) -> None:
    for reach in report.reach:
        for k in KS:
            assert row(report, "joint-coop", k).figures[reach.direction]["R@1"].value <= reach.recall[k] + 1e-9
        values = list(reach.recall.values())
        assert values == sorted(values)


def test_costs_are_of_the_right_pools_and_pairs(report: EvaluationReport) -> None:
    for direction in ("image retrieval", "text retrieval"):
        costs = {c.variant.label: c for c in report.cost if c.direction == direction}
        assert {label: c.pairs for label, c in costs.items()} == {
            "BE": 0, "CE": N, "Joint+Coop, k=2": 2, "Joint+Coop, k=5": 5, "Joint+Coop, k=12": 12,
        }  # fmt: skip
        for c in costs.values():
            assert c.pool == N
            assert c.queries == 5
            assert 0 < c.total_ms.p50 <= c.total_ms.p95
            assert c.encode_ms.p50 + c.ann_ms.p50 < c.total_ms.p50 * 1.5
    assert all(a.recall == {2: 1.0, 5: 1.0, 12: 1.0} for a in report.ann_recall)
    images, texts = report.storage
    bundle = load_bundle("coop-small")
    spec = bundle.spec
    token_bytes = spec.tokens.n_bytes
    assert (images.items, images.embedding_bytes, images.content_bytes) == (N, 4 * spec.dim, 4 * -(-token_bytes // 3))  # base64
    assert (texts.items, texts.kind) == (N, "text")
    written = [i.captions[0].text for i in examples(N).test]
    lengths = Tokenizer(bundle.path(TOKENIZER), spec.text)(written)["attention_mask"].sum(axis=1)
    states = [4 * -(-state_bytes(text_states(spec), int(length)) // 3) for length in lengths]
    assert texts.content_bytes == np.mean(states) + np.mean([len(text) for text in written])


def test_growth_is_measured_in_parts(report: EvaluationReport) -> None:
    assert sorted({c.pool for c in report.growth}) == [N]
    assert {c.variant.label for c in report.growth} == {"BE", "CE", "Joint+Coop, k=12"}


def test_json_holds_everything_but_images(report: EvaluationReport) -> None:
    content = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert content["quality"][0]["variant"] == {"bundle": "coop-small", "system": "be", "k": None}
    assert content["quality"][2]["figures"]["text retrieval"]["R@1"]["value"] == pytest.approx(
        row(report, "joint-coop", 2).figures["text retrieval"]["R@1"].value, abs=1e-6
    )
    assert "thumbnails" not in content


def test_cases_are_the_queries_whose_first_answer_changed() -> None:
    data = Given([item(i, f"image {i}", f"thing {i}") for i in range(30)])
    found = evaluate(data, [fake()], replace(QUICK, gallery=100))
    for direction, (repaired, broken) in found.changes["coop-small"].items():
        cases = [c for c in found.cases if c.direction == direction]
        assert (sum(c.repaired for c in cases), sum(not c.repaired for c in cases)) == (repaired, broken)
        n = found.queries["en"][direction]
        gain = row(found, "joint-coop", 10).gain[f"R@1, {direction}"].value
        assert (repaired - broken) / n == pytest.approx(gain)
    for case in found.cases:
        assert case.be[0].right != case.coop[0].right
        assert (case.be_rank == 1) != (case.coop_rank == 1)
        images = [s.item for s in (*case.be, *case.coop)] if case.direction == "image retrieval" else [case.query]
        assert set(images) <= set(found.thumbnails)


def test_an_exhaustive_run_is_coop_with_everything_as_candidates() -> None:
    data = Given([item(i, f"image {i}", "a thing", f"thing {i}") for i in range(12)])
    found = evaluate(data, [fake()], replace(QUICK, ks=(40,)), distractors=Given([item(40), item(41)]))
    assert (found.distractors, found.texts) == (2, {"en": 27})
    for direction in ("image retrieval", "text retrieval"):
        for metric in METRICS:
            assert row(found, "ce").figures[direction][metric] == row(found, "joint-coop", 40).figures[direction][metric]


def test_an_exhaustive_run_that_is_too_much_is_skipped_and_said_so() -> None:
    data = Given([item(i) for i in range(12)])
    found = evaluate(data, [fake()], replace(QUICK, max_pairs=143))
    (skipped,) = found.skipped
    assert (skipped.pairs, skipped.limit) == (144, 143)
    assert skipped.seconds == pytest.approx(144 / skipped.pairs_per_s)
    assert "ce" not in [q.variant.system for q in found.quality]
    assert not evaluate(data, [fake()], replace(QUICK, max_pairs=144)).skipped


def test_folds_are_averaged_and_have_pools_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("milvus_coop.offline.evaluation.protocols.pools.__kwdefaults__", {"fold": 6, "folds": 2})
    items = [item(i, f"image {i}") for i in range(13)]
    both = evaluate(Given(items), [fake()], replace(QUICK, protocol="1k"))
    alone = [evaluate(Given(some), [fake()], QUICK) for some in (items[:6], items[6:12])]
    assert both.folds == 2
    for i, q in enumerate(both.quality):
        expected = np.mean([r.quality[i].mean_recall.value for r in alone])
        assert q.mean_recall.value == pytest.approx(expected)


def test_languages_and_kinds_have_figures_of_their_own() -> None:
    def captions(i: int) -> list[Caption]:
        return [Caption(f"dog {i}", "en", "count" if i % 3 else "size"), Caption(f"Hund {i}", "de")]

    data = Given([item(i, *captions(i)) for i in range(9)])
    found = evaluate(data, [fake()], QUICK)
    assert [q.language for q in found.quality if q.variant.system == "be"] == ["en", "de"]
    english = found.quality[0]
    assert {kind: k.queries for kind, k in english.kinds.items()} == {"count": 6, "size": 3}
    whole = sum(k.queries * k.figures["R@5"] for k in english.kinds.values()) / 9
    assert whole == pytest.approx(english.figures["image retrieval"]["R@5"].value)


def test_two_bundles_in_one_table(tmp_path: Path) -> None:
    folder = load_bundle("coop-small").folder
    for file in folder.iterdir():
        shutil.copy(file, tmp_path)
    (tmp_path / "bundle.json").unlink()
    separate = write_record(tmp_path, replace(load_bundle("coop-small").spec, name="two-models", kind="separate"))
    choices = [fake(), BundleChoice(tmp_path, FakeBackend(separate.spec))]
    data = Given([item(i) for i in range(8)])
    found = evaluate(data, choices, replace(QUICK, systems=("be", "sep-coop", "joint-coop"), ks=(3,)))
    assert [(q.variant.bundle, q.variant.label) for q in found.quality] == [
        ("coop-small", "BE"), ("coop-small", "Joint+Coop, k=3"), ("two-models", "BE"), ("two-models", "Sep+Coop, k=3"),
    ]  # fmt: skip
    with pytest.raises(InvalidArgumentError, match=r"no bundle offers 'joint-coop': two-models \(separate\)"):
        evaluate(data, choices[1:], replace(QUICK, systems=("joint-coop",)))


def test_the_cost_of_text_retrieval_says_what_becomes_of_the_stored_texts(tmp_path: Path) -> None:
    spec = load_bundle("coop-small").spec
    for file in load_bundle("coop-small").folder.iterdir():
        if file.name != "bundle.json":
            shutil.copy(file, tmp_path)
    longer = write_record(tmp_path, replace(spec, name="long-texts", text=replace(spec.text, max_length=512)))
    assert (bool(text_states(spec)), bool(text_states(longer.spec))) == (True, False)  # 512 states are too many for a collection
    options = replace(QUICK, systems=("be",), ks=(3,), cost_queries=1, grow=False)

    def note(*bundles: BundleChoice) -> str:
        found = tables(evaluate(Given([item(i) for i in range(4)]), bundles, options))
        return next(table.note for table in found if table.title.startswith("Cost of text retrieval"))

    long_texts = BundleChoice(tmp_path, FakeBackend(longer.spec))
    assert "encoded at query time" in note(long_texts)
    assert "is stored with it" in note(fake())
    assert "encoded" not in note(fake())
    both = note(fake(), long_texts)
    assert "coop-small: What the cross-encoder reads of a text is stored" in both
    assert "long-texts: The text side of every candidate is encoded" in both


def test_what_cannot_be_ingested_is_left_out_and_named(tmp_path: Path) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no image")
    data = Given([item(0), item(1, "a broken one", path=broken), *(item(i) for i in range(2, 6))])
    found = evaluate(data, [fake(), replace(fake(), name="again")], QUICK)
    assert (found.images, found.texts) == (5, {"en": 5})
    (problem,) = found.problems
    assert "broken.jpg" in problem.place
    with pytest.raises(DatasetError, match=r"broken\.jpg: not an image; .*so no image of given can be read"):
        evaluate(Given([item(1, path=broken)]), [fake()], QUICK)


def test_collections_are_dropped_whatever_happens(store_uri: str) -> None:
    data = Given([item(i) for i in range(20)])
    with Store(store_uri) as store:
        before = store.list()
    found = evaluate(data, [fake()], replace(QUICK, cost_queries=2, cost_s=0.1), uri=store_uri)
    assert {a.recall[10] for a in found.ann_recall} == {1.0}
    assert sorted({c.pool for c in found.growth}) == [10, 20]
    choice = fake()
    assert isinstance(choice.backend, FakeBackend)
    choice.backend.failures["cross_encoder"] = BackendUnavailableError("the model server is away")
    with pytest.raises(BackendError, match="is away"):
        evaluate(data, [choice], replace(QUICK, systems=("be", "joint-coop")), uri=store_uri)
    with Store(store_uri) as store:
        assert store.list() == before


def test_progress_and_images_by_path(tmp_path: Path) -> None:
    drawn(3).save(tmp_path / "a.png")
    seen: list[EvaluationProgress] = []
    evaluate(Given([item(0, path=tmp_path / "a.png"), item(1)]), [fake()], replace(QUICK, cost_queries=2), on_progress=seen.append)
    stages = list(dict.fromkeys(p.stage for p in seen))
    assert [s.split(",")[0] for s in stages][:3] == ["write images", "ingest images", "ingest texts"]
    assert all(0 <= p.done <= p.total for p in seen)
    assert os.listdir(tmp_path) == ["a.png"]  # noqa: PTH208 - nothing is left beside the data


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ks": ()}, "no k is given"),
        ({"ks": (0,)}, "k is 0; expected: a whole number from 1 to 16,384"),
        ({"ks": (10, 20_000)}, "k is 20000"),
        ({"systems": ("nonsense",)}, "there is no system 'nonsense'"),
        (
            {"systems": ("be", "sep-coop")},
            r"no bundle offers 'sep-coop': coop-small \(joint\); expected: a --bundle of kind separate",
        ),
        ({"split": "dev"}, "no items in the split 'dev'"),
        ({"split": "all"}, "the split is 'all'"),
        ({"languages": ("de",)}, "no captions in 'de'"),
        ({"protocol": "1k"}, "5,000 or more for the protocol 1k"),
        ({"max_pairs": -1}, "max_pairs is -1"),
    ],
)
def test_mistakes(changes: dict[str, object], message: str) -> None:
    with pytest.raises((InvalidArgumentError, DatasetError), match=message):
        evaluate(Given([item(0)]), [fake()], replace(QUICK, **changes))  # type: ignore[arg-type]


def test_no_bundle() -> None:
    with pytest.raises(InvalidArgumentError, match="no bundle is given"):
        evaluate(Given([item(0)]), [], QUICK)
