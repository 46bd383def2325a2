"""A Milvus Lite database with its token files that an earlier revision of this repository has written, opened by this code.

The earlier code is taken from git (`git archive`) and runs in the same Python environment. It makes the bundle too.
"""

from __future__ import annotations

import io
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.campaign.history import Call, Record
from benchmarks.campaign.images import Images
from benchmarks.campaign.judge import Verdict, World, judge
from benchmarks.campaign.load import ask_sdk
from benchmarks.campaign.parts import PATIENCE_S, run, state
from benchmarks.campaign.scenario import Run
from benchmarks.campaign.timeline import Timeline
from benchmarks.campaign.truth import TEXTS, Truth, versions_of
from milvus_coop import CoopSearch

ROOT = Path(__file__).parents[2]
KEEPS = ("collection", "store")
COLLECTION = "images"
PREFIX = "earlier-"
"""How the names of the clients begin that write and read such databases."""
MAKE_BUNDLE = "import sys, pathlib; from tests.toy_bundle import make_bundle; make_bundle(pathlib.Path(sys.argv[1]), sys.argv[2])"


@dataclass(frozen=True, slots=True)
class Earlier:
    """The code of an earlier revision, in a folder."""

    folder: Path

    @classmethod
    def unpack(cls, revision: str, folder: Path) -> Earlier:
        archive = subprocess.run(["git", "-C", ROOT, "archive", revision], check=True, capture_output=True).stdout
        with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
            tar.extractall(folder, filter="data")
        return cls(folder)

    def python(self, *arguments: object) -> None:
        """Run Python with this code."""
        command = [sys.executable, *map(str, arguments)]
        subprocess.run(command, cwd=self.folder, check=True, capture_output=True, text=True, timeout=PATIENCE_S)


def open_earlier(campaign: Run) -> Verdict:
    """Let the earlier code write, and this code read, search and write."""
    earlier, verdict = Earlier.unpack(campaign.options.old_rev, campaign.folder / "earlier"), Verdict()
    for keep in KEEPS:
        calls = _calls(campaign, earlier, keep)
        truth = Truth(campaign.folder / f"{PREFIX}{keep}-bundle", versions_of(calls))
        found = judge(Record(calls), [World(truth, Timeline(calls))], campaign.rules())
        truth.close()
        verdict.violations += found.violations
        verdict.figures[f"{keep}, written by {campaign.options.old_rev}"] = found.figures["calls"]
    return verdict


def _calls(campaign: Run, earlier: Earlier, keep: str) -> list[Call]:
    name = PREFIX + keep
    images, database, bundle = Images(campaign.folder / name), campaign.folder / f"{name}.db", campaign.folder / f"{name}-bundle"
    images.draw({f"{i:05}": i for i in range(campaign.options.items)})
    command = ["ingest", images.folder, "--uri", database, "--bundle", bundle, "--models", "onnx", "--json"]

    def by_earlier() -> dict[str, Any]:
        earlier.python("-c", MAKE_BUNDLE, bundle, keep)
        earlier.python("-m", "milvus_coop", *command)
        return {}

    def write(function: Any) -> Call:
        return campaign.history.call(name, "write", {"must": True, **images.arguments(prune=True)}, function)

    def look() -> list[Call]:
        calls = [campaign.history.call(name, "state", {}, lambda: state(str(database), COLLECTION))]
        with CoopSearch(COLLECTION, uri=database, bundle=bundle, models="onnx", threads=1) as search:
            ask = ask_sdk(search)
            for text in TEXTS[:10]:
                asked: dict[str, Any] = {"text": text, "limit": 10, "k": 50, "deadline_ms": None}
                calls.append(campaign.history.call(name, "search", asked, lambda asked=asked: ask(asked)))  # type: ignore[misc]
        return calls

    calls = [write(by_earlier), *look()]
    names = sorted(images.versions)
    images.remove(names[::4])
    images.draw({name: 1_000_000 + i for i, name in enumerate(names[1::4])})
    return [*calls, write(lambda: run([*command, "--prune"])), *look()]
