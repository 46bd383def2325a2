"""`helm test` runs this in the gateway's container: it ingests two images, searches them, and drops the collection."""

from __future__ import annotations

import json
import sys
import time
import urllib.error
import urllib.request
from dataclasses import replace
from typing import Any

from milvus_coop import CoopIngest
from milvus_coop.cli.demo import sample_images
from milvus_coop.config import Settings
from milvus_coop.serving.gateway.options import GatewayOptions
from milvus_coop.store import Store

COLLECTION = "milvus_coop_test"
IMAGES = ("cat.jpg", "bicycle.png")
TEXT, EXPECTED = "a cat", "cat.jpg"
PATIENCE_S = 60.0


def main(gateway: str) -> None:
    """Run the test. It exits with 0 if the query finds the right image."""
    settings = replace(Settings.from_env(), collection=COLLECTION)
    with Store.from_settings(settings) as store:
        if COLLECTION in {info.name for info in store.list()}:
            store.drop(COLLECTION)  # left by a test that was stopped
        try:
            with CoopIngest(settings=settings) as ingest:
                report = ingest.run([sample_images() / name for name in IMAGES])
            say(f"ingested {report.added} images through {settings.uri}, models {settings.models}")
            answer = ask(gateway)
        finally:
            if COLLECTION in {info.name for info in store.list()}:
                store.drop(COLLECTION)
    uris = [hit["uri"].rpartition("/")[2] for hit in answer["hits"]]
    say(f"{TEXT!r} through {gateway}: {uris}, reranked: {answer['reranked']}")
    if len(uris) != len(IMAGES) or uris[0] != EXPECTED:
        sys.exit(f"expected {EXPECTED} first, of {len(IMAGES)} images")
    if not answer["reranked"]:
        sys.exit(f"the cross-encoder did not rerank: {answer['reason']}")
    say("passed")


def ask(gateway: str) -> dict[str, Any]:
    """The gateway's answer. Queries are repeated until the gateway is ready and finds the images."""
    keys = GatewayOptions.from_env().api_keys
    headers = {"content-type": "application/json", **({"authorization": f"Bearer {keys[0]}"} if keys else {})}
    body = json.dumps({"text": TEXT, "collection": COLLECTION, "limit": len(IMAGES)}).encode()
    until_s = time.monotonic() + PATIENCE_S
    while True:
        try:
            with urllib.request.urlopen(
                urllib.request.Request(f"{gateway}/v1/search", body, headers), timeout=PATIENCE_S
            ) as answer:
                found = json.load(answer)
        except urllib.error.HTTPError as exc:
            said = f"{exc.code} {exc.read().decode(errors='replace')}"
        except urllib.error.URLError as exc:
            said = str(exc.reason)
        else:
            if (len(found["hits"]) == len(IMAGES) and found["reranked"]) or time.monotonic() > until_s:
                return found
            said = f"{len(found['hits'])} hits, reranked: {found['reranked']}"
        if time.monotonic() > until_s:
            sys.exit(f"the gateway at {gateway} answers {said}")
        time.sleep(1)


def say(line: str) -> None:
    """Write a line to the pod's log."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1])
