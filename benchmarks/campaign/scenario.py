"""What every scenario has: its options, a folder to work in, a history, and a clock that says when to end."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.campaign.history import History, read
from benchmarks.campaign.judge import Rules, Verdict, World, judge


@dataclass(frozen=True, slots=True)
class Options:
    """The options of a run."""

    seconds: float = 60.0
    """How long faults and load go on. Starting the servers comes on top."""
    seed: int = 1
    clients: int = 4
    """Number of clients of each kind."""
    items: int = 400
    grace_ms: float = 250.0
    """See `Rules`."""
    only: str = ""
    """Part of the name of the faults that are made; '' means all."""
    stores: str = "all"
    """`lite`: the scenario `ingest` leaves out the Milvus server."""


@dataclass
class Run:
    """One run of a scenario in a folder."""

    folder: Path
    options: Options
    figures: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.history = History(self.folder / "history.jsonl")
        self.rng = random.Random(self.options.seed)
        self.began_s = time.monotonic()

    @property
    def is_over(self) -> bool:
        """True when the time for load and faults is over."""
        return time.monotonic() - self.began_s >= self.options.seconds

    def restart_clock(self) -> None:
        """Let the time for load and faults begin now."""
        self.began_s = time.monotonic()

    def verdict(self, *worlds: World, **rules: Any) -> Verdict:
        """Judge what was recorded."""
        self.history.close()
        return judge(read(self.history.path), worlds, Rules(grace_ms=self.options.grace_ms, **rules))


Scenario = Callable[[Run], Verdict]
