"""When a plan is due again, and why."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from milvus_coop.serving.plans.record import PlanRecord, why_due

FACTS = {
    "bundle": "coop-small 1 abc",
    "graph": "1234",
    "TensorRT": "tensorrt 11.4.0.106",
    "compute capability": "8.9",
    "GPU": "NVIDIA L4",
}


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    path = tmp_path / "model.plan"
    path.write_bytes(b"plan")
    return path


RECORD = PlanRecord(FACTS, plan_bytes=4, layers=3, build_s=1.5)


def test_a_plan_that_fits_is_not_due(plan: Path) -> None:
    assert why_due(FACTS, plan, RECORD) is None


@pytest.mark.parametrize("key", FACTS)
def test_every_fact_counts(plan: Path, key: str) -> None:
    assert why_due({**FACTS, key: "other"}, plan, RECORD) == f"{key} was {FACTS[key]}, is other"


def test_the_first_difference_is_named(plan: Path) -> None:
    now = {**FACTS, "GPU": "NVIDIA H200", "TensorRT": "tensorrt 11.5.0"}
    assert why_due(now, plan, RECORD) == "TensorRT was tensorrt 11.4.0.106, is tensorrt 11.5.0"


def test_a_fact_that_older_records_lack(plan: Path) -> None:
    assert why_due({**FACTS, "shapes": "1x8"}, plan, RECORD) == "shapes was None, is 1x8"


def test_no_plan_no_record_half_a_plan(plan: Path) -> None:
    assert why_due(FACTS, plan, None) == "the plan has no record"
    assert why_due(FACTS, plan, dataclasses.replace(RECORD, plan_bytes=5)) == "the plan has 4 bytes, its record says 5"
    plan.unlink()
    assert why_due(FACTS, plan, RECORD) == "there is no plan"


def test_a_record_survives_its_file(tmp_path: Path) -> None:
    RECORD.write(tmp_path / "plan.json")
    assert PlanRecord.read(tmp_path / "plan.json") == RECORD


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 2}', '{"format": 1}', '{"format": 1, "facts": 3, "plan_bytes": 1}'])
def test_records_that_are_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "plan.json").write_text(text)
    assert PlanRecord.read(tmp_path / "plan.json") is None
    assert PlanRecord.read(tmp_path / "missing.json") is None
