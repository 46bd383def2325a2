"""Captions, file names and metadata with control sequences, from list to terminal: real bundle, real Milvus Lite, real commands."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from milvus_coop.cli.main import cli
from tests.unit.test_printable import is_harmless

PHOTO = Path(__file__).parent.parent.parent / "examples" / "images" / "dog.jpg"
ESCAPES = "a\x1b]0;X\x07\x1b[2J\u202e\u200b[bold]b[/bold][link=https://evil.example]c[/link] :dog:"
SHOWN = r"a\x1b]0;X\x07\x1b[2J[bold]b[/bold][link=https://evil.example]c[/link] :dog:"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with lists, and a database with the collections `captions` and `images`."""
    folder = tmp_path_factory.mktemp("escapes")
    name = f"{ESCAPES.replace('/', '')}.jpg"
    shutil.copy(PHOTO, folder / name)
    for plain in ("dog.jpg", "dog2.jpg"):
        shutil.copy(PHOTO, folder / plain)
    texts = [{"text": ESCAPES, "note": ESCAPES}, {"text": "a dog"}, {"text": 3, "uri": ESCAPES}]
    images = [{"path": "dog.jpg", "note": [ESCAPES]}, {"path": name}, {"path": f"missing {ESCAPES}"}]
    pairs = [{"image": f"{name}.jpg", "captions": [ESCAPES, "a dog"], "split": "test"} for name in ("dog", "dog2", f"no {ESCAPES}")]
    for stem, lines in (("texts", texts), ("images", images), ("pairs", pairs)):
        (folder / f"{stem}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return folder


@pytest.fixture(autouse=True)
def settings(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MILVUS_COOP_URI", str(folder / "lite.db"))
    monkeypatch.setenv("COLUMNS", "600")
    monkeypatch.chdir(folder)


def run(*arguments: str, code: int = 0) -> Result:
    done = CliRunner().invoke(cli, arguments)
    assert done.exit_code == code, done.output
    assert is_harmless(done.stdout)
    assert is_harmless(done.stderr)
    return done


def test_ingest_and_query(folder: Path) -> None:
    done = run("ingest", "texts.jsonl", "--texts", "--collection", "captions", "--failed", "failed.jsonl", code=1)
    assert "2 added" in done.stdout
    done = run("ingest", "images.jsonl", "--failed", "failed.jsonl", code=1)
    assert f"missing {SHOWN}" in done.stdout
    reasons = [json.loads(line)["reason"] for line in (folder / "failed.jsonl").read_text(encoding="utf-8").splitlines()]
    assert any(f"missing {ESCAPES}" in reason for reason in reasons), "the file is exact"
    assert SHOWN in run("query", ESCAPES, "--collection", "captions", "--output-fields", "note").stdout
    hits = [json.loads(line) for line in run("query", "a", "--collection", "captions", "--json").stdout.splitlines()]
    assert ESCAPES in {hit["text"] for hit in hits}, "JSON is exact"
    table = run("query", "a dog", "--output-fields", "note").stdout
    assert table.count(r"\x1b]0;X") >= 1, "in metadata"


def test_score_embed_and_eval(folder: Path) -> None:
    done = run("score", "--text", ESCAPES, "--text", "b", "images.jsonl", code=1)
    assert SHOWN in done.stdout
    assert json.loads(run("score", "--text", ESCAPES, "dog.jpg", "--json").stdout)["text"] == ESCAPES
    run("embed", "--text", ESCAPES, "images.jsonl", "--out", "vectors.jsonl", code=1)
    assert json.loads((folder / "vectors.jsonl").read_text(encoding="utf-8").splitlines()[0])["text"] == ESCAPES
    run("eval", "--data", "pairs.jsonl", "--cost-queries", "0", "-k", "1,2")


@pytest.mark.parametrize(
    "arguments",
    [
        ("query", "a dog", "--filter", f"note == {ESCAPES}"),
        ("query", "a dog", "--collection", ESCAPES),
        ("query", "--image", ESCAPES),
        ("ingest", ESCAPES),
        ("collections", "describe", ESCAPES),
        ("collections", "drop", ESCAPES, "--yes"),
        ("bundle", "show", ESCAPES),
        ("eval", "--data", ESCAPES),
        ("train", "joint", "--data", ESCAPES),
        ("score", "--text", "a", ESCAPES),
        ("query", "a dog", "--models", f"triton://{ESCAPES}"),
        ("collections", "list", "--uri", f"http://{ESCAPES}"),
        ("triton", "export", "--platform", "python", "--out", "models", "--bundle", ESCAPES),
        (ESCAPES,),
        ("query", f"--{ESCAPES}"),
    ],
    ids=" ".join,
)
def test_errors(arguments: tuple[str, ...]) -> None:
    run(*arguments, code=2)


def test_doctor() -> None:
    broken = run("doctor", "--bundle", ESCAPES, code=1)
    assert "no bundle 'a\\x1b]0;X" in broken.stdout
    line = next(line for line in run("doctor", "--bundle", ESCAPES, "--json", code=1).stdout.splitlines() if "bundle" in line)
    assert "no bundle 'a\\x1b]0;X" in json.loads(line)["detail"]
