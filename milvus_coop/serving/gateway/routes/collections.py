"""`GET /v1/collections`."""

from __future__ import annotations

from dataclasses import replace

from fastapi import APIRouter, Request

from milvus_coop.errors import FilterError
from milvus_coop.serving.gateway.facts import facts_of
from milvus_coop.serving.gateway.problems import problems
from milvus_coop.serving.gateway.schemas import Collections, CollectionSummary
from milvus_coop.serving.gateway.service import Service
from milvus_coop.types import CollectionInfo


def router(service: Service) -> APIRouter:
    """The route for a service."""
    routes = APIRouter(tags=["collections"])

    @routes.get("/v1/collections", response_model=Collections, responses=problems(502, 503, 504), summary="List the collections")
    async def collections(request: Request) -> Collections:
        """All collections of the Milvus database, also those that this service cannot search.

        A key with a filter sees only the collections that have items for it, and the number of these items.
        """
        within = facts_of(request).filter
        infos = await service.run(lambda: _within(service, within) if within else service.collections())
        fingerprint, default = service.models.encoder.spec.fingerprint, service.settings.collection
        return Collections(
            collections=[
                CollectionSummary(
                    name=info.name,
                    kind=info.kind,
                    bundle=info.bundle,
                    fingerprint=info.fingerprint,
                    dim=info.dim,
                    count=info.count,
                    index=info.index,
                    searchable=info.kind is not None and info.fingerprint == fingerprint,
                    default=info.name == default,
                )
                for info in infos
            ]
        )

    return routes


def _within(service: Service, filter: str) -> list[CollectionInfo]:
    """The collections that have items that the filter leaves, with the number of these items."""
    found = []
    for info in service.collections():
        if info.kind is not None and info.fingerprint == service.models.encoder.spec.fingerprint:
            try:
                count = service.search(info.name, lambda searcher: searcher.collection.count(), within=filter)
            except FilterError:  # the filter does not fit this collection
                continue
            if count:
                found.append(replace(info, count=count))
    return found
