"""A Milvus Lite folder and its token store, copied while a process writes into them, and restored elsewhere.

The process is held with SIGSTOP during the copy, as docs/operations.md says. Its writes come one after another, so the restored
rows must be those after one of the writes before the end of the copy; a write under way may be there in part. All restored rows
must be found and reranked. Every second copy is made without holding the process; it breaks no promise if it is wrong, but the
report counts how many are.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.campaign.history import Call, Record, read
from benchmarks.campaign.judge import Verdict, Violation, World, judge
from benchmarks.campaign.load import ask_sdk
from benchmarks.campaign.parts import rows_of
from benchmarks.campaign.scenario import Run
from benchmarks.campaign.timeline import Timeline
from benchmarks.campaign.truth import TEXTS, Truth, versions_of
from benchmarks.campaign.writer import COLLECTION
from milvus_coop import CoopSearch
from tests.toy_bundle import make_bundle

SEARCHES = 5
BETWEEN_S = 0.5
"""Mean time between two copies."""
END_S = 60.0


@dataclass(frozen=True, slots=True)
class Copy:
    """A copy, and the time that it took."""

    folder: Path
    start: float
    end: float
    held: bool
    """Whether the writing process was held meanwhile."""

    @property
    def name(self) -> str:
        return self.folder.name


def scenario(campaign: Run) -> Verdict:
    """See the module."""
    bundle = make_bundle(campaign.folder / "bundle", "store").folder
    copies: list[Copy] = []
    with _writing(campaign) as pid:
        campaign.restart_clock()
        while not campaign.is_over or len(copies) < 2:
            time.sleep(campaign.rng.uniform(0, 2 * BETWEEN_S))
            copies.append(_copy(campaign.folder, len(copies), pid if len(copies) % 2 == 0 else None))
    writes = read(campaign.folder / "writer.jsonl").calls
    truth = Truth(bundle, versions_of(writes))
    verdict, wrong = Verdict(), 0
    for copy in copies:
        found = _check(campaign, copy, bundle, truth, writes)
        if copy.held:
            verdict.violations += found
        else:
            wrong += bool(found)
    truth.close()
    campaign.history.close()
    held = [copy for copy in copies if copy.held]
    verdict.violations += judge(Record(writes), []).violations
    verdict.figures = {
        "writes": len(writes),
        "copies with the process held": len(held),
        "of these with a broken promise": len({violation.client for violation in verdict.violations}),
        "copies without holding it": len(copies) - len(held),
        "of these wrong": wrong,
        "longest time that the process was held, s": round(max(copy.end - copy.start for copy in held), 2),
    }
    return verdict


@contextmanager
def _writing(campaign: Run) -> Iterator[int]:
    """The process that writes, and its number."""
    command = [sys.executable, "-m", "benchmarks.campaign.writer", campaign.folder, campaign.options.items, campaign.options.seed]
    pipe = subprocess.PIPE
    with subprocess.Popen([*map(str, command)], stdin=pipe, stdout=pipe, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield process.pid
            assert process.stdin is not None
            process.stdin.close()
            assert process.wait(END_S) == 0
        finally:
            process.kill()


def _copy(folder: Path, number: int, hold: int | None) -> Copy:
    """Copy the database and its token store, with the process `hold` held."""
    to = folder / f"copy-{number}"
    to.mkdir()
    start = time.monotonic()
    try:
        if hold is not None:
            os.kill(hold, signal.SIGSTOP)
        for name in ("lite.db", "lite.db.tokens"):
            subprocess.run(["cp", "-a", str(folder / name), str(to)], check=hold is not None, capture_output=True)
    finally:
        if hold is not None:
            os.kill(hold, signal.SIGCONT)
    return Copy(to, start, time.monotonic(), hold is not None)


def _check(campaign: Run, copy: Copy, bundle: Path, truth: Truth, writes: Sequence[Call]) -> list[Violation]:
    """Open a copy, read it, and search in it."""
    where, tokens = copy.folder / "lite.db", copy.folder / "lite.db.tokens"
    try:
        search = CoopSearch(COLLECTION, uri=where, token_store=tokens, bundle=bundle, models="onnx", threads=1)
    except Exception as exc:  # a wrong copy may break in any way
        return [Violation("failed run", copy.start, copy.name, f"the copy cannot be opened: {type(exc).__name__}: {exc}")]
    with search:
        rows = rows_of(search.collection)
        # The copy holds what was there during the copy, whenever it is read.
        state = Call(copy.name, "state", copy.start, copy.end, {}, rows)
        found = judge(Record([state]), [World(truth, Timeline(writes))]).violations
        there = {row["id"]: truth.version_of(row["digest"]) for row in rows["rows"]}
        if not found and not _is_a_moment(there, writes, copy):
            found.append(Violation("torn", copy.start, copy.name, "the rows are not those after any one of the writes"))
        restored = Call(copy.name, "write", copy.end, copy.end, {"items": there}, {})
        ask, searches = ask_sdk(search), []
        for text in TEXTS[:SEARCHES]:
            asked: dict[str, Any] = {"text": text, "limit": 10, "k": 50, "deadline_ms": None}
            searches.append(campaign.history.call(copy.name, "search", asked, lambda asked=asked: ask(asked)))  # type: ignore[misc]
        found += judge(Record(searches), [World(truth, Timeline([restored]))]).violations
    shutil.rmtree(copy.folder)
    return found


def _is_a_moment(there: Mapping[str, int | None], writes: Sequence[Call], copy: Copy) -> bool:
    """True if the rows are those after a number of whole writes, and a part of the next one."""
    now: dict[str, int] = {}
    for write, following in zip(writes, [*writes[1:], None], strict=True):
        if write.start > copy.end:
            return False
        now |= write.arguments["items"]
        coming = {} if following is None else following.arguments["items"]
        if all(there.get(id) in (now.get(id), coming.get(id)) for id in {*now, *coming, *there}):
            return True
    return False
