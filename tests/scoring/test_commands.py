"""`milvus-coop score` and `embed` as a user meets them: real bundle, real images, no database."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from milvus_coop import CoopModel
from milvus_coop.cli.main import cli
from milvus_coop.cli.vectors import VectorFile
from milvus_coop.errors import InvalidArgumentError

EXAMPLES = Path(__file__).parent.parent.parent / "examples" / "images"
IMAGES = ("apple.jpg", "cat.jpg", "dog.jpg")


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli, [str(a) for a in arguments], env={"COLUMNS": "200"})


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def write(path: Path, then: Callable[[], object]) -> None:
    """Write one vector; something happens before the file is complete."""
    with VectorFile(path, 2) as file:
        file.add([{"text": "x"}], np.zeros((1, 2), np.float32))
        then()


def interrupt() -> None:
    raise KeyboardInterrupt


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with three images in `photos/` and a broken one beside it."""
    (tmp_path / "photos").mkdir()
    for name in IMAGES:
        shutil.copy(EXAMPLES / name, tmp_path / "photos" / name)
    (tmp_path / "broken.jpg").write_bytes((EXAMPLES / "dog.jpg").read_bytes()[:3000])
    (tmp_path / "texts.txt").write_text("a dog\n\na cat\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_score_table() -> None:
    result = run("score", "--text", "a dog", "--text", "a [red] apple", "photos/dog.jpg", "photos/apple.jpg")
    assert result.exit_code == 0, result.output
    rows = result.output.splitlines()
    (header,) = [row for row in rows if "a dog" in row]
    assert "a [red] apple" in header
    (dog,) = [row for row in rows if "photos/dog.jpg" in row]
    (apple,) = [row for row in rows if "photos/apple.jpg" in row]
    assert dog.count("%") == apple.count("%") == 2
    assert rows.index(dog) < rows.index(apple)
    with CoopModel() as model:
        found = model.compare(["a dog", "a [red] apple"], ["photos/dog.jpg", "photos/apple.jpg"])
    for column, row in enumerate((dog, apple)):
        for text in range(2):
            assert f"{found.score[text, column]:.1%} ({found.similarity[text, column]:.3f})" in row


def test_score_json(folder: Path) -> None:
    result = run("score", "--text", "an apple", "--texts", "texts.txt", "photos", "--json")
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    pairs = lines(result.stdout)
    texts = ["an apple", "a dog", "a cat"]
    assert [(pair["uri"], pair["text"]) for pair in pairs] == [(f"{folder}/photos/{name}", t) for name in IMAGES for t in texts]
    with CoopModel() as model:
        found = model.compare(texts, [f"photos/{name}" for name in IMAGES])
    assert [pair["ce_score"] for pair in pairs] == pytest.approx(found.score.T.ravel().tolist(), abs=1e-5)
    assert [pair["be_score"] for pair in pairs] == pytest.approx(found.similarity.T.ravel().tolist(), abs=1e-5)


@pytest.mark.parametrize("flags", [(), ("--json",)])
def test_a_broken_image_is_named_and_the_rest_is_scored(flags: tuple[str, ...]) -> None:
    result = run("score", "--text", "a dog", "broken.jpg", "photos/dog.jpg", *flags)
    assert result.exit_code == 1
    assert "1 failed" in result.output
    assert "broken.jpg  cannot be read: image file is truncated" in result.output
    assert "dog.jpg" in result.stdout
    if flags:
        assert [Path(pair["uri"]).name for pair in lines(result.stdout)] == ["dog.jpg"]
    nothing = run("score", "--text", "a dog", "broken.jpg", *flags)
    assert nothing.exit_code == 2
    assert "1 failed" in nothing.output


def test_embed_jsonl(folder: Path) -> None:
    result = run("embed", "--text", "an apple", "--texts", "texts.txt", "photos/", "--out", "vectors.jsonl")
    assert result.exit_code == 0, result.output
    rows = lines(Path("vectors.jsonl").read_text(encoding="utf-8"))
    assert "vectors.jsonl: 6 vectors" in result.output
    assert rows[0]["text"] == "an apple"
    assert set(rows[0]) == {"text", "vector"}
    assert [row["text"] for row in rows[1:3]] == ["a dog", "a cat"]
    assert all(row["uri"].startswith(f"{folder}/texts.txt#") for row in rows[1:3])
    assert [row["uri"] for row in rows[3:]] == [f"{folder}/photos/{name}" for name in IMAGES]
    with CoopModel() as model:
        texts = model.embed_texts(["an apple", "a dog", "a cat"])
        images = model.embed_images([f"photos/{name}" for name in IMAGES])
    np.testing.assert_allclose([row["vector"] for row in rows], np.concatenate([texts, images]), atol=1e-5)


def test_embed_npy(folder: Path) -> None:
    result = run("embed", "broken.jpg", "photos/dog.jpg", "photos/cat.jpg", "--text", "a dog", "--out", "vectors.npy")
    assert result.exit_code == 1
    assert "broken.jpg  cannot be read: image file is truncated" in result.output
    vectors = np.load("vectors.npy")
    names = lines(Path("vectors.npy.jsonl").read_text(encoding="utf-8"))
    assert names == [{"text": "a dog"}, {"uri": f"{folder}/photos/dog.jpg"}, {"uri": f"{folder}/photos/cat.jpg"}]
    with CoopModel() as model:
        expected = [*model.embed_texts(["a dog"]), *model.embed_images(["photos/dog.jpg", "photos/cat.jpg"])]
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(vectors, expected, atol=1e-5)
    assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2]
    assert sorted(path.name for path in folder.iterdir()) == [
        "broken.jpg",
        "photos",
        "texts.txt",
        "vectors.npy",
        "vectors.npy.jsonl",
    ]


