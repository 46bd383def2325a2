"""`GET /v1/collections`."""

from __future__ import annotations

from fastapi import APIRouter

from milvus_coop.serving.gateway.problems import problems
from milvus_coop.serving.gateway.schemas import Collections, CollectionSummary
from milvus_coop.serving.gateway.service import Service


def router(service: Service) -> APIRouter:
    """The route for a service."""
    routes = APIRouter(tags=["collections"])

    @routes.get("/v1/collections", response_model=Collections, responses=problems(502, 503, 504), summary="List the collections")
    async def collections() -> Collections:
        """All collections of the Milvus database, also those that this service cannot search."""
        infos = await service.run(service.collections)
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
