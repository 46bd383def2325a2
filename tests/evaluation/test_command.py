"""`milvus-coop eval` as a user meets it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from milvus_coop.cli.main import cli
from tests.evaluation.kit import EXAMPLES


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli, ["eval", *map(str, arguments)])


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    names = ("dog", "cat", "apple", "bee", "car", "cow")
    lines = []
    for i, name in enumerate(names):
        shutil.copy(EXAMPLES / f"{name}.jpg", folder)
        lines.append({"image": f"{name}.jpg", "captions": {"en": [f"a {name}"], "de": [f"Bild {i}"]}, "split": "test"})
    lines.append({"image": "missing.jpg", "captions": ["nothing"], "split": "test"})
    path = folder / "captions.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    return path


def test_tables_and_files(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "report"
    done = run("--data", data, "-k", "2,4", "--language", "en", "--cost-queries", "2", "--out", out)
    assert done.exit_code == 0, done.output
    for text in (
        "Quality",
        "Joint+Coop, k=4",
        "Cost of text retrieval, pool of 6",
        "ANN recall",
        "1 problems in the data",
        "missing.jpg",
    ):
        assert text in done.output
    assert "…" not in done.output.split("/")[0]  # no column is cut
    results = json.loads((out / "results.json").read_text(encoding="utf-8"))
    assert results["queries"] == {"en": {"image retrieval": 6, "text retrieval": 6}}
    assert "<svg" in (out / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("line", [{"captions": []}, {}], ids=["empty", "none"])
def test_distractors_need_no_captions(data: Path, tmp_path: Path, line: dict[str, object]) -> None:
    others = tmp_path / "others.jsonl"
    others.write_text("\n".join(json.dumps({"image": str(EXAMPLES / name), **line}) for name in ("owl.jpg", "train.jpg")), "utf-8")
    arguments = ("-k", "2", "--systems", "be", "--cost-queries", "0", "--json", "--language", "en")
    done = run("--data", data, "--distractors", others, *arguments)
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert (report["images"], report["distractors"], report["texts"]) == (8, 2, {"en": 6})


def test_json(data: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    done = run("--data", data, "-k", "2", "--systems", "be, joint-coop", "--cost-queries", "0", "--json", "--language", "de+en")
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert list(report["queries"]) == ["de", "en"]
    assert [q["variant"]["system"] for q in report["quality"]] == ["be", "joint-coop"] * 2
    assert list(tmp_path.iterdir()) == []  # no database is left behind


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--k", "0"), "k is 0"),
        (("--k", "ten"), "--k holds 'ten'"),
        (("--k", ","), "no k is given"),
        (("--systems", "bm25"), "there is no system 'bm25'"),
        (("--systems", "sep-coop"), "no bundle offers 'sep-coop'"),
        (("--split", "train"), "no items in the split 'train'"),
        (("--split", "everything"), "the split is 'everything'"),
        (("--language", "fr"), "no captions in 'fr'"),
        (("--protocol", "1k"), "5,000 or more"),
        (("--protocol", "2k"), "the protocol is '2k'"),
        (("--bundle", "nonsense"), "no bundle 'nonsense'"),
        (("--distractors", "missing.jsonl"), "missing.jsonl"),
        (("--uri", "http://127.0.0.1:1"), "cannot be reached"),
    ],
)
def test_a_mistake_gets_an_error_not_a_traceback(data: Path, arguments: tuple[str, ...], message: str) -> None:
    done = run("--data", data, *arguments)
    assert done.exit_code == 2
    assert done.stderr.startswith("Error: ")
    assert message in done.stderr


def test_a_missing_image_is_the_first_reason(tmp_path: Path) -> None:
    source = tmp_path / "one.jsonl"
    source.write_text('{"image": "missing.jpg", "caption": "a dog", "split": "test"}\n', encoding="utf-8")
    done = run("--data", source)
    assert done.exit_code == 2
    assert done.stderr.startswith("Error: one.jsonl, line 1: there is no image ")
    assert "so " in done.stderr
    assert "no items in the split 'test'" in done.stderr


def test_data_is_needed_and_checked() -> None:
    assert "Missing option '--data'" in run().stderr
    assert "nowhere.jsonl" in run("--data", "nowhere.jsonl").stderr
