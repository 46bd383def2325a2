"""`milvus-coop serve`: search over HTTP, a page that shows results, and reranking for Milvus itself."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from milvus_coop.cli.lines import say
from milvus_coop.cli.options import Command, with_settings
from milvus_coop.config import Settings
from milvus_coop.errors import InvalidArgumentError, reason_of
from milvus_coop.serving.gateway.options import PREFIX

if TYPE_CHECKING:
    from milvus_coop.elsewhere.objects import RemoteFile


def _option(*names: str, **kwargs: Any) -> Callable[[Command], Command]:
    kwargs["help"] = f"{kwargs['help']} [{PREFIX}{names[1].upper()}]"
    return click.option(*names, **kwargs)


@click.command()
@_option("--host", "host", help="Address to listen on. The default is 127.0.0.1, for this machine only.")
@_option("--port", "port", type=click.IntRange(0, 65535), help="Port, default 8080; 0: any free one.")
@_option("--root-path", "root_path", help="Prefix of all paths, such as /images, where a proxy passes one on.")
@_option("--api-key", "api_keys", multiple=True, help="Key that a client must send. Prefer the variable: arguments are visible.")
@_option(
    "--key-filters", "key_filters", help="Filters of the keys: JSON, or a JSON file, that maps the SHA-256 of each key to one."
)
@_option(
    "--rate-limit", "rate_limit", type=click.FloatRange(0), help="Maximum requests per second with one key; default any number."
)
@_option("--rate-burst", "rate_burst", type=click.IntRange(0), help="Requests with one key at once; default twice the rate.")
@click.option("--anonymous", is_flag=True, help=f"Answer clients without a key, even from other machines. [{PREFIX}ANONYMOUS]")
@_option(
    "--root",
    "roots",
    multiple=True,
    help="Folder whose images may be shown, or s3://bucket/prefix, gs://, az://. The default on loopback is the current folder.",
)
@_option(
    "--uploads", "uploads", type=click.Path(path_type=Path), help="Folder for uploaded images. By default no uploads are accepted."
)
@_option("--allowed-host", "allowed_hosts", multiple=True, help="Name by which clients may address the service.")
@_option("--cors-origin", "cors_origins", multiple=True, help="Web site whose pages may call the service. By default none.")
@_option(
    "--concurrency",
    "concurrency",
    type=click.IntRange(0),
    help="Maximum number of requests that run at a time; 0: chosen by the models' backend.",
)
@_option(
    "--waiting", "waiting", type=click.IntRange(0), help="Maximum number of waiting requests; more get status 429. Default 64."
)
@_option("--max-body-mb", "max_body_mb", type=click.IntRange(1), help="Maximum size of a request's body in MiB; default 64.")
@click.option("--models-only", is_flag=True, help=f"Open no database: only rerank and embeddings. [{PREFIX}MODELS_ONLY]")
@click.option("--trace", is_flag=True, help="Send OpenTelemetry traces to the address in the OTEL_ variables.")
@click.option(
    "--log", "log", type=click.Choice(["json", "text"]), help="Format of the log. The default is text on a terminal, else json."
)
@with_settings(collection=True, models=True, reranker=True)
def serve(
    settings: Settings, trace: bool, log: str | None, anonymous: bool, models_only: bool, uploads: Path | None, **given: Any
) -> None:
    """Serve search over HTTP, with a page that shows results.

    \b
    Examples:
      milvus-coop serve                           http://127.0.0.1:8080 for this machine
      milvus-coop serve --models-only             for a Milvus that asks it to rerank
      milvus-coop serve --root /data/photos --uploads /data/uploads
      milvus-coop serve --root s3://bucket/photos
      MILVUS_COOP_SERVE_API_KEYS=... milvus-coop serve --host 0.0.0.0
    """
    try:
        from milvus_coop.serving.gateway import logs
        from milvus_coop.serving.gateway.options import GatewayOptions
        from milvus_coop.serving.gateway.serve import serve as run
        from milvus_coop.serving.gateway.service import Service
    except ModuleNotFoundError as exc:
        if exc.name is None or exc.name.startswith("milvus_coop"):
            raise
        raise InvalidArgumentError(f"{exc.name} is not installed", run="pip install 'milvus-coop[serve]'") from exc
    from milvus_coop.serving.gateway.tracing import open_tracing

    options = GatewayOptions.from_env().override(
        **given, uploads=None if uploads is None else str(uploads), anonymous=anonymous or None, models_only=models_only or None
    )
    options.check()
    json_lines = log == "json" if log else not sys.stderr.isatty()
    logs.set_up(json_lines=json_lines)

    def tell(text: str, hint: str = "", address: str | None = None) -> None:
        if json_lines:  # a reader of the log takes no other lines
            logs.log(text, address=address)
        else:
            say(text + hint, err=True)

    for prefix in options.prefixes():
        if problem := _problem_of(prefix):
            tell(f"The root {prefix.name} cannot be read now, so its images are not shown: {problem}")
    tracing = open_tracing() if trace else None
    service = Service(settings, options, tracing=tracing)
    if service.is_local and not options.models_only:
        service.store()  # report a mistyped path, or a folder that another process uses, now and not to the first client
    run(service, on_ready=lambda address: tell(f"milvus-coop serves {address}", "  (stop with Ctrl-C)", address=address))


def _problem_of(prefix: RemoteFile) -> str:
    """The reason why a root cannot be read; '' if it can. It may be there later, so the service starts."""
    try:
        return "" if prefix.is_there() else "there is nothing there"
    except OSError as exc:
        return reason_of(exc)
