"""`milvus-coop train` and `export` as a user meets them."""

from __future__ import annotations

import importlib.util
import json
from importlib.machinery import ModuleSpec
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from milvus_coop.bundle import load_bundle
from milvus_coop.cli.main import cli
from milvus_coop.cli.train import train as train_command
from milvus_coop.offline.training.bundling.export import LARGEST_DIFFERENCE
from milvus_coop.offline.training.networks.one_stream import OneStream
from milvus_coop.offline.training.run.config import TrainConfig
from milvus_coop.offline.training.run.folder import RunFolder, load_network
from milvus_coop.offline.training.run.order import TASKS
from tests.training.colours import TINY


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli, [str(a) for a in arguments])


def tiny(**changes: object) -> list[str]:
    """The settings of the tiny network as flags."""
    values = {**TINY, **changes}
    return [part for name, value in values.items() for part in (f"--{name.replace('_', '-')}", str(value))]


@pytest.fixture(scope="module")
def trained(colours: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    """A joint run and its bundle, in half precision, made by one command."""
    folder = tmp_path_factory.mktemp("cli")
    flags = tiny(rounds=20, eval_every=10, order="be,be-nce,ce")
    made = run("train", "joint", "--data", colours, *flags, "--run", folder / "run", "--out", folder / "bundle", "--json")
    assert made.exit_code == 0, made.output
    return folder, made


def test_one_command_trains_and_bundles(trained: tuple[Path, Result], colours: Path) -> None:
    folder, made = trained
    assert made.stderr == ""
    report, exported = (json.loads(line) for line in made.stdout.splitlines())
    assert (report["run"], report["rounds"], report["stopped_early"]) == (str(folder / "run"), 20, False)
    assert report["best"] <= max(report["dev"].values())
    spec = load_bundle(folder / "bundle").spec
    assert (exported["bundle"], exported["fingerprint"]) == (str(folder / "bundle"), spec.fingerprint)
    assert max(exported["differences"].values()) < LARGEST_DIFFERENCE["fp16"]
    parameters = sum(value.numel() for value in load_network(folder / "run")[0].parameters())
    assert (folder / "bundle" / "weights.bin").stat().st_size < 0.65 * 4 * parameters  # float16
    config = RunFolder(folder / "run").config()
    assert config.order == ("be", "be-nce", "ce")
    assert config == TrainConfig.from_dict({"objective": "joint", "data": str(colours), **TINY, "order": ["be", "be-nce", "ce"]})


def test_the_bundle_ingests_answers_and_is_evaluated(trained: tuple[Path, Result], colours: Path, tmp_path: Path) -> None:
    place = ["--bundle", str(trained[0] / "bundle"), "--threads", "1"]
    (tmp_path / "images").mkdir()
    for path in colours.parent.glob("*2.png"):
        (tmp_path / "images" / path.name).write_bytes(path.read_bytes())
    done = run("ingest", tmp_path / "images", "--uri", tmp_path / "lite.db", *place)
    assert done.exit_code == 0, done.output
    assert "8 added" in done.output
    found = run("query", "a red picture", "--uri", tmp_path / "lite.db", *place, "--json")
    assert found.exit_code == 0, found.output
    hits = [json.loads(line) for line in found.stdout.splitlines()]
    assert len(hits) == 8
    assert all(0 <= hit["ce_score"] <= 1 for hit in hits)
    judged = run("eval", "--data", colours, "--split", "dev", *place, "-k", "5", "--cost-queries", "0", "--json")
    assert judged.exit_code == 0, judged.output
    assert json.loads(judged.stdout)


def test_the_same_command_again_goes_on(trained: tuple[Path, Result], colours: Path) -> None:
    folder, _ = trained
    flags = tiny(rounds=20, eval_every=10, order="be,be-nce,ce")
    again = run("train", "joint", "--data", colours, *flags, "--run", folder / "run")
    assert again.exit_code == 0, again.output
    lines = again.output.splitlines()
    assert lines[0].startswith(f"{folder / 'run'}: 20 rounds in 0 s; best mean recall on dev ")
    assert [line.split(",")[0].strip() for line in lines[1:]] == ["bi-encoder", "Coop"]
    other = run("train", "joint", "--data", colours, *tiny(rounds=30, eval_every=10, order="be,be-nce,ce"), "--run", folder / "run")
    assert other.exit_code == 2
    assert "was begun with rounds = 20, not 30" in other.stderr
    assert f"Try: another --run, or rm -r {folder / 'run'}" in other.stderr


def test_a_run_can_be_repeated_from_its_record(trained: tuple[Path, Result], tmp_path: Path) -> None:
    again = run("train", "joint", "--config", trained[0] / "run" / "run.json", "--rounds", "1", "--run", tmp_path / "run")
    assert again.exit_code == 0, again.output
    before, now = (RunFolder(path).config().to_dict() for path in (trained[0] / "run", tmp_path / "run"))
    assert {name for name in now if now[name] != before[name]} == {"rounds"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["be"], "Error: there is no --data."),
        (["be", "--data", "{data}", "--out", "x"], "Error: --out with a be run: a bundle needs both roles."),
        (["joint", "--data", "{data}", "--out", "{here}"], "exists.\nExpected: a folder that is not there yet"),
        (["ce", "--data", "{data}", "--order", "ce,ce-top"], "Try: --miner RUN"),
        (["joint", "--data", "{data}", "--order", "be;ce"], "Error: the order names the task 'be;ce'."),
        (["joint", "--data", "{data}", "--batch", "1"], "Invalid value for '--batch': 1 is not in the range x>=2"),
        (["joint", "--data", "{data}", "--dropout", "1"], "Invalid value for '--dropout': 1.0 is not in the range 0<=x<1"),
        (["joint", "--data", "{data}", "--clip", "nan"], "Error: clip is NaN.\nExpected: a number, above 0"),
        (["joint", "--data", "{data}", "--seed", "9999999999"], "Error: seed is 9999999999.\nExpected: a whole number from 0 to"),
        (["joint", "--data", "{data}", "--out", "{here}/my bundle"], "Error: 'my bundle' cannot name a bundle."),
        (["joint", "--data", "{data}", "--config", "{here}/match.json"], 'Error: match is "CLS".\nExpected: one of cls, residual'),
        (["joint", "--data", "{data}", "--config", "{here}/list.json"], "Error: order[1] is 5.\nExpected: text"),
        (["joint", "--data", "{here}/nothing.jsonl"], "Error: --data"),
        (["joint", "--data", "{data}", "--init", "{here}", "--run", "{here}/run"], "cannot be opened"),
        (["joint", "--data", "{data}", "--vision", "{here}", "--run", "{here}/run"], "cannot be opened as a vision model"),
        (["joint", "--config", "{here}/unknown.json"], 'Error: there is no field "learningrate".\nExpected: learning_rate'),
        (["joint", "--config", "{here}/number.json"], "number.json holds no settings"),
        (["joint", "--config", "{here}/broken.json"], "broken.json is not JSON: Expecting value: line 1"),
        (["joint", "--data", "{data}", "--rounds", "many"], "'many' is not a valid integer range"),
        (["both", "--data", "{data}"], "'both' is not one of"),
    ],
)
def test_what_is_wrong_is_said(arguments: list[str], message: str, colours: Path, tmp_path: Path) -> None:
    (tmp_path / "unknown.json").write_text(json.dumps({"data": str(colours), "learningrate": 1}))
    (tmp_path / "match.json").write_text('{"match": "CLS"}')
    (tmp_path / "list.json").write_text('{"order": ["be", 5]}')
    (tmp_path / "number.json").write_text("5")
    (tmp_path / "broken.json").write_text('{"data": ')
    failed = run("train", *(part.format(data=colours, here=tmp_path) for part in arguments))
    assert failed.exit_code == 2
    assert message in failed.stderr
    assert failed.exception is None or isinstance(failed.exception, SystemExit)
    assert "Traceback" not in failed.output
    assert not (tmp_path / "run" / "run.json").exists()


