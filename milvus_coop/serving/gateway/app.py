"""The ASGI application: its routes, its error answers, and the `FrontDoor` around them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from fastapi import FastAPI
from starlette.concurrency import run_in_threadpool
from starlette.middleware.cors import CORSMiddleware

import milvus_coop
from milvus_coop.errors import MilvusCoopError
from milvus_coop.serving.gateway import problems
from milvus_coop.serving.gateway.front import FrontDoor
from milvus_coop.serving.gateway.openai import openai_form, openai_router
from milvus_coop.serving.gateway.prefix import PathPrefix
from milvus_coop.serving.gateway.problems import ErrorForm
from milvus_coop.serving.gateway.rerank import rerank_form, rerank_router
from milvus_coop.serving.gateway.routes import collections, gallery, health, search, thumbnails, uploads
from milvus_coop.serving.gateway.service import Service

DESCRIPTION = "Find images by text, and texts by image, in Milvus: a bi-encoder retrieves, a cross-encoder reranks."


def create_app(service: Service) -> FastAPI:
    """The ASGI application of a service. It closes the service when it ends."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await run_in_threadpool(service.warm_up)
        closing = asyncio.create_task(_close_idle(service))
        yield
        closing.cancel()
        await run_in_threadpool(service.close)

    prefix = service.options.root_path
    app = FastAPI(
        title="milvus-coop",
        version=milvus_coop.__version__,
        description=DESCRIPTION,
        docs_url=None,  # these pages would load scripts from elsewhere
        redoc_url=None,
        servers=[{"url": prefix}] if prefix else None,
        redirect_slashes=not prefix,  # its redirects would lack the prefix
        lifespan=lifespan,
    )
    problems.install(app)
    for part in (health,) if service.options.models_only else (search, uploads, thumbnails, collections, gallery, health):
        app.include_router(part.router(service))
    app.include_router(rerank_router(service))
    app.include_router(openai_router(service))
    app.add_middleware(FrontDoor, service=service, form=_form)
    if service.options.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=service.options.cors_origins,
            allow_methods=["GET", "POST"],
            allow_headers=["Authorization", "Content-Type", "X-Request-Id"],
            expose_headers=["X-Request-Id", "Retry-After"],
        )
    if prefix:
        app.add_middleware(PathPrefix, prefix=prefix)
    return app


async def _close_idle(service: Service) -> None:
    """Close collections that nobody uses any more, until the task is cancelled."""
    while True:
        await asyncio.sleep(service.options.idle_s / 2)
        with suppress(MilvusCoopError):
            await run_in_threadpool(service.close_idle)


def _form(path: str) -> ErrorForm:
    """The form of the errors of a path, for requests that reach no route, or whose route has not chosen a form."""
    return rerank_form(path) or openai_form(path) or problems.problem
