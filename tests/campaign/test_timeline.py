"""What a reader may see, followed from read to read, is the same as computed anew for each."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from benchmarks.campaign.history import Call
from benchmarks.campaign.images import Images, Settled
from benchmarks.campaign.timeline import Reader, Timeline, Version


def some_writes(rng: random.Random) -> list[Call]:
    """Writes of several clients at once: some fail, some are refused in part, some remove."""
    writes = []
    for n in range(60):
        start = rng.uniform(0, 100)
        ids = [f"item-{i}" for i in rng.sample(range(20), 3)]
        error = {"type": "RunError", "message": "killed"} if rng.random() < 0.3 else None
        arguments = {"items": {id: 100 * n + i for i, id in enumerate(ids[:2])}, "gone": ids[2:]}
        answer = None if error else {"refused": ids[: rng.random() < 0.2]}
        writes.append(Call("writer", "write", start, start + rng.uniform(0, 6), arguments, answer, error))
    return writes


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("visible_s", [0.0, 3.0])
def test_a_reader_sees_what_each_read_alone_would_see(seed: int, visible_s: float) -> None:
    rng = random.Random(seed)
    timeline = Timeline(some_writes(rng))
    reader, now = Reader(timeline, visible_s), dict[str, frozenset[Version]]()
    for start in sorted(rng.uniform(0, 110) for _ in range(300)):
        end = start + rng.uniform(0, 10)
        now |= reader.changes(start, end)
        assert {id: versions for id, versions in now.items() if versions != {None}} == timeline.between(start, end, visible_s)


def test_a_write_that_changes_little_is_short(tmp_path: Path) -> None:
    """And has what an earlier one that failed may have left."""
    images = Images(tmp_path / "images")
    images.draw({"a": 1, "b": 2, "c": 3})
    first = Call("ingest", "write", 0, 1, images.arguments(prune=True), {})
    settled = Settled(first)
    assert settled.changes(images.arguments(prune=True)) == {"items": {}, "gone": []}

    images.draw({"a": 4, "d": 5})
    killed = settled.changes(images.arguments(prune=True))
    assert killed == {"items": {images.id("a"): 4, images.id("d"): 5}, "gone": []}
    settled.add(Call("ingest", "write", 2, 3, killed, None, {"type": "RunError", "message": "killed"}))

    images.draw({"a": 1})
    images.remove(["d"])
    again = settled.changes(images.arguments(prune=True))
    assert again == {"items": {images.id("a"): 1}, "gone": [images.id("d")]}
    settled.add(Call("ingest", "write", 4, 5, again, {}))
    assert settled.changes(images.arguments(prune=True)) == {"items": {}, "gone": []}
