"""The images of `sources.py`, and the sources that hold them: a folder, a prefix, shards and tables."""

from __future__ import annotations

import hashlib
import io
import shutil
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

BUCKET = "benchmark"
PER_FOLDER = 1000
SMALLEST = 0.6
"""Smallest side of a crop, as a share of the image's side."""


@dataclass(frozen=True, slots=True)
class Held:
    """A source."""

    address: str
    """What an ingest takes."""
    uri: Callable[[str], str]
    """The uri of the item with this name."""


def jpegs(folder: Path) -> list[Path]:
    """The JPEG files below a folder."""
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))
    if not found:
        raise FileNotFoundError(f"{folder} has no .jpg files")
    return found


def make_images(originals: Sequence[Path], folder: Path, n: int) -> None:
    """Write n different JPEGs, 1,000 in each folder: the originals as they are, and then crops of them.

    Crops are used, not copies, because two items with the same embedding have no order among hits.
    """
    for i in range(n):
        path = folder / name_of(i)
        path.parent.mkdir(parents=True, exist_ok=True)
        original = originals[i % len(originals)]
        if i < len(originals):
            shutil.copyfile(original, path)
            continue
        random = np.random.default_rng(i)
        with Image.open(original) as image:
            share = random.uniform(SMALLEST, 1.0, 2)
            width, height = (max(1, round(side * part)) for side, part in zip(image.size, share, strict=True))
            left, top = (int(random.integers(0, side - cut + 1)) for side, cut in zip(image.size, (width, height), strict=True))
            image.convert("RGB").crop((left, top, left + width, top + height)).save(path, quality=90)


def make_tiny_images(folder: Path, n: int, distinct: int = 200) -> None:
    """Write JPEGs of 32 x 32 pixels, which cost an ingest as little as possible. Some contents are under many names."""
    random = np.random.default_rng(0)
    contents = []
    for _ in range(distinct):
        buffer = io.BytesIO()
        Image.fromarray(random.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(buffer, "JPEG")
        contents.append(buffer.getvalue())
    for i in range(n):
        path = folder / name_of(i)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(contents[i % distinct])


def name_of(i: int) -> str:
    """The path of an image in its folder. Its last part is the name by which sources are compared."""
    return f"{i // PER_FOLDER:03}/{i:06}.jpg"


def short(uri: str) -> str:
    """The name of an image, without what differs between sources: `000123`."""
    return uri.rpartition("#")[2].rpartition("/")[2].removesuffix(".jpg")


def contents(folder: Path) -> dict[str, str]:
    """The digest of each image by its path in the folder, as the collection keeps it."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()[:32]
        for path in sorted(folder.rglob("*.jpg"))
    }


def hold_folder(folder: Path) -> Held:
    return Held(str(folder), lambda name: (folder / name).as_posix())


def hold_prefix(folder: Path) -> Held:
    """An S3 prefix with an object for each image."""
    system = _bucket()
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.jpg"))
    for start in range(0, len(names), PER_FOLDER):
        system.pipe({f"{BUCKET}/images/{name}": (folder / name).read_bytes() for name in names[start : start + PER_FOLDER]})
    return Held(f"s3://{BUCKET}/images", lambda name: f"s3://{BUCKET}/images/{name}")


def hold_shards(folder: Path) -> Held:
    """Tar shards in S3, with a text beside each image."""
    system, shard_of = _bucket(), dict[str, str]()
    for number, names in enumerate(_parts(folder)):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as tar:
            for name in names:
                for suffix, content in ((".jpg", (folder / name).read_bytes()), (".txt", f"image {short(name)}".encode())):
                    member = tarfile.TarInfo(short(name) + suffix)
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
                shard_of[name] = f"s3://{BUCKET}/shards/{number:04}.tar"
        system.pipe_file(f"{BUCKET}/shards/{number:04}.tar", buffer.getvalue())
    return Held(f"s3://{BUCKET}/shards/*.tar", lambda name: f"{shard_of[name]}#{short(name)}")


def hold_tables(folder: Path) -> Held:
    """Parquet files in S3 with the bytes of the images."""
    import pyarrow as pa
    from pyarrow import parquet

    system = _bucket()
    for number, names in enumerate(_parts(folder)):
        images = pa.array([(folder / name).read_bytes() for name in names], pa.binary())
        table = pa.table({"uri": [f"https://example.org/{name}" for name in names], "image": images, "number": range(len(names))})
        buffer = io.BytesIO()
        parquet.write_table(table, buffer, row_group_size=200)
        system.pipe_file(f"{BUCKET}/tables/{number:04}.parquet", buffer.getvalue())
    return Held(f"s3://{BUCKET}/tables/*.parquet", lambda name: f"https://example.org/{name}")


SOURCES: Mapping[str, Callable[[Path], Held]] = {
    "folder": hold_folder,
    "S3 prefix": hold_prefix,
    "tar shards in S3": hold_shards,
    "Parquet in S3": hold_tables,
}


def _parts(folder: Path) -> Iterator[list[str]]:
    """The names of the images, in at least four parts of at most 1,000."""
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.jpg"))
    length = min(PER_FOLDER, -(-len(names) // 4))
    yield from (names[start : start + length] for start in range(0, len(names), length))


def _bucket() -> Any:
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()  # the last server had another address
    system = s3fs.S3FileSystem()
    system.mkdir(BUCKET)
    return system
