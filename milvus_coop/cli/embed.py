"""`milvus-coop embed`: vectors of texts and images in a file, without a database."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from milvus_coop.cli.inputs import Inputs, NamedImage, exit_code, open_inputs, takes_texts_and_images
from milvus_coop.cli.lines import say
from milvus_coop.cli.options import with_settings
from milvus_coop.config import Settings
from milvus_coop.errors import ImageError, InvalidArgumentError

if TYPE_CHECKING:
    from milvus_coop.ingest import Progress
    from milvus_coop.models.scoring import CoopModel
    from milvus_coop.types import Array

CHUNK = 256
"""Texts or images between two steps of the progress bar."""
CHUNK_BYTES = 64 * 2**20
"""Maximum memory of a chunk of images from elsewhere, unless a single one takes more."""


@click.command()
@takes_texts_and_images
@click.option(
    "--out",
    required=True,
    type=click.Path(path_type=Path),
    help="The file to write, .npy or .jsonl. An existing file is overwritten.",
)
@click.option("--quiet", is_flag=True, help="No progress bar.")
@with_settings(store=False, models=True)
def embed(
    settings: Settings,
    images: tuple[str, ...],
    texts: tuple[str, ...],
    lists: tuple[str, ...],
    allow_http: bool,
    out: Path,
    quiet: bool,
) -> None:
    """Write the embeddings of texts and images into a file, without a database.

    IMAGES are files, folders, prefixes of object stores, globs, shards or lists, as for ingest. Vectors have
    unit length, so the dot product of two is their cosine. The texts of the command line come first, then those of files,
    then the images.

    A .jsonl file has one JSON object per line: `uri`, `text` or both, and `vector`. A .npy file is a float32 array of shape
    (n, dim); line i of the file with .jsonl added to its name says what row i is. A line or an image that cannot be read has
    no row. It is named at the end, and the others are written.

    \b
    Exit code: 0 all fine, 1 some could not be read, 2 nothing could be done, 130 interrupted.

    \b
    Examples:
      milvus-coop embed photos/ --out vectors.npy
      milvus-coop embed --text "a dog" --text "a cat" a.jpg b.jpg --out vectors.jsonl
      milvus-coop embed --texts captions.txt --out captions.npy
      milvus-coop embed s3://bucket/photos/ --out vectors.npy
    """
    from milvus_coop.cli.progress import ingest_progress
    from milvus_coop.cli.tables import print_failures
    from milvus_coop.cli.vectors import VectorFile, check_output
    from milvus_coop.models.scoring import CoopModel

    if not (texts or lists or images):
        raise InvalidArgumentError("there are neither texts nor images", expected="--text, --texts or images")
    check_output(out)
    inputs = open_inputs(texts, lists, images, allow_http=allow_http)
    with (
        CoopModel(settings=settings) as model,
        VectorFile(out, model.spec.dim) as file,
        ingest_progress(quiet, "embed") as on_progress,
    ):
        start = time.monotonic()
        for names, vectors in _embedded(model, inputs):
            file.add(names, vectors)
            if on_progress is not None:
                on_progress(_progress(file.n, len(inputs.failures), time.monotonic() - start))
    if file.n:
        say(f"{out}: {file.n:,} vectors of {model.spec.dim} numbers, by {model.spec.label}")
    print_failures(inputs.failures, inputs.passed_over)
    raise click.exceptions.Exit(exit_code(file.n, len(inputs.failures)))


def _embedded(model: CoopModel, inputs: Inputs) -> Iterator[tuple[list[dict[str, str]], Array]]:
    """The vectors and the names of their items, in chunks. An image that cannot be used is left out and added to the failures."""
    for start in range(0, len(inputs.texts), CHUNK):
        texts = inputs.texts[start : start + CHUNK]
        names = [{"uri": t.uri, "text": t.text} if t.uri else {"text": t.text} for t in texts]
        yield names, model.embed_texts([named.text for named in texts])
    for images in _chunks(inputs.images):
        broken: set[int] = set()

        def on_error(position: int, error: ImageError, images: Sequence[NamedImage] = images, broken: set[int] = broken) -> None:
            broken.add(position)
            inputs.failed(images[position], error)

        vectors = model.embed_images([image.file for image in images], on_error=on_error)
        kept = [position for position in range(len(images)) if position not in broken]
        yield [{"uri": images[position].uri} for position in kept], vectors[kept]


def _chunks(images: Iterable[NamedImage]) -> Iterator[list[NamedImage]]:
    chunk: list[NamedImage] = []
    for image in images:
        chunk.append(image)
        if len(chunk) >= CHUNK or sum(held.n_bytes for held in chunk) >= CHUNK_BYTES:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _progress(done: int, failed: int, seconds: float) -> Progress:
    from milvus_coop.ingest import Progress

    both = done + failed
    return Progress(seen=both, done=both, added=done, updated=0, unchanged=0, failed=failed, total=None, seconds=seconds)
