"""Whole runs on a set that is learnt in seconds: they learn, they survive, and they say what is wrong."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from milvus_coop.errors import DatasetError, InvalidArgumentError, TrainingError
from milvus_coop.offline.training.run.config import TrainConfig
from milvus_coop.offline.training.run.folder import RunFolder
from milvus_coop.offline.training.run.order import OBJECTIVES, TASKS
from milvus_coop.offline.training.run.tasks import LOSSES
from milvus_coop.offline.training.run.trainer import RunReport, TrainingProgress, train
from tests.changes import change_one, names
from tests.training.colours import COLOURS, config, draw_colours, metrics

ROOT = Path(__file__).parents[2]
CHANCE = 100 * (1 / 8 + 5 / 8 + 1) / 3  # mean of R@1, R@5, R@10 with eight answers


def losses(run: Path, task: str) -> list[float]:
    return [line["losses"][task] for line in metrics(run)]


def test_a_bi_encoder_learns(be_run: Path) -> None:
    assert losses(be_run, "be")[-1] < 0.8 * losses(be_run, "be")[0]
    assert metrics(be_run)[-1]["dev"]["be_mr"] > 85 > 1.4 * CHANCE
    assert not any(name.startswith("coop") for name in metrics(be_run)[-1]["dev"])


def test_a_cross_encoder_learns_from_a_miner_s_negatives(ce_run: Path, be_run: Path) -> None:
    first, last = (line["dev"] for line in metrics(ce_run))
    assert losses(ce_run, "ce-list")[-1] < 0.5 * losses(ce_run, "ce-list")[0]
    assert last["coop_mr"] > 90  # of all eight: the bi-encoder's order does not help
    assert first["be_mr"] == last["be_mr"] == max(line["dev"]["be_mr"] for line in metrics(be_run))  # the miner stays as it was


def test_a_joint_network_learns_in_the_paper_s_order(joint_run: Path) -> None:
    lines = metrics(joint_run)
    assert [line["round"] for line in lines] == [10, 20, 30]
    assert [line["epoch"] for line in lines] == [5.0, 10.0, 15.0]  # two batches of eight are a pass
    for line in lines:
        assert set(line["losses"]) == {"be", "ce-hard", "ance"}
    for task in ("be", "ance", "ce-hard"):
        assert losses(joint_run, task)[-1] < losses(joint_run, task)[0]
    assert lines[-1]["dev"]["be_mr"] > 1.2 * CHANCE
    assert lines[-1]["learning_rate"] < 0.05 * lines[0]["learning_rate"]


def test_every_other_task_takes_its_turn(colours: Path, tmp_path: Path) -> None:
    order = sorted(set(TASKS) - {"be", "ce-hard", "ance"})
    train(config(colours, order=order, rounds=8, eval_every=4, warm_up=0), tmp_path / "run")
    for task in order:
        assert losses(tmp_path / "run", task)[1] < losses(tmp_path / "run", task)[0] + 0.05
    assert set(LOSSES) == set(TASKS)


def test_a_cross_encoder_without_a_miner_scores_every_pair(colours: Path, tmp_path: Path) -> None:
    report = train(config(colours, "ce", rounds=4, eval_every=4, accumulate=2), tmp_path / "run")
    assert {"coop_mr", "coop_t2i_r1", "be_mr"} <= set(report.dev)
    assert report.best == report.dev["coop_mr"]


def test_what_a_run_leaves_behind(joint_run: Path) -> None:
    files = {str(path.relative_to(joint_run)) for path in joint_run.rglob("*") if path.is_file()}
    boards = {name for name in files if name.startswith("tensorboard/events.out.tfevents")}
    assert boards
    assert files - boards == {
        "run.json",
        "network.json",
        "tokenizer.json",
        "problems.jsonl",
        "metrics.jsonl",
        "best/network.safetensors",
        "last/network.safetensors",
        "last/optimiser.safetensors",
        "last/mined.safetensors",
        "last/state.json",
    }
    for name in files - boards:
        content = (joint_run / name).read_bytes()
        assert name.endswith(".safetensors") or content.decode("utf-8").strip()[:1] in {"", "{"}
        assert not content.startswith((b"\x80", b"PK"))  # a pickle, or a zip with one
    record = RunFolder(joint_run).record()
    assert set(record) == {"config", "git", "versions", "data"}
    assert record["data"] == {"train": 16, "dev": 8, "left_out": 0}
    assert record["config"]["order"] == ["be", "ce-hard", "ance", "ce-hard"]


def test_a_finished_run_returns_at_once(joint_run: Path) -> None:
    """Before the data is looked at; here its list is gone."""
    told: list[TrainingProgress] = []
    before = {path: path.stat().st_mtime_ns for path in joint_run.rglob("*")}
    same = RunFolder(joint_run).config()
    data = Path(same.data)
    data.rename(data.with_suffix(".moved"))
    try:
        report = train(same, joint_run, on_progress=told.append)
    finally:
        data.with_suffix(".moved").rename(data)
    assert told == []
    assert {path: path.stat().st_mtime_ns for path in joint_run.rglob("*")} == before
    assert report == RunReport(joint_run, 30, False, report.best, metrics(joint_run)[-1]["dev"], 0, 0.0)
    assert report.best == max(line["dev"]["coop_mr"] for line in metrics(joint_run))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"learning_rate": 0.5}, "was begun with learning_rate = 0.001, not 0.5"),
        ({"order": ["be", "ce"]}, r"begun with order = \['be', 'ce-hard', 'ance', 'ce-hard'\], not \['be', 'ce'\]"),
        ({"data": "other.jsonl"}, "begun with data = .*, not other.jsonl"),
    ],
)
def test_another_configuration_is_refused(change: dict[str, Any], message: str, joint_run: Path) -> None:
    other = TrainConfig.from_dict({**RunFolder(joint_run).config().to_dict(), **change})
    with pytest.raises(TrainingError, match=message) as caught:
        train(other, joint_run)
    assert str(joint_run) in caught.value.run


PASSES: dict[str, Any] = {"order": ["ance", "ce"], "rounds": 9, "eval_every": 2, "dropout": 0.2, "vocabulary": 300}


@pytest.fixture(scope="module")
def whole(colours: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing disturbed; its evaluations fall on the ends of passes, where negatives are mined anew."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    train(config(colours, **PASSES), folder)
    return folder


def test_a_killed_run_goes_on_to_the_same_numbers(whole: Path, colours: Path, tmp_path: Path) -> None:
    arguments = [str(colours), str(tmp_path / "run"), str(tmp_path / "cache"), json.dumps(PASSES)]
    command = [sys.executable, "-m", "tests.training.colours", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.strip() == "round 4":
                process.send_signal(signal.SIGKILL)
                break
        process.wait()
    assert process.returncode == -signal.SIGKILL
    assert RunFolder(tmp_path / "run").state().round < 9
    report = train(config(colours, **PASSES), tmp_path / "run")
    assert report.rounds == 9
    assert metrics(tmp_path / "run") == metrics(whole)
    weights = [(run / "last" / "network.safetensors").read_bytes() for run in (tmp_path / "run", whole)]
    assert weights[0] == weights[1]


class _KillError(Exception):
    pass


def test_negatives_are_kept_for_some_rounds(colours: Path, tmp_path: Path) -> None:
    """Passes of two rounds; lists that are good for five are made for rounds 1, 7 and 11, also where a run was interrupted."""
    settings = config(colours, **{**PASSES, "rounds": 12, "eval_every": 1, "mine_every": 5})

    def stop(progress: TrainingProgress) -> None:
        if progress.stage == "train" and progress.done == 9:
            raise _KillError

    with pytest.raises(_KillError):
        train(settings, tmp_path / "run", on_progress=stop)
    lists = []

    def keep(progress: TrainingProgress) -> None:
        if progress.stage == "train" and progress.dev is None and (tmp_path / "whole" / "last").is_dir():
            lists.append(load_file(tmp_path / "whole" / "last" / "mined.safetensors")["images"])

    train(settings, tmp_path / "run")
    train(settings, tmp_path / "whole", on_progress=keep)
    assert metrics(tmp_path / "run") == metrics(tmp_path / "whole")
    changed = [number for number in range(1, len(lists)) if not torch.equal(lists[number], lists[number - 1])]
    assert changed
    assert set(changed) <= {6, 10}  # the lists of a network that has hardly learnt may come out the same


@pytest.mark.parametrize("at", [5, 8])
def test_an_interrupted_run_goes_on_to_the_same_numbers(at: int, whole: Path, colours: Path, tmp_path: Path) -> None:
    """In mid-pass, and at the end of one."""

    def stop(progress: TrainingProgress) -> None:
        if progress.stage == "train" and progress.done == at and progress.dev is None:
            raise _KillError

    with pytest.raises(_KillError):
        train(config(colours, **PASSES), tmp_path / "run", on_progress=stop)
    with (tmp_path / "run" / "metrics.jsonl").open("a") as file:
        file.write('{"round": 9, "los')  # a line that the kill cut off
    train(config(colours, **PASSES), tmp_path / "run")
    assert metrics(tmp_path / "run") == metrics(whole)


def test_a_kill_between_two_checkpoints_leaves_one(whole: Path, colours: Path, tmp_path: Path) -> None:
    """While the new checkpoint takes the old one's place, there is a moment without either under its name."""
    train(config(colours, **{**PASSES, "rounds": 2}), tmp_path / "run")
    (tmp_path / "run" / "last").rename(tmp_path / "run" / "last.old")
    (tmp_path / "run" / "last.new").mkdir()
    RunFolder(tmp_path / "run").recover()
    assert RunFolder(tmp_path / "run").state().round == 2


