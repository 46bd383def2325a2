"""`milvus-coop score`: scores of how well texts and images match, without a database."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from milvus_coop.cli.inputs import Inputs, NamedImage, exit_code, open_inputs, takes_texts_and_images
from milvus_coop.cli.lines import json_line
from milvus_coop.cli.options import with_settings
from milvus_coop.config import Settings
from milvus_coop.errors import ImageError, InvalidArgumentError

if TYPE_CHECKING:
    from milvus_coop.models.scoring import Comparison, CoopModel


@click.command()
@takes_texts_and_images
@click.option("--json", "as_json", is_flag=True, help="One JSON object per pair and line, for pipes.")
@with_settings(store=False, models=True)
def score(
    settings: Settings,
    images: tuple[str, ...],
    texts: tuple[str, ...],
    lists: tuple[str, ...],
    allow_http: bool,
    as_json: bool,
) -> None:
    """Show how well each text matches each image, without a database.

    IMAGES are files, folders, prefixes of object stores, globs, shards or lists, as for ingest. A table shows
    the match probability of every pair, from the cross-encoder, and in brackets the cosine, from the bi-encoder. The best
    text of each image is in bold.

    \b
    Exit code: 0 all fine, 1 some images could not be read, 2 nothing could be done.

    \b
    Examples:
      milvus-coop score --text "a dog" --text "a cat" a.jpg b.jpg
      milvus-coop score --texts captions.txt photos/ --json
      milvus-coop score --text "a dog" s3://bucket/photos/a.jpg
    """
    from milvus_coop.cli.tables import print_failures, print_scores
    from milvus_coop.models.scoring import CoopModel

    if not (texts or lists) or not images:
        raise InvalidArgumentError(
            f"there are no {'images' if texts or lists else 'texts'}",
            expected="texts and images",
            run='milvus-coop score --text "a dog" --text "a cat" a.jpg b.jpg',
        )
    inputs = open_inputs(texts, lists, images, allow_http=allow_http)
    scored: list[NamedImage] = []
    if inputs.texts:
        with CoopModel(settings=settings) as model:
            scored, comparison = _compare(model, inputs)
    if scored and as_json:
        for line in _lines(inputs, scored, comparison):
            click.echo(line)
    elif scored:
        print_scores([named.text for named in inputs.texts], [image.uri for image in scored], comparison)
    print_failures(inputs.failures, inputs.passed_over, to_stderr=as_json or not scored)
    raise click.exceptions.Exit(exit_code(len(scored), len(inputs.failures)))


def _compare(model: CoopModel, inputs: Inputs) -> tuple[list[NamedImage], Comparison]:
    """The images that can be read, and their scores."""
    from milvus_coop.models.scoring import Comparison

    seen: list[NamedImage] = []
    broken: set[int] = set()

    def files() -> Iterator[Path | bytes]:
        for image in inputs.images:
            seen.append(image.emptied())
            yield image.file

    def on_error(position: int, error: ImageError) -> None:
        broken.add(position)
        inputs.failed(seen[position], error)

    found = model.compare([named.text for named in inputs.texts], files(), on_error=on_error)
    kept = [position for position in range(len(seen)) if position not in broken]
    return [seen[position] for position in kept], Comparison(found.similarity[:, kept], found.score[:, kept])


def _lines(inputs: Inputs, images: Sequence[NamedImage], comparison: Comparison) -> Iterator[str]:
    """One JSON object per pair, with the same keys as in hits."""
    for column, image in enumerate(images):
        for row, named in enumerate(inputs.texts):
            scores = {"ce_score": float(comparison.score[row, column]), "be_score": float(comparison.similarity[row, column])}
            yield json_line({"uri": image.uri, "text": named.text, **scores})
