"""Ingest, upload, prune and search at once, while processes are killed and run out of disk, file descriptors and memory.

The images of a folder change all the time. One client ingests the folder with `--prune`, one uploads through the gateway, others
search; all write into one collection on a Milvus server. Each fault hits one process. Afterwards everything runs once more, and the
rows must be exactly what was acknowledged.
"""

from __future__ import annotations

import hashlib
import os
import random
import resource
import signal
import subprocess
import threading
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import psutil

from benchmarks.campaign.faults import Fault, clock_faults, make_faults
from benchmarks.campaign.history import Record
from benchmarks.campaign.images import Images, Settled
from benchmarks.campaign.judge import Verdict, World, judge
from benchmarks.campaign.load import CLIENT_TIMEOUT_S, Load, StatusError, ask_sdk, clients_of
from benchmarks.campaign.parts import Gateway, Limits, Sampler, run, state, wait_until
from benchmarks.campaign.scenario import Run
from benchmarks.campaign.scenarios.search import TIMEOUT_S, fill
from benchmarks.campaign.timeline import Timeline
from benchmarks.campaign.truth import Truth, versions_of
from milvus_coop import CoopSearch
from milvus_coop.ingest.items import Item
from tests.servers.milvus import MilvusServer
from tests.toy_bundle import draw, make_bundle

UPLOADED = 3
"""Number of files of one upload."""
CHANGED = 20
"""Number of images that change before each ingest."""
PAUSE_S = 0.3
VISIBLE_S = 3.0
"""How long a search may miss a write of another process."""
DISK_KB, DISK_KB_PER_S = 1024, 64
"""Size of the file system of the uploads, which are kept, and what each second of the run adds to it."""
SMALL_FILES: Limits = {resource.RLIMIT_FSIZE: 20_000}
"""A limit below the size of the files of Milvus Lite."""
KILLED_AT = (0.3, 1.0)
"""When a run is killed, as a share of the time of a whole one."""
RUN_S = 60.0
"""Time within which the next ingest has ended."""
LITE_ITEMS = 2000
"""Maximum number of items for which the part with Milvus Lite is run."""
LITTLE_MEMORY: Limits = {resource.RLIMIT_AS: 600 * 2**20}


