"""bfloat16: where it is used by default, how far its losses are from float32's, and that a run keeps what was decided."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from milvus_coop.offline.training.run.config import TrainConfig
from milvus_coop.offline.training.run.folder import RunFolder
from milvus_coop.offline.training.run.pace import TrainingProgress
from milvus_coop.offline.training.run.precision import computing, cpu_multiplies_bf16, resolve_precision
from milvus_coop.offline.training.run.tasks import Objectives
from milvus_coop.offline.training.run.trainer import train
from tests.training.colours import config, metrics
from tests.training.test_pretraining import batch, network

HALF = 0.02  # bfloat16 has 8 bits: each product is right to 0.4 %, and a logit is a sum of some dozen
CPU = torch.device("cpu")
ORDER = ["be-nce", "ce", "mlm"]


def test_auto_is_what_the_hardware_multiplies() -> None:
    assert [resolve_precision(name) for name in ("no", "bf16", "fp16")] == ["no", "bf16", "fp16"]
    if torch.accelerator.is_available():
        assert resolve_precision("auto") in {"no", "bf16"}
    else:
        assert resolve_precision("auto") == ("bf16" if cpu_multiplies_bf16() else "no")


def test_the_cpu_is_asked_and_not_only_the_library() -> None:
    """oneDNN says yes wherever there is AVX-512, also where it has to emulate bfloat16."""
    info = Path("/proc/cpuinfo")
    if not info.is_file():
        pytest.skip("no /proc/cpuinfo here")
    flags = set(info.read_text().split())
    if flags & {"avx512_bf16", "amx_bf16"}:
        assert cpu_multiplies_bf16()
    elif "flags" in flags:  # x86
        assert not cpu_multiplies_bf16()


@pytest.mark.parametrize("task", ["be", "be-nce", "ce", "ce-hard", "itm", "mlm", "distil"])
def test_losses_and_gradients_are_float32_s(task: str) -> None:
    values, gradients = [], []
    for precision in ("no", "bf16"):
        model, given = network(), batch()
        with computing(precision, CPU):
            loss = Objectives(model, None, 0.1)(task, given, 1)
        torch.autograd.backward(loss)
        values.append(loss.item())
        parts = [value.grad.flatten() for value in model.parameters() if value.grad is not None]
        gradients.append(torch.cat(parts))
        assert gradients[-1].dtype == torch.float32
    assert values[1] == pytest.approx(values[0], rel=HALF, abs=HALF)
    assert values[1] != values[0]  # so it was bfloat16
    assert torch.cosine_similarity(gradients[0], gradients[1], dim=0) > 0.99


def test_a_run_learns_alike_in_both(colours: Path, tmp_path: Path) -> None:
    lines = {}
    for precision in ("no", "bf16"):
        train(config(colours, order=ORDER, rounds=10, eval_every=5, precision=precision), tmp_path / precision)
        lines[precision] = metrics(tmp_path / precision)
    for full, half in zip(lines["no"], lines["bf16"], strict=True):
        for task in ORDER:
            assert half["losses"][task] == pytest.approx(full["losses"][task], rel=0.05)
            assert half["losses"][task] != full["losses"][task]


class _KillError(Exception):
    pass


def test_a_run_records_what_auto_was_and_goes_on_with_it(colours: Path, tmp_path: Path) -> None:
    auto = config(colours, order=ORDER, rounds=6, eval_every=2, precision="auto")
    train(auto, tmp_path / "whole")
    decided = RunFolder(tmp_path / "whole").config().precision
    assert decided == resolve_precision("auto") != "auto"

    def stop(progress: TrainingProgress) -> None:
        if progress.stage == "train" and progress.done == 5:
            raise _KillError

    with pytest.raises(_KillError):
        train(auto, tmp_path / "run", on_progress=stop)
    train(auto, tmp_path / "run")
    assert metrics(tmp_path / "run") == metrics(tmp_path / "whole")
    by_name = TrainConfig.from_dict({**auto.to_dict(), "precision": decided})
    assert train(by_name, tmp_path / "run").rounds == 6  # the same configuration


def test_a_run_that_began_on_another_machine_keeps_its_precision(colours: Path, tmp_path: Path) -> None:
    """Begun in what `auto` is not here."""
    other = "no" if resolve_precision("auto") == "bf16" else "bf16"
    settings: dict[str, Any] = {"order": ORDER, "rounds": 4, "eval_every": 2}

    def stop(progress: TrainingProgress) -> None:
        if progress.stage == "train" and progress.done == 3:
            raise _KillError

    with pytest.raises(_KillError):
        train(config(colours, **settings, precision=other), tmp_path / "run", on_progress=stop)
    train(config(colours, **settings, precision="auto"), tmp_path / "run")
    train(config(colours, **settings, precision=other), tmp_path / "whole")
    assert metrics(tmp_path / "run") == metrics(tmp_path / "whole")
    assert json.loads((tmp_path / "run" / "run.json").read_text())["config"]["precision"] == other
