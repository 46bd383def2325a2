"""SDK and HTTP clients search without a pause while Triton and Milvus are killed, stopped, slowed and restarted.

Every answer must be right or say what it lacks, must come by its deadline, and must be complete again soon after each repair. No
client is opened a second time.
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from benchmarks.campaign.faults import clock_faults, make_faults, milvus_faults, triton_faults
from benchmarks.campaign.history import Call
from benchmarks.campaign.images import Images
from benchmarks.campaign.judge import Rules, Verdict, World, judge
from benchmarks.campaign.load import Load, ask_sdk, clients_of
from benchmarks.campaign.parts import Gateway, Sampler
from benchmarks.campaign.scenario import Run
from benchmarks.campaign.timeline import Timeline
from benchmarks.campaign.truth import Truth, versions_of
from milvus_coop import CollectionOptions, CoopIngest, CoopSearch, Store, load_bundle
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
        gateway = stack.enter_context(Gateway(where, campaign.folder / "gateway.log", own_clock=True))
        search = stack.enter_context(CoopSearch("images", uri=milvus.uri, bundle=bundle, models=triton.uri, timeout_s=TIMEOUT_S))
        clients = clients_of(campaign.options, ask_sdk(search), gateway.url)
        with Load(campaign, clients, deadlines_ms=DEADLINES_MS) as load:
            load.wait_for_recovery(30.0)
            campaign.restart_clock()
            with Sampler(campaign.history, gateway):
                faults = [
                    *triton_faults(triton),
                    *milvus_faults(milvus, "images", campaign.options.items),
                    *clock_faults(gateway.clock),
                ]
                make_faults(campaign, load, faults)
    return verdict(campaign, bundle, campaign.drift_rules())


def fill(
    campaign: Run,
    uri: str,
    bundle: str | Path,
    collection: str = "images",
    images: Images | None = None,
    client: str = "setup",
) -> Call:
    """Ingest the images, as one recorded write, which is returned.

    The collection keeps the index FLAT, which a server searches exactly: HNSW misses some of 20,000 images, and the judge could not
    tell that from a lost one.
    """
    if images is None:
        images = Images(campaign.folder / "images")
        images.draw({f"{i:05}": i for i in range(campaign.options.items)})
    folder = images.folder

    with Store(uri, timeout_s=30) as store:
        store.open_or_create(collection, load_bundle(bundle).spec, "image", options=CollectionOptions(build_index="after"))

    def ingest() -> dict[str, int]:
        with CoopIngest(collection, uri=uri, bundle=bundle, models="onnx", threads=1, timeout_s=30) as ingester:
            return {"added": ingester.run([folder]).added}

    return campaign.history.call(client, "write", {"must": True, **images.arguments()}, ingest)


def verdict(campaign: Run, bundle: str, rules: Rules) -> Verdict:
    """Judge searches in one collection that all recorded writes went into."""
    record = campaign.record()
    truth = Truth(bundle, versions_of(record.calls))
    try:
        return judge(record, [World(truth, Timeline(record.calls))], rules)
    finally:
        truth.close()
