"""What a run tells while it goes on: every stage, its pace, the time left; and one line a minute where there is no terminal."""

from __future__ import annotations

from pathlib import Path

import pytest

from milvus_coop.cli.progress import Lines
from milvus_coop.offline.training.run.pace import Pace, TrainingProgress
from milvus_coop.offline.training.run.trainer import train
from tests.training.colours import config


class Clock:
    """Seconds that somebody sets."""

    def __init__(self, step: float = 0.0) -> None:
        self.now, self._step = 0.0, step

    def __call__(self) -> float:
        self.now += self._step
        return self.now


def test_pace_and_time_left() -> None:
    told: list[TrainingProgress] = []
    clock = Clock()
    pace = Pace(told.append, clock)
    for now, done in ((0, 20), (10, 20), (30, 26), (40, 40)):  # a run that is resumed begins at 20
        clock.now = now
        pace.report(TrainingProgress("train", done, 100, loss=0.5))
    assert [(one.per_s, one.left_s) for one in told] == [(None, None), (None, None), (6 / 30, 74 * 5), (0.5, 120)]
    assert all((one.loss, one.total) == (0.5, 100) for one in told)


def test_a_stage_that_comes_again_begins_anew() -> None:
    told: list[TrainingProgress] = []
    clock = Clock()
    pace = Pace(told.append, clock)
    for now, stage, done in (
        (0, "embedding", 0),
        (10, "embedding", 50),
        (20, "train", 0),
        (100, "embedding", 10),
        (110, "embedding", 30),
    ):
        clock.now = now
        pace.report(TrainingProgress(stage, done, 50))
    assert [one.per_s for one in told] == [None, 5.0, None, None, 2.0]
    assert told[-1].left_s == 10.0


def test_a_line_a_minute() -> None:
    lines: list[str] = []
    clock = Clock()
    show = Lines(lines.append, clock)
    for second in range(200):
        clock.now = second
        show.report(TrainingProgress("train", second, 12000, loss=1.25, per_s=0.5, left_s=7200 + 60 * 5, pairs_per_s=64.4))
    clock.now = 500
    show.report(TrainingProgress("train", 300, 12000, dev=33.3))
    assert lines == [
        "train: 15 of 12,000  loss 1.250  0.50 rounds/s  64 pairs/s  2 h 5 min left",
        "train: 75 of 12,000  loss 1.250  0.50 rounds/s  64 pairs/s  2 h 5 min left",
        "train: 135 of 12,000  loss 1.250  0.50 rounds/s  64 pairs/s  2 h 5 min left",
        "train: 195 of 12,000  loss 1.250  0.50 rounds/s  64 pairs/s  2 h 5 min left",
        "train: 300 of 12,000  dev 33.3",
    ]


@pytest.mark.parametrize(("seconds", "shown"), [(4.4, "4 s"), (99.0, "99 s"), (100.0, "2 min"), (3599.0, "1 h 0 min")])
def test_how_long_is_left(seconds: float, shown: str) -> None:
    lines: list[str] = []
    Lines(lines.append, Clock(step=20)).report(TrainingProgress("train images", 32, 6086, per_s=58.7, left_s=seconds))
    assert lines == [f"train images: 32 of 6,086  59 /s  {shown} left"]


def test_every_stage_of_a_run_is_told(colours: Path, tmp_path: Path) -> None:
    """Also what comes before the first round: a frozen backbone reads the images, and negatives are mined."""
    told: list[TrainingProgress] = []
    settings = config(colours, order=["be", "ce-top"], rounds=4, eval_every=2, train_vision=False)
    train(settings, tmp_path / "run", cache=tmp_path / "cache", on_progress=told.append)
    stages = list(dict.fromkeys(one.stage for one in told))
    assert stages == ["dev images", "train images", "train", "embedding", "reranking"]
    for stage, total in (("dev images", 8), ("train images", 16), ("train", 4), ("embedding", 16 + 8)):
        of_it = [one for one in told if one.stage == stage]
        assert of_it[-1].done == of_it[-1].total == total  # the last embedding is that of the dev split: 16 captions, 8 images
        assert of_it[0].done == 0 or stage == "embedding"
    rounds = [one for one in told if one.stage == "train"]
    assert [one.done for one in rounds] == [0, 1, 2, 2, 3, 4, 4]
    assert all(one.per_s and one.left_s is not None for one in rounds[1:])
    lines: list[str] = []
    show = Lines(lines.append, Clock(step=61))
    for one in told:
        show.report(one)
    assert [line.split(":")[0] for line in lines] == [one.stage for one in told]