def test_patience(colours: Path, tmp_path: Path) -> None:
    """Hardly anything is learnt: sooner or later three evaluations in a row are no better than the best."""
    stubborn = config(colours, "be", rounds=60, eval_every=1, patience=3, learning_rate=1e-9)
    report = train(stubborn, tmp_path / "run")
    scores = [line["dev"]["be_mr"] for line in metrics(tmp_path / "run")]
    assert report.stopped_early
    assert report.best == max(scores)
    assert report.rounds == len(scores) == scores.index(max(scores)) + 1 + 3
    state = RunFolder(tmp_path / "run").state()
    assert (state.stale, state.finished, state.best) == (3, True, max(scores))
    again = train(stubborn, tmp_path / "run")
    assert (again.rounds, again.stopped_early) == (report.rounds, True)


def test_accumulated_batches_are_one_step(colours: Path, tmp_path: Path) -> None:
    """Two batches of 8 are a pass over the 16 images, as one of 16 is; but their negatives come from 8."""
    for name, sizes in (("one", {"batch": 16}), ("two", {"batch": 8, "accumulate": 2})):
        train(config(colours, "be", rounds=3, eval_every=1, **sizes), tmp_path / name)
    epochs = [[line["epoch"] for line in metrics(tmp_path / name)] for name in ("one", "two")]
    assert epochs[0] == epochs[1] == [1.0, 2.0, 3.0]
    steps = [RunFolder(tmp_path / name) for name in ("one", "two")]
    assert [run.state().round for run in steps] == [3, 3]
    assert losses(tmp_path / "one", "be") != losses(tmp_path / "two", "be")