def test_texts_of_a_list_that_cannot_be_used() -> None:
    Path("texts.jsonl").write_text('{"text": "a dog"}\n{"text": ""}\n{"text": "' + "x " * 15_000 + '"}\n', encoding="utf-8")
    result = run("embed", "--texts", "texts.jsonl", "--out", "vectors.jsonl")
    assert result.exit_code == 1
    assert "2 failed" in result.output
    assert "line 2: no 'text'" in result.output
    assert "the text has 30,000 characters" in result.output
    assert len(lines(Path("vectors.jsonl").read_text(encoding="utf-8"))) == 1
    Path("texts.jsonl").write_text('{"text": "' + "x " * 15_000 + '"}\n', encoding="utf-8")
    assert run("embed", "--texts", "texts.jsonl", "--out", "other.jsonl").exit_code == 2
    assert run("score", "--texts", "texts.jsonl", "photos").exit_code == 2


@pytest.mark.parametrize("out", ["vectors.npy", "vectors.jsonl"])
def test_what_was_there_stays_until_the_new_file_is_complete(folder: Path, out: str) -> None:
    Path(out).write_text("before", encoding="utf-8")
    kept = sorted(path.name for path in folder.iterdir())
    assert run("embed", "broken.jpg", "--out", out).exit_code == 2
    with pytest.raises(KeyboardInterrupt):
        write(Path(out), interrupt)
    assert Path(out).read_text(encoding="utf-8") == "before"
    assert sorted(path.name for path in folder.iterdir()) == kept
    assert run("embed", "photos/dog.jpg", "--out", out).exit_code == 0
    assert Path(out).read_bytes() != b"before"


def test_numbers_survive_json(folder: Path) -> None:
    """They are written with few digits, and are the same float32 when they are read."""
    vectors = np.random.default_rng(0).standard_normal((50, 8)).astype(np.float32)
    vectors[0, :4] = 0.1, 1e-30, 0.0, 1 / 3
    with VectorFile(folder / "v.jsonl", 8) as file:
        file.add([{"text": f"{i}\n“é”"} for i in range(50)], vectors)
    rows = lines((folder / "v.jsonl").read_text(encoding="utf-8"))
    np.testing.assert_array_equal(np.array([row["vector"] for row in rows], np.float32), vectors)
    assert rows[3]["text"] == "3\n“é”"


def test_a_folder_that_is_gone_while_it_works(folder: Path) -> None:
    (folder / "out").mkdir()
    with pytest.raises(InvalidArgumentError, match="cannot be written"):
        write(folder / "out" / "v.npy", lambda: shutil.rmtree(folder / "out"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("score",), "there are no texts"),
        (("score", "photos"), "there are no texts"),
        (("score", "--text", "x"), "there are no images"),
        (("score", "--text", " ", "photos"), "text 0: the text is empty"),
        (("score", "--text", "a\udcffb", "photos"), "text 0: the text is not valid Unicode"),
        (("score", "--text", "x", "missing.jpg"), "missing.jpg"),
        (("score", "--text", "x", "texts.txt"), "texts.txt is of another type"),
        (("score", "--texts", "missing.txt", "photos"), "missing.txt"),
        (("score", "--text", "x", "photos", "--bundle", "nonsense"), "no bundle 'nonsense'"),
        (("score", "--text", "x", "photos", "--models", "nonsense"), "models is 'nonsense'"),
        (("score", "--text", "x", "photos", "--models", "triton://127.0.0.1:1"), "cannot be reached"),
        (("embed", "--out", "v.npy"), "neither texts nor images"),
        (("embed", "photos", "--out", "v.csv"), "--out is v.csv"),
        (("embed", "photos", "--out", "vectors"), "--out is vectors"),
        (("embed", "photos", "--out", "no/such/v.npy"), "no/such/v.npy cannot be written"),
        (("embed", "missing.jpg", "--out", "v.npy"), "missing.jpg"),
        (("embed", "photos", "--out", "v.npy", "--models", "triton://127.0.0.1:1"), "cannot be reached"),
    ],
)
def test_a_mistake_gets_an_error_not_a_traceback(folder: Path, arguments: tuple[str, ...], message: str) -> None:
    before = sorted(path.name for path in folder.iterdir())
    result = run(*arguments)
    assert result.exit_code == 2
    assert result.stderr.startswith("Error: ")
    assert message in result.stderr
    assert isinstance(result.exception, SystemExit)
    assert sorted(path.name for path in folder.iterdir()) == before  # no database, and no half of a file


def test_out_is_a_folder(folder: Path) -> None:
    (folder / "v.npy").mkdir()
    result = run("embed", "photos", "--out", "v.npy")
    assert (result.exit_code, result.stderr.splitlines()[0]) == (2, "Error: v.npy cannot be written: Is a directory.")
