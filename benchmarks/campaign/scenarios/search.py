"""SDK and HTTP clients search without a pause while Triton and Milvus are killed, stopped, slowed and restarted.

Every answer must be right or say what it lacks, must come by its deadline, and must be complete again soon after each repair. No
client is opened a second time.
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from benchmarks.campaign.faults import make_faults, milvus_faults, triton_faults
from benchmarks.campaign.history import read
from benchmarks.campaign.images import Images
from benchmarks.campaign.judge import Rules, Verdict, World
from benchmarks.campaign.load import Load, ask_http, ask_sdk
from benchmarks.campaign.parts import Gateway
from benchmarks.campaign.scenario import Run
from benchmarks.campaign.timeline import Timeline
from benchmarks.campaign.truth import Truth
from milvus_coop import CoopIngest, CoopSearch
from tests.servers.milvus import MilvusServer
from tests.servers.triton import BreakableTriton
from tests.toy_bundle import make_bundle

TIMEOUT_S = 3.0
"""Time limit of each call to Milvus and Triton."""
DEADLINES_MS = (1000.0, 2000.0, None)


def scenario(campaign: Run) -> Verdict:
    """See the module."""
    bundle = str(make_bundle(campaign.folder / "bundle").folder)
    with ExitStack() as stack:
        milvus = stack.enter_context(MilvusServer())
        triton = stack.enter_context(BreakableTriton(campaign.folder / "triton", bundle=bundle))
        fill(campaign, milvus.uri, bundle)
        where = ("--uri", milvus.uri, "--bundle", bundle, "--models", triton.uri, "--timeout", TIMEOUT_S)
        gateway = stack.enter_context(Gateway(where, campaign.folder / "gateway.log"))
        search = stack.enter_context(CoopSearch("images", uri=milvus.uri, bundle=bundle, models=triton.uri, timeout_s=TIMEOUT_S))
        clients = [
            *((f"sdk-{i}", ask_sdk(search)) for i in range(campaign.options.clients)),
            *((f"http-{i}", ask_http(gateway.url)) for i in range(campaign.options.clients)),
        ]
        with Load(campaign.history, clients, seed=campaign.options.seed, deadlines_ms=DEADLINES_MS) as load:
            load.wait_for_recovery(30.0)
            campaign.restart_clock()
            memory = gateway.memory_mb
            faults = [*triton_faults(triton), *milvus_faults(milvus, "images", campaign.options.items)]
            recovery_s = Rules().recovery_s
            made = make_faults(
                campaign.history,
                load,
                faults,
                campaign.rng,
                is_over=lambda: campaign.is_over,
                recovery_s=recovery_s,
                only=campaign.options.only,
            )
        campaign.figures |= {"faults made": made, "memory of the gateway, MB": [round(memory), round(gateway.memory_mb)]}
    return verdict(campaign, bundle)


def fill(
    campaign: Run,
    uri: str,
    bundle: str | Path,
    collection: str = "images",
    images: Images | None = None,
    client: str = "setup",
) -> Images:
    """Ingest the images, as one recorded write."""
    if images is None:
        images = Images(campaign.folder / "images")
        images.draw({f"{i:05}": i for i in range(campaign.options.items)})
    folder = images.folder

    def ingest() -> dict[str, int]:
        with CoopIngest(collection, uri=uri, bundle=bundle, models="onnx", threads=1, timeout_s=30) as ingester:
            return {"added": ingester.run([folder]).added}

    campaign.history.call(client, "write", {"must": True, **images.arguments()}, ingest)
    return images


def verdict(campaign: Run, bundle: str, **rules: float) -> Verdict:
    """Judge searches in one collection that all recorded writes went into."""
    calls = read(campaign.history.path).calls
    versions = {version for call in calls for version in call.arguments.get("items", {}).values()}
    truth = Truth(bundle, versions)
    try:
        return campaign.verdict(World(truth, Timeline(calls)), **rules)
    finally:
        truth.close()
