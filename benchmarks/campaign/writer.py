"""A process that writes into a Milvus Lite database until it is told to stop, and records each write in a history of its own.

`python -m benchmarks.campaign.writer FOLDER ITEMS SEED` writes into FOLDER/lite.db with the bundle FOLDER/bundle. It prints a line
when all items are there, goes on with changes, and ends when its standard input ends.
"""

from __future__ import annotations

import random
import sys
import threading
from collections.abc import Iterable
from pathlib import Path

from benchmarks.campaign.history import History
from benchmarks.campaign.images import Images
from milvus_coop import CoopIngest
from milvus_coop.ingest.items import Item

WRITE = 20
"""Number of items of one write."""
COLLECTION = "images"


def main(folder: Path, n_items: int, seed: int) -> None:
    """Write until the standard input ends."""
    images, history, rng = Images(folder / "images"), History(folder / "writer.jsonl"), random.Random(seed)
    stop = threading.Event()
    threading.Thread(target=_wait_for_the_end, args=(stop,), daemon=True).start()
    with CoopIngest(COLLECTION, uri=folder / "lite.db", bundle=folder / "bundle", models="onnx", threads=1) as ingest:

        def write(numbers: Iterable[int], version: int) -> None:
            names = {f"{i:05}": version + i for i in numbers}
            images.draw(names)
            items = [Item(images.path(name).as_posix(), images.path(name)) for name in names]
            arguments = {"must": True, "items": {images.id(name): version for name, version in names.items()}}
            history.call("writer", "write", arguments, lambda: {"added": ingest.ingest_items(items).added})

        write(range(n_items), 0)
        print("ready", flush=True)
        version = 0
        while not stop.is_set():
            version += 1_000_000
            write(rng.sample(range(2 * n_items), WRITE), version)
    history.close()


def _wait_for_the_end(stop: threading.Event) -> None:
    sys.stdin.read()
    stop.set()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