class Ingester(threading.Thread):
    """Changes the folder and ingests it, again and again. Every run that nothing disturbs must succeed."""

    def __init__(self, campaign: Run, images: Images, settled: Settled, command: list[object]) -> None:
        super().__init__(name="campaign-ingester")
        self._campaign, self._images, self._command = campaign, images, command
        self._rng = random.Random(campaign.options.seed + 1)
        self.stop = threading.Event()
        self.limits: Limits | None = None
        """Limits of the next run; with limits, a run may fail."""
        self.kill_after_s: float | None = None
        self.runs = 0
        self._settled = settled
        self.whole_s = 0.0
        """Time of the last run that nothing disturbed."""
        self.disturbed = 0
        """Number of runs that ended after they were killed or limited."""

    def run(self) -> None:
        while not self.stop.wait(PAUSE_S):
            self.runs += 1
            version = 1_000_000 * self.runs
            names = sorted(self._images.versions)
            gone = self._rng.sample(names, CHANGED // 4)
            self._images.remove(gone)
            changed = self._rng.sample(sorted(self._images.versions), CHANGED)
            new = {f"{version}-{i}": version + CHANGED + i for i in range(len(gone))}
            self._images.draw({name: version + i for i, name in enumerate(changed)} | new)
            self.ingest(limits=self.limits, kill_after_s=self.kill_after_s)

    def ingest(self, *, limits: Limits | None = None, kill_after_s: float | None = None) -> None:
        """One run of `milvus-coop ingest`."""
        disturbed = limits is not None or kill_after_s is not None
        arguments = {"must": not disturbed, **self._settled.changes(self._images.arguments(prune=True))}
        call = self._campaign.history.call(
            "ingest", "write", arguments, lambda: run(self._command, kill_after_s=kill_after_s, limits=limits)
        )
        self._settled.add(call)
        self.disturbed += disturbed
        if not disturbed:
            self.whole_s = call.end - call.start


class Uploader(threading.Thread):
    """Uploads new images through the gateway, again and again. The gateway may be away."""

    def __init__(self, campaign: Run, url: str, uploads: Path) -> None:
        super().__init__(name="campaign-uploader")
        self._campaign, self._url, self._uploads = campaign, url, uploads
        self.stop = threading.Event()
        self._drawn = campaign.folder / "drawn.png"
        self._version = 500_000_000

    def run(self) -> None:
        with httpx.Client(base_url=self._url, timeout=CLIENT_TIMEOUT_S) as client:
            while not self.stop.wait(PAUSE_S):
                self._upload(client)

    def _upload(self, client: httpx.Client) -> None:
        contents = {}
        for _ in range(UPLOADED):
            self._version += 1
            contents[self._version] = draw(self._drawn, self._version).read_bytes()
        items = {self._id(content): version for version, content in contents.items()}

        def send() -> dict[str, Any]:
            files = [("files", (f"{version}.png", content)) for version, content in contents.items()]
            answer = client.post("/v1/items", files=files)
            if answer.status_code != 200:
                raise type(str(answer.status_code), (StatusError,), {})(answer.text[:300])
            stored = {item["id"] for item in answer.json()["items"]}
            return {"refused": [id for id in items if id not in stored]}

        self._campaign.history.call("upload", "write", {"items": items}, send)

    def _id(self, content: bytes) -> str:
        """The id of an upload: the gateway names the file by the hash of its content."""
        return Item((self._uploads / "images" / f"{hashlib.sha256(content).hexdigest()[:32]}.png").as_posix()).id


def scenario(campaign: Run) -> Verdict:
    """See the module."""
    bundle = str(make_bundle(campaign.folder / "bundle").folder)
    uploads = campaign.folder / "uploads"
    uploads.mkdir()
    with ExitStack() as stack:
        full = _small_disk(stack, uploads, int(DISK_KB + DISK_KB_PER_S * campaign.options.seconds))
        milvus = stack.enter_context(MilvusServer())
        images = Images(campaign.folder / "images")
        images.draw({f"{i:05}": i for i in range(campaign.options.items)})
        settled = Settled(fill(campaign, milvus.uri, bundle, images=images))
        where = ["--uri", milvus.uri, "--bundle", bundle, "--models", "onnx", "--timeout", TIMEOUT_S]
        gateway = stack.enter_context(Gateway((*where, "--uploads", uploads), campaign.folder / "gateway.log", own_clock=True))
        search = stack.enter_context(CoopSearch("images", uri=milvus.uri, bundle=bundle, models="onnx", threads=1))
        command = ["ingest", images.folder, "--uri", milvus.uri, "--bundle", bundle, "--models", "onnx", "--prune", "--json"]
        ingester = Ingester(campaign, images, settled, command)
        uploader = Uploader(campaign, gateway.url, uploads.resolve())
        clients = clients_of(campaign.options, ask_sdk(search), gateway.url)
        with Load(campaign, clients) as load:
            load.wait_for_recovery(30.0)
            ingester.start()
            uploader.start()
            campaign.restart_clock()
            try:
                with Sampler(campaign.history, gateway):
                    make_faults(campaign, load, [*_faults(gateway, ingester, campaign.rng), *full, *clock_faults(gateway.clock)])
            finally:
                uploader.stop.set()
                ingester.stop.set()
                uploader.join()
                ingester.join()
        ingester.ingest()
        campaign.history.call("ingest", "state", {}, lambda: state(milvus.uri, "images"))
        if campaign.options.items <= LITE_ITEMS:
            _lite(campaign, images, bundle)
    campaign.figures["ingests"] = ingester.runs
    return _judged(campaign, bundle)


def _faults(gateway: Gateway, ingester: Ingester, rng: random.Random) -> list[Fault]:
    def limit_files() -> None:
        used = psutil.Process(gateway.pid).num_fds()
        resource.prlimit(gateway.pid, resource.RLIMIT_NOFILE, (used + 1, 4096))

    def disturb(limits: Limits | None = None, kill_after_s: float | None = None) -> None:
        before = ingester.disturbed
        ingester.limits, ingester.kill_after_s = limits, kill_after_s
        wait_until(lambda: ingester.disturbed > before, RUN_S)

    def undisturb() -> None:
        ingester.limits = ingester.kill_after_s = None

    return [
        Fault("gateway killed", gateway.kill, gateway.start),
        Fault("gateway stopped", lambda: os.kill(gateway.pid, signal.SIGSTOP), lambda: os.kill(gateway.pid, signal.SIGCONT)),
        Fault(
            "gateway without file descriptors",
            limit_files,
            lambda: resource.prlimit(gateway.pid, resource.RLIMIT_NOFILE, (4096, 4096)),
        ),
        Fault("ingest killed", lambda: disturb(kill_after_s=rng.uniform(*KILLED_AT) * (ingester.whole_s or 3.0)), undisturb),
        Fault("ingest with little memory", lambda: disturb(LITTLE_MEMORY), undisturb),
    ]


def _small_disk(stack: ExitStack, folder: Path, size_kb: int) -> list[Fault]:
    """A fault that fills the disk of the uploads; none where no file system may be mounted."""
    options = ["-t", "tmpfs", "-o", f"size={size_kb}k"]
    mounted = subprocess.run(["mount", *options, "tmpfs", str(folder)], check=False, capture_output=True)
    if mounted.returncode != 0:
        return []
    stack.callback(lambda: subprocess.run(["umount", "-l", str(folder)], check=False))
    ballast = folder / "ballast"

    def fill_up() -> None:
        with suppress(OSError), ballast.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))

    return [Fault("disk of the uploads full", fill_up, ballast.unlink)]


def _lite(campaign: Run, images: Images, bundle: str) -> None:
    """Milvus Lite whose files may not grow, and then may: the run fails, and the next one repairs what it left."""
    database = campaign.folder / "limited.db"
    command = ["ingest", images.folder, "--uri", database, "--bundle", bundle, "--models", "onnx", "--json"]
    for limits in (None, SMALL_FILES, None):
        if limits:
            images.draw({name: 900_000_000 + i for i, name in enumerate(sorted(images.versions))})
        call = campaign.history.call(
            "lite",
            "write",
            {"must": limits is None, **images.arguments()},
            lambda limits=limits: run(command, limits=limits),  # type: ignore[misc]
        )
        if limits:
            campaign.figures["ingest into Milvus Lite with small files"] = call.error["message"] if call.error else "succeeded"
        campaign.history.call("lite", "state", {}, lambda: state(str(database), "images"))


def _judged(campaign: Run, bundle: str) -> Verdict:
    record = campaign.record()
    truth = Truth(bundle, versions_of(record.calls))
    lite = [call for call in record.calls if call.client == "lite"]
    rest = replace(record, calls=[call for call in record.calls if call.client != "lite"])
    rules = campaign.drift_rules(visible_s=VISIBLE_S)
    verdict = judge(rest, [World(truth, Timeline(rest.calls))], rules)
    verdict.violations += judge(Record(lite), [World(truth, Timeline(lite))], rules).violations
    truth.close()
    return verdict
