"""The recall of the ANN search among photographs: the share of the exact nearest images of a text that Milvus Lite finds.

    python benchmarks/ann_recall.py photos/                 each photograph, and three crops of it
    python benchmarks/ann_recall.py photos/ --crops 0       the photographs alone

Everything is the product's own: decoding, encoder, collection, index and search parameters. The crops are rows of their own,
because few people have 50,000 photographs at hand. Each covers 45 to 80 % of both edges. `benchmarks/growth.py` has more items, but
they are synthetic, and harder to find than these. Two cores encode 100 images/s.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from zlib import crc32

import click
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.growth import EXAMPLES
from milvus_coop import Store
from milvus_coop.config import Settings
from milvus_coop.cores import available_cores
from milvus_coop.ingest.items import hash_of
from milvus_coop.models.encoder import Encoder
from milvus_coop.models.open import open_models
from milvus_coop.models.tokens import pack
from milvus_coop.types import Array, Row, StoredTokens

KS = (10, 50, 200)
AT_ONCE = 64
"""Number of photographs that are encoded at the same time."""


def pixels_of(encoder: Encoder, path: Path, crops: int) -> Array:
    """The pixels of a photograph and of its crops."""
    image = encoder.decode(path)
    rng = np.random.default_rng(crc32(path.name.encode()))
    images = [image]
    for _ in range(crops):
        width, height = (int(edge * share) for edge, share in zip(image.size, rng.uniform(0.45, 0.8, 2), strict=True))
        left, top = int(rng.integers(image.width - width + 1)), int(rng.integers(image.height - height + 1))
        images.append(image.crop((left, top, left + width, top + height)))
    return encoder.pixels(images)["pixel_values"]


def rows(encoder: Encoder, paths: Sequence[Path], crops: int) -> Iterator[list[Row]]:
    with ThreadPoolExecutor(available_cores()) as pool:
        for start in range(0, len(paths), AT_ONCE):
            some = paths[start : start + AT_ONCE]
            encoded = encoder.encode_pixels(
                {"pixel_values": np.concatenate(list(pool.map(lambda path: pixels_of(encoder, path, crops), some)))}
            )
            uris = [f"{path}#{number}" for path in some for number in range(1 + crops)]
            contents = map(StoredTokens, pack(encoded.tokens, encoded.scales))
            yield [
                Row(hash_of(uri.encode()), uri, uri, 1, 0, *pair)
                for uri, pair in zip(uris, zip(encoded.embeddings, contents, strict=True), strict=True)
            ]


@click.command()
@click.argument("photos", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--crops", default=3, show_default=True, help="Number of crops of each photograph.")
@click.option(
    "--captions", type=click.Path(path_type=Path, exists=True), default=EXAMPLES / "captions.txt", help="Queries, one per line."
)
def main(photos: Path, crops: int, captions: Path) -> None:
    """Measure the recall among PHOTOS; see the top of this file."""
    encoder = open_models(Settings()).encoder
    paths = sorted(photos.rglob("*.jpg"))
    texts = [line.strip() for line in captions.read_text(encoding="utf-8").splitlines() if line.strip()]
    queries = encoder.encode_texts(texts).embeddings
    ids: list[str] = []
    parts: list[Array] = []
    with tempfile.TemporaryDirectory(prefix="milvus-coop-ann-") as folder, Store(Path(folder, "lite.db")) as store:
        collection = store.open_or_create("photos", encoder.spec)
        for some in rows(encoder, paths, crops):
            collection.upsert(some)
            ids += [row.id for row in some]
            parts.append(np.stack([row.embedding for row in some]))
            print(f"{len(ids):,} of {len(paths) * (1 + crops):,}", end="\r", file=sys.stderr, flush=True)
        collection.flush()
        exact = np.argsort(-(queries @ np.concatenate(parts).T), axis=1)
        for k in KS:
            found = collection.search(queries, k, with_tokens=False)
            hits = [len({hit.id for hit in hits} & {ids[i] for i in best[:k]}) for hits, best in zip(found, exact, strict=True)]
            print(f"{len(ids):,} items, {len(texts)} texts, recall @{k}: {np.mean(hits) / k:.3f}")


if __name__ == "__main__":
    main()
