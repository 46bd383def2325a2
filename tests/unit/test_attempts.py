"""The item that kills its worker is found after a few attempts, and only then."""

from __future__ import annotations

from milvus_coop.ingest.cluster.attempts import Attempts


def test_an_item_that_was_held_when_its_worker_died_is_deadly() -> None:
    attempts = Attempts()
    assert [attempts.begin(7) for _ in range(3)] == [(1, []), (2, []), (3, [])]
    attempts.hold(7, "a")
    attempts.hold(7, "b")
    assert attempts.begin(7) == (4, ["b"])
    attempts.hold(7, "c")
    assert attempts.begin(7) == (5, ["b", "c"])
    assert attempts.begin(7) == (6, ["b", "c"])
    assert attempts.begin(8) == (1, [])


def test_a_finished_part_is_forgotten() -> None:
    attempts = Attempts()
    attempts.begin(1)
    attempts.hold(1, "a")
    attempts.end(1)
    assert attempts.begin(1) == (1, [])
