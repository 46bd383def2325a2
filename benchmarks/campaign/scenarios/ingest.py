"""SIGKILL at random moments of `milvus-coop ingest`, each followed by a run to the end: nothing lost, nothing twice, no run fails.

The four targets take turns: a folder and a list, in Milvus Lite and on a server. Before each round, images are added, changed and
removed. The runs on a folder prune.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass

from benchmarks.campaign.history import Record
from benchmarks.campaign.images import Images
from benchmarks.campaign.judge import Verdict, World, judge
from benchmarks.campaign.parts import run, state
from benchmarks.campaign.scenario import Run
from benchmarks.campaign.timeline import Timeline
from benchmarks.campaign.truth import Truth, versions_of
from tests.servers.milvus import MilvusServer
from tests.toy_bundle import make_bundle

SHARE_CHANGED = 0.8
"""Share of the images that a round changes."""
KILLED_AT = (0.4, 1.0)
"""When a run is killed, as a share of the time of a whole one. Half of that time is the start of Python."""
KEEPS = ("collection", "store")


@dataclass
class Target:
    """One collection, and the images that it must hold."""

    name: str
    images: Images
    source: str
    uri: str
    bundle: str
    whole_s: float = 0.0
    """Time of the last run that had work and was not killed."""

    @property
    def command(self) -> list[object]:
        source = self.images.folder if self.source == "folder" else self.images.list
        where = ["--uri", self.uri, "--collection", self.collection, "--bundle", self.bundle, "--models", "onnx"]
        return ["ingest", source, *where, *(["--prune"] if self.prunes else []), "--json", "--batch", 1]

    @property
    def prunes(self) -> bool:
        return self.source == "folder"

    @property
    def collection(self) -> str:
        return self.name.replace("-", "_")


def scenario(campaign: Run) -> Verdict:
    """See the module."""
    with ExitStack() as stack:
        targets = _targets(campaign, stack)
        for target in targets:
            _first_run(campaign, target)
        campaign.restart_clock()
        kills = rounds = 0
        while not campaign.is_over or rounds < len(targets) or kills < campaign.options.kills:
            kills += _round(campaign, targets[rounds % len(targets)], version=1_000_000 * (rounds + 1))
            rounds += 1
    campaign.figures |= {"rounds": rounds, "SIGKILLs that hit a running ingest": kills, "items per target": campaign.options.items}
    return _judged(campaign, targets)


def _targets(campaign: Run, stack: ExitStack) -> list[Target]:
    folder, targets = campaign.folder, []
    for keep in KEEPS:
        make_bundle(folder / f"bundle-{keep}", keep)  # type: ignore[arg-type]
    addresses = {"lite": ""}
    if campaign.options.stores == "all":
        addresses["server"] = stack.enter_context(MilvusServer()).uri
    for kind, address in addresses.items():
        for source, keep in zip(("folder", "list"), KEEPS if kind == "lite" else ("collection",) * 2, strict=True):
            name = f"{kind}-{source}"
            uri = f"{address}/default" if address else str(folder / f"{name}.db")
            targets.append(Target(name, Images(folder / name), source, uri, str(folder / f"bundle-{keep}")))
    return targets


def _first_run(campaign: Run, target: Target) -> None:
    target.images.draw({f"{i:05}": i for i in range(campaign.options.items)})
    _ingest(campaign, target, must=True)


def _round(campaign: Run, target: Target, version: int) -> bool:
    """Change the images, kill a run, look, run to the end, and look again. True if the run was killed."""
    rng, names = campaign.rng, sorted(target.images.versions)
    n = int(len(names) * SHARE_CHANGED)
    chosen = rng.sample(names, n)
    target.images.remove(chosen[: n // 4])
    changed = {name: version + i for i, name in enumerate(chosen[n // 4 :])}
    new = {f"{version}-{i}": version + n + i for i in range(campaign.options.items - len(target.images.versions))}
    target.images.draw(changed | new)
    killed = not _ingest(campaign, target, must=False, kill_after_s=rng.uniform(*KILLED_AT) * target.whole_s)
    _look(campaign, target)
    _ingest(campaign, target, must=True)
    _look(campaign, target)
    return killed


def _ingest(campaign: Run, target: Target, *, must: bool, kill_after_s: float | None = None) -> bool:
    if target.source == "list":
        target.images.write_list()
    arguments = {"must": must, **target.images.arguments(prune=target.prunes)}
    call = campaign.history.call(target.name, "write", arguments, lambda: run(target.command, kill_after_s=kill_after_s))
    if call.error is None and call.answer["added"]:
        target.whole_s = call.end - call.start
    return call.error is None


def _look(campaign: Run, target: Target) -> None:
    campaign.history.call(target.name, "state", {}, lambda: state(target.uri, target.collection))


def _judged(campaign: Run, targets: list[Target]) -> Verdict:
    record, verdict = campaign.record(), Verdict()
    for target in targets:
        calls = [call for call in record.calls if call.client == target.name]
        truth = Truth(target.bundle, versions_of(calls))
        found = judge(Record(calls), [World(truth, Timeline(calls))])
        truth.close()
        verdict.violations += found.violations
        verdict.figures[target.name] = {
            **found.figures["calls"],
            "rows at the end": calls[-1].answer["count"] if calls[-1].answer else 0,
        }
    return verdict
