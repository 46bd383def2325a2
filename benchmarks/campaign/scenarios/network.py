"""The search scenario with a bad network between the client, the gateway, Triton and Milvus: slow, lossy, cut, or a black hole.

The network is a proxy before each server (`proxy.py`).
"""

from __future__ import annotations

from contextlib import ExitStack

from benchmarks.campaign.faults import Fault, make_faults
from benchmarks.campaign.judge import Verdict
from benchmarks.campaign.load import Load, ask_sdk, clients_of
from benchmarks.campaign.parts import Gateway
from benchmarks.campaign.proxy import Network, Proxy
from benchmarks.campaign.scenario import Run
from benchmarks.campaign.scenarios.search import DEADLINES_MS, TIMEOUT_S, fill, verdict
from milvus_coop import CoopSearch
from tests.servers.milvus import MilvusServer
from tests.servers.triton import BreakableTriton
from tests.toy_bundle import make_bundle

KINDS = {
    "slow (200 ms)": Network(delay_s=0.1),
    "lossy (5 %)": Network(loss=0.05),
    "cut": Network(cut=True),
    "a black hole": Network(black_hole=True),
}
CALM = Network()


def scenario(campaign: Run) -> Verdict:
    """See the module."""
    bundle = str(make_bundle(campaign.folder / "bundle").folder)
    with ExitStack() as stack:
        milvus = stack.enter_context(MilvusServer())
        triton = stack.enter_context(BreakableTriton(campaign.folder / "triton", bundle=bundle))
        fill(campaign, milvus.uri, bundle)
        to_milvus = stack.enter_context(Proxy(milvus.port, 1))
        to_triton = stack.enter_context(Proxy(triton.endpoints.grpc, 2))
        uri, models = f"http://127.0.0.1:{to_milvus.port}", f"triton://127.0.0.1:{to_triton.port}"
        where = ("--uri", uri, "--bundle", bundle, "--models", models, "--timeout", TIMEOUT_S)
        gateway = stack.enter_context(Gateway(where, campaign.folder / "gateway.log"))
        to_gateway = stack.enter_context(Proxy(gateway.port, 3))
        search = stack.enter_context(CoopSearch("images", uri=uri, bundle=bundle, models=models, timeout_s=TIMEOUT_S))
        clients = clients_of(campaign.options, ask_sdk(search), f"http://127.0.0.1:{to_gateway.port}")
        links = {"Milvus": to_milvus, "Triton": to_triton, "the gateway": to_gateway}
        with Load(campaign, clients, deadlines_ms=DEADLINES_MS) as load:
            load.wait_for_recovery(30.0)
            campaign.restart_clock()
            make_faults(campaign, load, [_fault(where, proxy, kind) for where, proxy in links.items() for kind in KINDS])
    return verdict(campaign, bundle, campaign.rules())


def _fault(where: str, proxy: Proxy, kind: str) -> Fault:
    return Fault(f"network to {where}: {kind}", lambda: proxy.set(KINDS[kind]), lambda: proxy.set(CALM))
