"""A worker of an ingest on a cluster, without the cluster."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from milvus_coop import load_bundle
from milvus_coop.config import Settings
from milvus_coop.ingest.cluster.parts import Part, read_parts
from milvus_coop.ingest.cluster.worker import Job, Worker
from milvus_coop.ingest.options import IngestOptions
from milvus_coop.ingest.sources import open_sources
from milvus_coop.store import Store
from tests.servers.milvus import MilvusServer

SAMPLES = Path(__file__).parents[2] / "examples" / "images"


@pytest.mark.server
def test_a_worker_that_starts_while_milvus_is_away_waits_for_it() -> None:
    options = IngestOptions(threads=1)
    part, _ = read_parts(open_sources([str(SAMPLES)], "image", options.reading), 512, {})
    assert isinstance(part, Part)
    with MilvusServer() as server:
        with Store(server.uri, timeout_s=60) as store:
            store.create("images", load_bundle("coop-small").spec)
        server.kill()
        back = threading.Timer(4, server.start)
        back.start()
        worker = Worker(Job(Settings(uri=server.uri, threads=1, timeout_s=5), "image", options), None)
        back.join()
        counts = worker.result(part).counts
    # What an attempt wrote before it failed counts as unchanged in the next one.
    assert (counts.added + counts.unchanged, counts.failures) == (len(list(SAMPLES.glob("*.*g"))), [])
