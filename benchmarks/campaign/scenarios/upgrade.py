"""Collections, gateways and at last the bundle are replaced under searches, as docs/scale.md and docs/operations.md say.

No search may fail, and every answer must be right for one collection and one bundle that could answer at that time.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from benchmarks.campaign.earlier import PREFIX, open_earlier
from benchmarks.campaign.images import Images
from benchmarks.campaign.judge import Verdict, World, judge
from benchmarks.campaign.load import Ask, Load, ask_sdk, clients_of
from benchmarks.campaign.parts import Gateway
from benchmarks.campaign.proxy import Proxy
from benchmarks.campaign.scenario import Run
from benchmarks.campaign.scenarios.search import fill
from benchmarks.campaign.timeline import Timeline
from benchmarks.campaign.truth import Truth, versions_of
from milvus_coop import CoopSearch
from milvus_coop.serving.gateway.service import FOLLOW_S
from milvus_coop.store import Store
from tests.servers.milvus import MilvusServer
from tests.toy_bundle import make_bundle

ALIAS = "live"
CHANGED = 0.5
"""Share of the images that differ between a collection and the next one."""


@dataclass
class Generation:
    """One collection, and from when to when answers may come from it."""

    number: int
    bundle: str
    since: float
    until: float = float("inf")

    @property
    def collection(self) -> str:
        return f"images_{self.number}"


@dataclass
class Fleet:
    """The parts that are replaced: collections, the gateway behind the balancer, and the SDK's client."""

    campaign: Run
    uri: str
    balancer: Proxy
    images: Images
    gateway: Gateway | None = None
    search: CoopSearch | None = None
    generations: list[Generation] = field(default_factory=list)
    gateways: int = 0
    """How many were started."""

    def build(self, bundle: str) -> Generation:
        """A new collection; half of the images have changed."""
        number = len(self.generations) + 1
        names = sorted(self.images.versions) or [f"{i:05}" for i in range(self.campaign.options.items)]
        share = CHANGED if self.images.versions else 1.0
        chosen = self.campaign.rng.sample(names, int(share * len(names)))
        self.images.draw({name: 1_000_000 * number + i for i, name in enumerate(chosen)})
        made = Generation(number, bundle, float("inf"))
        fill(self.campaign, self.uri, bundle, made.collection, self.images, client=made.collection)
        self.generations.append(made)
        return made

    def roll(self, collection: str, bundle: str) -> None:
        """Start a gateway, send new requests to it, and let the old one finish."""
        self.gateways += 1
        arguments = ("--uri", self.uri, "--bundle", bundle, "--models", "onnx", "--collection", collection)
        new, old = Gateway(arguments, self.campaign.folder / f"gateway-{self.gateways}.log"), self.gateway
        new.start()
        self.gateway, self.balancer.upstream = new, new.port
        self.campaign.history.event(f"gateway {self.gateways}", "note")
        if old is not None:
            old.stop()

    def reopen(self, collection: str, bundle: str) -> None:
        """Open the collection anew for the SDK's clients, and close the old one when no thread can be in it."""
        old = self.search
        self.search = CoopSearch(collection, uri=self.uri, bundle=bundle, models="onnx", threads=1)
        if old is not None:
            time.sleep(1.0)
            old.close()

    def ask(self) -> Ask:
        """Ask the client of this moment."""

        def ask(asked: dict[str, Any]) -> dict[str, Any]:
            assert self.search is not None
            return ask_sdk(self.search)(asked)

        return ask

    def close(self) -> None:
        if self.search is not None:
            self.search.close()
        if self.gateway is not None:
            self.gateway.kill()


def scenario(campaign: Run) -> Verdict:
    """See the module."""
    old_bundle = str(make_bundle(campaign.folder / "old").folder)
    new_bundle = str(make_bundle(campaign.folder / "new", weights=1).folder)
    with ExitStack() as stack:
        milvus = stack.enter_context(MilvusServer())
        balancer = stack.enter_context(Proxy(0))
        fleet = Fleet(campaign, milvus.uri, balancer, Images(campaign.folder / "images"))
        stack.callback(fleet.close)
        with Store(milvus.uri, timeout_s=30) as store:
            first = fleet.build(old_bundle)
            first.since = 0.0
            store.aliases.set(ALIAS, first.collection)
            fleet.roll(ALIAS, old_bundle)
            fleet.reopen(ALIAS, old_bundle)
            clients = clients_of(campaign.options, fleet.ask(), f"http://127.0.0.1:{balancer.port}")
            with Load(campaign, clients) as load:
                load.wait_for_recovery(30.0)
                campaign.restart_clock()
                switches = 0
                while not campaign.is_over or not switches:
                    _switch(fleet, store, old_bundle)
                    fleet.roll(ALIAS, old_bundle)
                    switches += 1
                _change_bundle(fleet, store, new_bundle)
                load.wait_for_recovery(30.0)
    campaign.figures |= {"aliases switched": switches, "gateways rolled": fleet.gateways - 1, "bundles replaced": 1}
    earlier = open_earlier(campaign) if campaign.options.old_rev else Verdict()
    verdict = _judged(campaign, fleet)
    verdict.violations += earlier.violations
    verdict.figures |= earlier.figures
    return verdict


def _switch(fleet: Fleet, store: Store, bundle: str) -> None:
    """Replace the collection by another one of the same bundle."""
    old, new = fleet.generations[-1], fleet.build(bundle)
    new.since = time.monotonic()
    store.aliases.switch(ALIAS, new.collection)
    fleet.campaign.history.event(f"{ALIAS} is {new.collection}", "note")
    fleet.reopen(ALIAS, bundle)
    time.sleep(FOLLOW_S + 1.0)
    store.drop(old.collection)
    old.until = time.monotonic()


def _change_bundle(fleet: Fleet, store: Store, bundle: str) -> None:
    """Replace the collection and the bundle together."""
    old, new = fleet.generations[-1], fleet.build(bundle)
    new.since = time.monotonic()
    fleet.roll(new.collection, bundle)
    fleet.reopen(new.collection, bundle)
    store.aliases.drop(ALIAS)
    store.drop(old.collection)
    old.until = time.monotonic()


def _judged(campaign: Run, fleet: Fleet) -> Verdict:
    record = campaign.record()
    calls = [call for call in record.calls if not call.client.startswith(PREFIX)]
    with _truths({generation.bundle for generation in fleet.generations}, versions_of(calls)) as truths:
        worlds = []
        for generation in fleet.generations:
            writes = [replace(call, end=call.start) for call in calls if call.client == generation.collection]
            worlds.append(World(truths[generation.bundle], Timeline(writes), generation.since, generation.until))
        return judge(replace(record, calls=calls), worlds, campaign.rules())


@contextmanager
def _truths(bundles: set[str], versions: set[int]) -> Iterator[dict[str, Truth]]:
    truths = {bundle: Truth(bundle, versions) for bundle in bundles}
    try:
        yield truths
    finally:
        for truth in truths.values():
            truth.close()
