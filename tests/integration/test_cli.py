"""The command line as a user meets it: real bundle, real Milvus Lite, real pictures."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result
from packaging.requirements import Requirement

from milvus_coop.cli.doctor import DRIVERS, EXTRAS, Check, _package
from milvus_coop.cli.main import cli
from milvus_coop.elsewhere.location import DRIVERS as STORE_DRIVERS
from tests.lowest import PROJECT

EXAMPLES = Path(__file__).parent.parent.parent / "examples"
PICTURES = ("dog.jpg", "two_dogs.jpg", "cat.jpg", "apple.jpg", "coffee.jpg", "bicycle.png")


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli, [str(a) for a in arguments])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli")
    (folder / "photos").mkdir()
    for name in PICTURES:
        shutil.copy(EXAMPLES / "images" / name, folder / "photos" / name)
    done = run("ingest", folder / "photos", "--uri", folder / "lite.db")
    assert done.exit_code == 0, done.output
    assert "6 added" in done.output
    return folder


@pytest.fixture(autouse=True)
def settings(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MILVUS_COOP_URI", str(folder / "lite.db"))
    monkeypatch.chdir(folder)


def commands(group: click.Group, prefix: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    found: list[tuple[str, ...]] = [prefix]
    for name, command in group.commands.items():
        found += commands(command, (*prefix, name)) if isinstance(command, click.Group) else [(*prefix, name)]
    return found


def test_every_command_and_option_has_help() -> None:
    for command in commands(cli):
        assert run(*command, "--help").exit_code == 0, command
        target: click.Command = cli
        for name in command:
            assert isinstance(target, click.Group)
            target = target.commands[name]
        assert target.help, command
        assert [o.name for o in target.params if isinstance(o, click.Option) and not o.help] == [], command


def test_query_table() -> None:
    result = run("query", "a red apple", "--limit", "3")
    assert result.exit_code == 0
    first = next(line for line in result.output.splitlines() if "│ 1 │" in line)
    assert "photos/apple.jpg" in first
    assert "%" in first
    assert "6 candidates, 6 reranked; encode" in result.output


def test_query_json() -> None:
    result = run("query", "a red apple", "--json")
    hits = [json.loads(line) for line in result.stdout.splitlines()]
    assert [hit["rank"] for hit in hits] == [1, 2, 3, 4, 5, 6]
    assert hits[0]["uri"].endswith("photos/apple.jpg")
    assert set(hits[0]) == {"id", "uri", "rank", "score", "be_rank", "be_score", "ce_score", "text", "fields"}
    assert result.stderr == ""


def test_query_options(folder: Path) -> None:
    plain = run("query", "a dog", "--no-rerank", "--json")
    assert {json.loads(line)["ce_score"] for line in plain.stdout.splitlines()} == {None}
    assert plain.stderr == ""
    image = run("query", "--image", folder / "photos" / "dog.jpg", "--json")
    assert json.loads(image.stdout.splitlines()[0])["uri"].endswith("photos/dog.jpg")
    assert "not reranked are in the bi-encoder's order: the query and the items are both images" in image.stderr
    typo = run("query", "a dog", "--json", "--output-fields", "yaer, uri")
    assert (typo.exit_code, "No hit has the metadata yaer" in typo.stderr) == (0, True)
    late = run("query", "a dog", "--deadline-ms", "0.01")
    assert (late.exit_code, "the deadline came before the query was encoded" in late.output) == (2, True)


def test_a_path_stays_whole_where_there_is_no_terminal(tmp_path: Path) -> None:
    folder = tmp_path / "a folder with a rather long name from 2019" / "summer holidays in the far north"
    folder.mkdir(parents=True)
    (folder / "IMG_20190714_183000_portrait_edited.jpg").write_bytes(b"no image")
    shutil.copy(EXAMPLES / "images" / "dog.jpg", folder / "IMG_20190714_183001_portrait_edited.jpg")
    command = [sys.executable, "-m", "milvus_coop"]
    database = ["--uri", str(tmp_path / "lite.db")]
    environment = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    options: dict[str, Any] = {"capture_output": True, "text": True, "cwd": tmp_path, "env": environment}
    done = subprocess.run([*command, "ingest", str(folder), *database], check=False, **options)
    name = folder.relative_to(tmp_path) / "IMG_20190714_183000_portrait_edited.jpg"
    assert (done.returncode, str(name) in done.stdout + done.stderr) == (1, True)
    found = subprocess.run([*command, "query", "a dog", *database], check=True, **options)
    assert "IMG_20190714_183001_portrait_edited.jpg" in found.stdout
    assert "Ordered by" not in found.stdout


def test_pages_and_a_threshold() -> None:
    def hits(*arguments: str) -> list[dict[str, Any]]:
        result = run("query", "a red apple", "--json", *arguments)
        assert result.exit_code == 0
        return [json.loads(line) for line in result.stdout.splitlines()]

    whole = hits()
    assert hits("--limit", "2", "--offset", "2") == whole[2:4]
    table = run("query", "a red apple", "--limit", "2", "--offset", "2").output
    assert "│ 3 │" in table
    assert "│ 4 │" in table
    assert "│ 1 │" not in table
    assert hits("--min-score", str(whole[1]["ce_score"])) == whole[:2]
    alike = run("query", "--image", "photos/dog.jpg", "--min-score", "0")
    assert "No hits for" in alike.output
    assert "the cross-encoder compares a text with an image; min_score leaves out 6" in " ".join(alike.output.split())
    plain = hits("--no-rerank")
    assert hits("--no-rerank", "--min-score", str(plain[1]["be_score"])) == plain[:2]


def test_metadata(folder: Path) -> None:
    lines = [f'{{"path": "photos/{name}", "year": {2018 + i}}}\n' for i, name in enumerate(PICTURES)]
    (folder / "list.jsonl").write_text("".join(lines), encoding="utf-8")
    assert run("ingest", "list.jsonl", "--collection", "listed").exit_code == 0
    result = run("query", "a dog", "--collection", "listed", "--filter", "year > 2020", "--output-fields", "year", "--json")
    assert {json.loads(line)["fields"]["year"] for line in result.stdout.splitlines()} == {2021, 2022, 2023}
    table = run("query", "a dog", "--collection", "listed", "--output-fields", "year, nonsense")
    assert "year" in table.output
    assert run("collections", "drop", "listed", "--yes").exit_code == 0


def test_texts() -> None:
    captions = EXAMPLES / "captions.txt"
    assert run("ingest", captions, "--texts", "--collection", "captions").exit_code == 0
    result = run("query", "--image", "photos/apple.jpg", "--collection", "captions", "--limit", "3")
    assert result.exit_code == 0
    assert "apple" in result.output
    wrong = run("ingest", "photos", "--collection", "captions")
    assert wrong.exit_code == 2
    assert "holds texts" in wrong.stderr
    assert run("collections", "drop", "captions", "--yes").exit_code == 0


def test_ingest_again_and_with_failures(folder: Path) -> None:
    assert "6 unchanged" in run("ingest", "photos").output
    (folder / "bad").mkdir()
    (folder / "bad" / "broken.jpg").write_bytes((folder / "photos" / "dog.jpg").read_bytes()[:5000])
    shutil.copy(folder / "photos" / "cat.jpg", folder / "bad" / "fine.jpg")
    result = run("ingest", "bad", "--collection", "bad", "--failed", "failed.jsonl")
    assert result.exit_code == 1
    assert "1 added" in result.output
    assert "1 failed" in result.output
    assert "broken.jpg" in result.output
    (failure,) = [json.loads(line) for line in (folder / "failed.jsonl").read_text(encoding="utf-8").splitlines()]
    assert failure["uri"].endswith("bad/broken.jpg")
    report = run("ingest", "bad", "--collection", "bad", "--json")
    assert json.loads(report.stdout)["unchanged"] == 1
    (folder / "bad" / "fine.jpg").unlink()
    nothing = run("ingest", "bad", "--collection", "bad")
    assert nothing.exit_code == 2
    run("collections", "drop", "bad", "--yes")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("query",), "neither a text nor an image"),
        (("query", " "), "the text is empty"),
        (("query", "x", "--image", "photos/dog.jpg"), "a text and an image"),
        (("query", "--image", "missing.jpg"), "missing.jpg"),
        (("query", "x", "--filter", "year >>"), "rejects the filter"),
        (("query", "x", "--collection", "nonsense"), "no collection 'nonsense'"),
        (("query", "x", "--collection", "a b"), "'a b'"),
        (("query", "x", "--limit", "99999"), "limit is 99999"),
        (("query", "x", "--offset", "16380"), "offset + limit is 16,390"),
        (("query", "x", "--min-score", "50"), "min_score is 50"),
        (("query", "x", "--html", "x.html", "--offset", "1"), "--html is given with --offset"),
        (("query", "x", "--timeout", "nan"), "timeout_s is nan"),
        (("query", "--image", "https://example.com/x.jpg"), "is an HTTP address.\nExpected: --allow-http"),
        (("query", os.fsdecode(b"caf\xe9")), "is not valid Unicode"),
        (("query", "x", "--filter", os.fsdecode(b"caf\xe9")), "is not valid Unicode"),
        (("query", "x", "--output-fields", os.fsdecode(b"caf\xe9")), "is not valid Unicode"),
        (("query", "x", "--collection", os.fsdecode(b"caf\xe9")), "cannot name a collection"),
        (("query", "x", "--uri", "http://127.0.0.1:1"), "cannot be reached"),
        (("query", "x", "--uri", "ftp://x"), "ftp"),
        (("query", "x", "--uri", "no/such/folder/lite.db"), "no/such/folder"),
        (("query", "x", "--bundle", "nonsense"), "no bundle 'nonsense'"),
        (("query", "x", "--models", "nonsense"), "models is 'nonsense'"),
        (("ingest", "missing"), "missing"),
        (("ingest", ""), "the name of a source is empty"),
        (("ingest", "photos", "--failed", "no/such/folder/x.jsonl"), "no/such/folder/x.jsonl cannot be written"),
        (("ingest", "photos", "--failed", "photos/dog.jpg/x"), "photos/dog.jpg/x cannot be written"),
        (("ingest", "photos", "--batch", "5000"), "batch is 5000"),
        (("ingest", "photos", "--threads", "5000"), "threads is 5000"),
        (("ingest", "photos", "--threads", "-1"), "threads is -1"),
        (("query", "x", "--html", "no/such/folder/x.html"), "no/such/folder/x.html cannot be written"),
        (("query", "--image", "ftp://example.com/a.jpg"), "URLs are not fetched"),
        (("embed", "--text", "x", "--out", "no/such/folder/x.npy"), "no/such/folder"),
        (("triton", "export", "--platform", "python", "--out", "photos/dog.jpg/x"), "photos/dog.jpg/x cannot be written"),
        (("ingest", "photos", "--models", "onnx:quantum"), "no device 'quantum'"),
        (("collections", "describe", "nonsense"), "nonsense"),
        (("bundle", "show", "nonsense"), "no bundle"),
    ],
)
def test_a_mistake_gets_an_error_not_a_traceback(arguments: tuple[str, ...], message: str) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert result.stderr.startswith("Error: ")
    assert message in result.stderr
    assert result.exception is None or isinstance(result.exception, SystemExit)


def test_a_failed_query_makes_no_database(folder: Path) -> None:
    assert run("query", "x", "--uri", "new.db").exit_code == 2
    assert not (folder / "new.db").exists()


def test_collections() -> None:
    assert "images" in run("collections", "list").output
    (listed,) = [json.loads(line) for line in run("collections", "list", "--json").stdout.splitlines()]
    assert (listed["name"], listed["kind"], listed["count"]) == ("images", "image", 6)
    assert json.loads(run("collections", "describe", "images", "--json").stdout) == listed
    assert "HNSW COSINE" in run("collections", "describe", "images").output
    refused = CliRunner().invoke(cli, ["collections", "drop", "images"], input="n\n")
    assert refused.exit_code == 1
    assert "images" in run("collections", "list").output


def test_bundle_and_doctor() -> None:
    assert run("bundle", "list").output.startswith("coop-small")
    assert json.loads(run("bundle", "show", "--json").stdout)["name"] == "coop-small"
    verified = run("bundle", "verify", "coop-small", "--json")
    assert (verified.exit_code, json.loads(verified.stdout)["problems"]) == (0, [])
    other = run("bundle", "verify", "coop-small", "--fingerprint", "0" * 32)
    assert (other.exit_code, "problem 1" in other.output) == (1, True)
    doctor = run("doctor")
    assert doctor.exit_code == 0, doctor.output
    assert "1 collections" in doctor.output
    broken = run("doctor", "--uri", "http://127.0.0.1:1", "--json")
    assert broken.exit_code == 1
    checks = {line["name"]: line for line in map(json.loads, broken.stdout.splitlines())}
    assert checks["milvus"]["state"] == "broken"
    assert checks["bundle"]["state"] == "ok"
    for name, package in (EXTRAS | DRIVERS).items():
        installed = any(metadata.distributions(name=package))
        said = f"pip install 'milvus-coop[{name}]'" if name in EXTRAS else f"pip install {package}"
        assert (checks[name]["state"], checks[name]["install"]) == (("ok", "") if installed else ("off", said))
        assert installed or f"off     {name:12} no {package}; {said}" in doctor.output


def test_the_doctor_knows_packages_that_install_the_same_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """onnxruntime-gpu replaces onnxruntime; the module has the same name."""
    facts = tmp_path / "runtime_gpu-1.2.3.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: runtime-gpu\nVersion: 1.2.3\n")
    (facts / "top_level.txt").write_text("some_runtime\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert _package("some_runtime") == Check("some_runtime", "ok", "runtime-gpu 1.2.3")
    assert _package("no_such_runtime").state == "broken"


def test_the_doctor_knows_all_extras_and_drivers() -> None:
    declared = PROJECT["optional-dependencies"]
    assert declared.keys() - EXTRAS.keys() == {"test", "dev"}
    for extra, package in EXTRAS.items():
        assert package in {Requirement(line).name for line in declared[extra]}
    assert {name: STORE_DRIVERS[name] for name in DRIVERS} == DRIVERS
    assert set(STORE_DRIVERS.values()) - set(EXTRAS.values()) == set(DRIVERS.values())


def test_demo() -> None:
    result = run("demo", "--images", "photos")
    assert result.exit_code == 0, result.output
    assert "demo: 6 added" in result.output
    assert result.output.count("candidates, 6 reranked") == 3


def test_a_check_of_an_output_changes_nothing(folder: Path) -> None:
    (folder / "kept.jsonl").write_text("kept", encoding="utf-8")
    assert run("ingest", "photos", "--failed", "kept.jsonl", "--batch", "0").exit_code == 2
    assert (folder / "kept.jsonl").read_text(encoding="utf-8") == "kept"
    assert run("ingest", "photos", "--failed", "new.jsonl", "--batch", "0").exit_code == 2
    assert not (folder / "new.jsonl").exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("command", ["ingest photos --json", "ingest photos", "query 'a dog' --json", "query 'a dog'", "--help"])
def test_a_full_disk_is_one_line(folder: Path, command: str) -> None:
    done = subprocess.run(
        f"{sys.executable} -m milvus_coop {command} > /dev/full", shell=True, capture_output=True, text=True, cwd=folder
    )
    assert done.returncode == 2
    assert done.stderr == "Error: the output cannot be written: No space left on device.\n"


def test_failures_that_cannot_be_written_come_after_the_summary(folder: Path) -> None:
    (folder / "half").mkdir()
    (folder / "half" / "broken.jpg").write_bytes(b"junk")
    shutil.copy(folder / "photos" / "cat.jpg", folder / "half" / "fine.jpg")
    done = run("ingest", "half", "--collection", "half", "--failed", "/dev/full")
    assert done.exit_code == 2
    assert "1 added" in done.output
    assert "/dev/full cannot be written: No space left on device" in done.stderr
    run("collections", "drop", "half", "--yes")


def test_images_of_other_kinds_are_counted(folder: Path) -> None:
    (folder / "kinds").mkdir()
    shutil.copy(folder / "photos" / "cat.jpg", folder / "kinds" / "cat.jpg")
    for name in ("a.svg", "b.svg", "c.jxl", "notes.txt"):
        (folder / "kinds" / name).write_text("x")
    shown = run("ingest", "kinds", "--collection", "kinds").output
    assert "2 .svg, 1 .jxl passed over" in shown or "1 .jxl, 2 .svg passed over" in shown
    assert json.loads(run("ingest", "kinds", "--collection", "kinds", "--json").stdout)["passed_over"] == {".jxl": 1, ".svg": 2}
    assert " passed over" in run("embed", "kinds", "--out", "kinds.npy").output
    run("collections", "drop", "kinds", "--yes")


def test_a_name_that_is_not_unicode_can_be_listed(folder: Path) -> None:
    (folder / "odd").mkdir()
    shutil.copy(folder / "photos" / "cat.jpg", folder / "odd" / "cat.jpg")
    shutil.copy(folder / "photos" / "cat.jpg", folder / "odd" / os.fsdecode(b"caf\xe9.jpg"))
    command = [sys.executable, "-m", "milvus_coop", "ingest", "odd", "--collection", "odd", "--failed", "odd.jsonl"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder)
    assert (done.returncode, "Traceback" in done.stderr) == (1, False)
    assert "caf\\udce9.jpg" in done.stdout
    (failure,) = [json.loads(line) for line in (folder / "odd.jsonl").read_text(encoding="utf-8").splitlines()]
    assert failure["reason"] == "its name is not valid Unicode"
    run("collections", "drop", "odd", "--yes")


def test_a_closed_pipe_is_quiet(folder: Path) -> None:
    command = f"{sys.executable} -m milvus_coop query 'a dog' --json | head -n 1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, cwd=folder)
    assert json.loads(done.stdout)["rank"] == 1
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