@pytest.mark.parametrize("frozen", [False, True])
def test_unreadable_images_are_named_and_the_rest_trains(frozen: bool, tmp_path: Path) -> None:
    """Also as negatives they are not used: features of a frozen backbone would be no numbers."""
    data = draw_colours(tmp_path)
    for name in ("red1.png", "blue2.png"):  # of train and dev
        (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:300])
    with data.open("a") as file:
        file.write('{"image": "nowhere.png", "captions": ["a hole"]}\n')
    settings = config(
        data, order=["be", "ce-top", "ce-list"], rounds=6, eval_every=6, batch=16, hard_share=0.0, train_vision=not frozen
    )
    report = train(settings, tmp_path / "run", cache=tmp_path / "cache")
    problems = [json.loads(line) for line in (tmp_path / "run" / "problems.jsonl").read_text().splitlines()]
    assert sorted(problem["place"] for problem in problems) == ["blue2.png", "colours.jsonl, line 25", "red1.png"]
    assert all("nowhere.png" in problem["reason"] or "cannot be read" in problem["reason"] for problem in problems)
    assert report.problems == 3
    assert report.dev["be_t2i_r10"] == 100.0
    assert train(settings, tmp_path / "run").problems == 3


def test_problems_survive_an_interruption(tmp_path: Path) -> None:
    data = draw_colours(tmp_path)
    (tmp_path / "red1.png").write_bytes(b"no image")

    def stop(progress: TrainingProgress) -> None:
        if progress.done == 5 and progress.stage == "train" and progress.dev is None:
            (tmp_path / "red1.png").write_bytes((tmp_path / "red0.png").read_bytes())  # it is never seen broken again
            raise _KillError

    with pytest.raises(_KillError):
        train(config(data, "be", rounds=6, eval_every=2), tmp_path / "run", on_progress=stop)
    assert train(config(data, "be", rounds=6, eval_every=2), tmp_path / "run").problems == 1


