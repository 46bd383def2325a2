"""What every scenario has: its options, a folder to work in, a history, and a clock that says when to end."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.campaign.history import History, Record, read
from benchmarks.campaign.judge import Rules, Verdict


@dataclass(frozen=True, slots=True)
class Options:
    """The options of a run."""

    seconds: float = 60.0
    """How long faults and load go on. Starting the servers comes on top."""
    seed: int = 1
    sdk_clients: int = 4
    """Number of threads that share one `CoopSearch`."""
    http_clients: int = 4
    """Number of clients of a gateway."""
    pause_ms: float = 50.0
    """Mean pause of a client between two calls. With many clients, a longer one leaves the servers time for other work."""
    items: int = 400
    grace_ms: float = 250.0
    """See `Rules`."""
    only: str = ""
    """Part of the name of the faults that are made; '' means all."""
    stores: str = "all"
    """`lite`: the scenario `ingest` leaves out the Milvus server."""
    old_rev: str = ""
    """The scenario `upgrade` opens a database that this revision of the repository has written; '' means none."""
    kills: int = 0
    """The scenario `ingest` goes on until so many SIGKILLs have hit a running ingest."""


LONG_S = 300.0
"""A run of this time has calm spells."""
P99_GROWTH, MB_PER_1000 = 1.2, 1.0
"""The rules on drift; see `Rules`."""


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

    @property
    def calm_s(self) -> float:
        """How long nothing is broken between two rounds of faults; short runs have no time for that."""
        seconds = self.options.seconds
        return Rules().recovery_s + seconds / 20 if seconds >= LONG_S else 0.0

    def restart_clock(self) -> None:
        """Let the time for load and faults begin now."""
        self.began_s = time.monotonic()

    def record(self) -> Record:
        """All that was recorded; nothing can be recorded after it."""
        self.history.close()
        return read(self.history.path)

    def rules(self, **rules: Any) -> Rules:
        """The rules by the options of the run."""
        return Rules(grace_ms=self.options.grace_ms, **rules)

    def drift_rules(self, **rules: Any) -> Rules:
        """The same for a scenario that goes on alike from its beginning to its end."""
        return self.rules(p99_growth=P99_GROWTH, mb_per_1000=MB_PER_1000, **rules)


Scenario = Callable[[Run], Verdict]