def test_export_of_one_run_says_how(be_run: Path, tmp_path: Path) -> None:
    failed = run("export", be_run, "--out", tmp_path / "bundle")
    assert failed.exit_code == 2
    assert "Try: milvus-coop export BE_RUN --ce CE_RUN --out DIR" in failed.stderr
    assert not (tmp_path / "bundle").exists()


@pytest.mark.parametrize("missing", ["torch", "accelerate", "onnx", "onnxscript", "safetensors", "transformers"])
@pytest.mark.parametrize("command", ["train", "export"])
def test_without_the_extra(command: str, missing: str, be_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec

    def find_spec(name: str, package: str | None = None) -> ModuleSpec | None:
        return None if name == missing else real(name, package)

    monkeypatch.setattr("milvus_coop.cli.train.find_spec", find_spec)
    failed = run("train", "be", "--data", "x") if command == "train" else run("export", be_run, "--out", tmp_path / "bundle")
    assert failed.exit_code == 2
    assert f"Error: {missing} is not installed." in failed.stderr
    assert "Try: pip install 'milvus-coop[train]'" in failed.stderr


def test_every_setting_has_a_flag_with_help() -> None:
    flags = {option.name for option in train_command.params if isinstance(option, click.Option)}
    settings = set(TrainConfig.__dataclass_fields__) - {"objective"}
    assert settings <= flags
    assert flags - settings == {"run", "out", "config", "as_json", "quiet"}


def test_help_lists_every_task() -> None:
    shown = run("train", "--help").output
    for task in TASKS.values():
        assert f"  {task.name:8} {task.about}" in shown


def test_the_network_says_what_it_is(trained: tuple[Path, Result]) -> None:
    network, _ = load_network(trained[0] / "bundle")
    assert isinstance(network, OneStream)
    assert (network.config.width, network.config.tokens, network.config.norm_first) == (32, 4, True)