@pytest.mark.parametrize(("split", "message"), [("train", "no batch of train had two images"), ("dev", "0 of 8 images of dev")])
def test_no_readable_image_at_all(split: str, message: str, tmp_path: Path) -> None:
    data = draw_colours(tmp_path)
    for colour in COLOURS:
        for copy in (0, 1) if split == "train" else (2,):
            (tmp_path / f"{colour}{copy}.png").write_bytes(b"no image")
    with pytest.raises(DatasetError, match=message):
        train(config(data, "be", rounds=2, eval_every=2), tmp_path / "run")


@pytest.mark.parametrize("kept", ["train", "dev"])
def test_an_empty_split_is_found_before_a_model_is_made(kept: str, colours: Path, tmp_path: Path) -> None:
    lines = [line for line in colours.read_text().splitlines() if json.loads(line)["split"] == kept]
    (colours.parent / f"only-{kept}.jsonl").write_text("\n".join(lines) + "\n")
    empty = {"train": "dev", "dev": "train"}[kept]
    data = colours.parent / f"only-{kept}.jsonl"
    with pytest.raises(DatasetError, match=f"{empty} has no items"):
        train(config(data, "be", init="nowhere", vision="nowhere either"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_start_that_fails_leaves_the_folder_free(colours: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="width 32 does not divide into 5 heads"):
        train(config(colours, "be", heads=5, rounds=1), tmp_path / "run")
    assert train(config(colours, "be", heads=2, rounds=1, eval_every=1), tmp_path / "run").rounds == 1


def test_a_folder_that_cannot_be_made(colours: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(TrainingError, match="cannot be made"):
        train(config(colours, "be"), tmp_path / "file" / "run")


def test_a_loss_that_is_no_number_stops_the_run(colours: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"the loss of be-nce is nan in round \d.*lower --learning-rate"):
        train(config(colours, "be", order=["be-nce"], learning_rate=2e9, clip=2e9, weight_decay=0), tmp_path / "run")


def test_frozen_features_are_kept(be_run: Path, ce_run: Path, runs: Path, colours: Path, tmp_path: Path) -> None:
    """The cross-encoder's run has the bi-encoder's backbone frozen; a second run with it computes nothing."""
    shards = {path: path.stat().st_mtime_ns for path in (runs / "cache").rglob("*.npy")}
    assert len(shards) == 2  # train and dev
    assert (ce_run / "vision" / "vision.safetensors").is_file()
    told: list[TrainingProgress] = []
    again = {**RunFolder(ce_run).config().to_dict(), "rounds": 1, "seed": 5}
    train(TrainConfig.from_dict(again), tmp_path / "run", cache=runs / "cache", on_progress=told.append)
    assert {path: path.stat().st_mtime_ns for path in (runs / "cache").rglob("*.npy")} == shards
    read = {(p.stage, p.done, p.total) for p in told if p.stage.endswith("images")}
    assert read == {("dev images", 0, 8), ("dev images", 8, 8), ("train images", 0, 16), ("train images", 16, 16)}


def test_bfloat16_learns_too(colours: Path, tmp_path: Path) -> None:
    train(config(colours, order=["be", "ce", "be-nce", "distil"], precision="bf16", rounds=6, eval_every=3), tmp_path / "run")
    for task in ("be", "be-nce"):
        assert losses(tmp_path / "run", task)[1] < losses(tmp_path / "run", task)[0] + 0.05
    assert {tensor.dtype for tensor in load_file(tmp_path / "run" / "last" / "network.safetensors").values()} <= {
        torch.float32,
        torch.int64,
    }


def test_float16_needs_a_gpu(colours: Path, tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is one")
    with pytest.raises(TrainingError, match=r"precision fp16 is not possible here: .* GPU"):
        train(config(colours, "be", precision="fp16"), tmp_path / "run")
    assert not (tmp_path / "run" / "run.json").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"order": ["be", "cs"]}, "the order names the task 'cs'; expected: be, "),
        ({"objective": "be", "order": ["be", "ce"]}, "the order of a be run has the task 'ce'"),
        ({"objective": "be", "order": ["be", "distil"]}, "has no cross-encoder to learn from"),
        ({"objective": "ce", "order": ["ce-top"]}, "asks a bi-encoder for negatives.*--miner"),
        ({"objective": "joint", "miner": "runs/be"}, "a miner for a joint run"),
        ({"batch": 1}, "batch is 1; expected: a whole number from 2"),
        ({"rounds": 0}, "rounds is 0; expected: a whole number from 1"),
        ({"mined": 0}, "mined is 0"),
        ({"hard_share": 1.5}, "hard_share is 1.5; expected: a number from 0 to 1"),
        ({"learning_rate": -1.0}, "learning_rate is -1.0; expected: a number, above 0"),
        ({"learning_rate": float("nan")}, "learning_rate is NaN"),
        ({"learning_rate": 1e999}, "learning_rate is Infinity"),
        ({"dropout": 1}, "dropout is 1; expected: a number, at least 0 and below 1"),
        ({"seed": -1}, "seed is -1"),
        ({"precision": "fp8"}, 'precision is "fp8"; expected: one of auto, no, bf16, fp16'),
        ({"norm": "batch"}, 'norm is "batch"; expected: one of post, pre, deepnorm'),
        ({"match": "CLS"}, 'match is "CLS"; expected: one of cls, residual'),
        ({"objective": "all"}, 'objective is "all"; expected: one of be, ce, joint'),
        ({"data": ""}, 'data is ""; expected: text'),
        ({"dev_queries": -1}, "dev_queries is -1; expected: a whole number from 0"),
        ({"rounds": "many"}, 'rounds is "many"; expected: a whole number'),
        ({"rounds": True}, "rounds is true; expected: a whole number"),
        ({"rounds": 10**30}, "rounds is 1000"),
        ({"tensorboard": 1}, "tensorboard is 1; expected: true or false"),
        ({"train_vision": 1}, "train_vision is 1; expected: true or false"),
        ({"order": "be"}, 'order is "be"; expected: a list'),
        ({"order": ["be", 1]}, r"order\[1\] is 1; expected: text"),
        ({"learningrate": 1.0}, 'there is no field "learningrate"; expected: learning_rate'),
    ],
)
def test_settings_that_make_no_sense(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        TrainConfig.from_dict({"objective": "joint", "data": "x", **change})


def test_a_call_is_checked_like_a_file() -> None:
    with pytest.raises(InvalidArgumentError, match="token_dim is 0; expected: a whole number from 1"):
        TrainConfig("joint", "x", token_dim=0)


@given(data=st.data())
def test_any_change_of_a_configuration_is_valid_or_named(data: st.DataObject) -> None:
    content = json.loads(json.dumps(config("x").to_dict()))
    place = change_one(content, data.draw)
    given = names(place[:1])[0]
    try:
        again = TrainConfig.from_dict(content)
        assert TrainConfig.from_dict(again.to_dict()) == again
    except InvalidArgumentError as exc:
        given = exc.given
    assert names(place[:1])[0] in given


def test_a_configuration_survives_json() -> None:
    for objective in OBJECTIVES:
        one = config("x", objective)
        assert TrainConfig.from_dict(json.loads(json.dumps(one.to_dict()))) == one


@pytest.mark.parametrize("what", ["backbone", "tokenizer"])
def test_a_miner_that_sees_or_reads_otherwise(what: str, be_run: Path, colours: Path, tmp_path: Path) -> None:
    init = {"init": str(be_run), "width": 0, "layers": 0, "heads": 0, "image_size": 0} if what == "tokenizer" else {}
    other = tmp_path / "other"
    other.mkdir()
    for path in be_run.rglob("*"):
        if path.is_file():
            (other / path.relative_to(be_run)).parent.mkdir(exist_ok=True, parents=True)
            (other / path.relative_to(be_run)).write_bytes(path.read_bytes())
    (other / "tokenizer.json").write_text((other / "tokenizer.json").read_text() + "\n")
    message = {"backbone": "sees images through another backbone", "tokenizer": "has another tokenizer.*--init"}[what]
    with pytest.raises(TrainingError, match=message):
        train(config(colours, "ce", miner=str(other), order=["ce-top"], **init), tmp_path / "run", cache=tmp_path / "cache")
