"""`milvus-coop query`: search with a text or an image."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from milvus_coop.cli.lines import say
from milvus_coop.cli.options import with_settings
from milvus_coop.cli.outputs import check_file, write_file
from milvus_coop.config import Settings
from milvus_coop.errors import InvalidArgumentError

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from milvus_coop.elsewhere.objects import RemoteFile
    from milvus_coop.models.backends import Backend
    from milvus_coop.search.options import QueryArguments


def _names(context: click.Context, parameter: click.Parameter, value: str) -> list[str]:
    return [name for part in value.split(",") if (name := part.strip())]


def _not(context: click.Context, parameter: click.Parameter, value: bool) -> bool:
    return not value


@click.command()
@click.argument("text", required=False)
@click.option("--image", help="Search with an image instead of a text: a path, s3://bucket/a.jpg, gs://, az://, ...")
@click.option("--allow-http", is_flag=True, help="Let --image be at an http:// or https:// address, but not a private one.")
@click.option("--limit", type=click.IntRange(min=1), default=10, show_default=True, help="Hits to show.")
@click.option("--offset", type=click.IntRange(min=0), default=0, help="Best hits to leave out, for the next page.")
@click.option("-k", type=click.IntRange(min=1), help="Candidates to rerank. [default 50, or --limit if that is more]")
@click.option("--filter", default="", help="Milvus expression over metadata, such as 'year > 2020'.")
@click.option("--output-fields", default="", callback=_names, help="Metadata to show, separated by commas.")
@click.option("--no-rerank", "rerank", is_flag=True, callback=_not, help="Keep the bi-encoder's order.")
@click.option(
    "--deadline-ms",
    type=click.FloatRange(min=0, min_open=True),
    help="Milliseconds for the whole query. Reranking stops in time; without candidates by then, there is an error.",
)
@click.option(
    "--score",
    type=click.Choice(["ce", "sum"]),
    help="Order by the cross-encoder alone, or by its logit + cosine. [default: as the bundle's authors do]",
)
@click.option(
    "--min-score",
    type=float,
    help="Leave out hits with a lower match probability, 0 to 1; with --no-rerank, with a lower cosine.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object per hit and line, for pipes.")
@click.option(
    "--html",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Also write the hits with their images, in both orders, as one HTML file. An existing file is overwritten.",
)
@click.option(
    "--root",
    "roots",
    multiple=True,
    help="Prefix of an object store whose images --html may read, such as s3://bucket/photos; repeatable.",
)
@with_settings(collection=True, models=True, embedder=True, reranker=True)
def query(
    settings: Settings,
    text: str | None,
    image: str | None,
    allow_http: bool,
    as_json: bool,
    html: Path | None,
    roots: tuple[str, ...],
    **changes: Unpack[QueryArguments],
) -> None:
    """Search a collection with TEXT, or with --image.

    \b
    Examples:
      milvus-coop query "two dogs on a beach"
      milvus-coop query "a red apple" --limit 3 --filter 'year > 2020' --output-fields year
      milvus-coop query "a red apple" --offset 10 --min-score 0.5
      milvus-coop query --image photo.jpg --collection captions
      milvus-coop query --image s3://bucket/photo.jpg
      milvus-coop query "a red apple" --json | jq -r .uri
      milvus-coop query "a red apple" --html apples.html --root s3://bucket/photos
      milvus-coop query "a red apple" --reranker vllm+https://gpu:8000 --reranker-root photos/
      milvus-coop query "a red apple" --embedder 'vllm+https://gpu:8000?model=NAME'
    """
    from milvus_coop.cli.inputs import image_elsewhere
    from milvus_coop.cli.tables import hit_lines, print_result, why_not_reranked

    check_file(html)
    prefixes = _prefixes(roots, html)
    content = None if image is None else image_elsewhere(image, allow_http=allow_http)
    with _opening_models(settings, by_text=image is None) as backend:
        from milvus_coop.search import CoopSearch
        from milvus_coop.search.options import QueryOptions

        options = QueryOptions(**changes)  # type: ignore[arg-type]
        limit = options.limit
        if html is not None:  # a page shows the bi-encoder's order as well
            if options.offset:
                raise InvalidArgumentError("--html is given with --offset", expected="one of them: a page starts with the best hit")
            options = options.change(limit=options.retrieve, k=options.candidates)
        with CoopSearch(settings=settings, models=backend) as search:
            found = search.query(text, image=image if content is None else content, options=options)
            info = None if html is None else search.info()
    result = replace(found, hits=found.hits[:limit])
    if as_json:
        for line in hit_lines(result):
            click.echo(line)
        if not result.reranked and options.rerank:
            say(why_not_reranked(result), err=True)
    else:
        print_result(result, title=text or str(image))
    absent = [name for name in options.output_fields if name != "*" and all(name not in hit.fields for hit in result)]
    if absent and result.hits:
        say(f"No hit has the metadata {', '.join(absent)}.", err=True)
    if html is not None and info is not None:
        from milvus_coop.serving.gallery import render

        asked, page = text or content or Path(image or ""), partial(render, prefixes=prefixes, max_pixels=settings.max_pixels)
        write_file(html, page(found, asked, info, limit=limit, filter=options.filter, name=image or ""))
        say(f"Written: {html}", err=as_json)


@contextmanager
def _opening_models(settings: Settings, *, by_text: bool) -> Iterator[Backend | None]:
    """The models, which begin to load the encoder of the query. It takes as long as the import of pymilvus; both go on together.

    There are none if an embedder is named.
    """
    if settings.embedder:
        yield None
        return
    from milvus_coop.bundle import IMAGE_ENCODER, TEXT_ENCODER, load_bundle
    from milvus_coop.models.backends import open_backend
    from milvus_coop.models.open import loading

    with (
        closing(open_backend(settings, load_bundle(settings.bundle))) as backend,
        loading(backend, (TEXT_ENCODER if by_text else IMAGE_ENCODER,)),
    ):
        yield backend


def _prefixes(roots: Sequence[str], html: Path | None) -> list[RemoteFile]:
    if roots and html is None:
        raise InvalidArgumentError("--root is given without --html", expected="both: it names images that --html may read")
    from milvus_coop.elsewhere.roots import shown_root

    return [shown_root(root) for root in roots]
