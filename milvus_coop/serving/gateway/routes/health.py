"""Routes for monitoring, without an API key: whether the service is alive, whether it can answer, and its metrics."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter, Response
from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool
from starlette.responses import PlainTextResponse

from milvus_coop.serving.gateway.schemas import Readiness
from milvus_coop.serving.gateway.service import Service

PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"


class Liveness(BaseModel):
    """The service runs."""

    status: Literal["ok"] = "ok"


def router(service: Service) -> APIRouter:
    """The routes for a service."""
    routes = APIRouter(tags=["health"])

    @routes.get("/healthz", response_model=Liveness, summary="Is the process alive")
    async def healthz() -> Liveness:
        """Always ok, whatever the state of Milvus and the models, because a restart of this service would not repair them."""
        return Liveness()

    @routes.get(
        "/readyz",
        response_model=Readiness,
        responses={503: {"model": Readiness, "description": "Milvus or the text encoder does not answer."}},
        summary="Can the service answer",
    )
    async def readyz(response: Response) -> Readiness:
        """Calls Milvus and runs the text encoder, at most every two seconds. If the service needs keys, only the log has details.

        Without the other models, searches are still answered: see the metrics.
        """
        found = await run_in_threadpool(service.problems)
        if service.options.api_keys:  # this route needs no key, so it shows no details
            found = dict.fromkeys(found, "does not answer; the log says more")
        if found:
            response.status_code = 503
        return Readiness(status="not ready" if found else "ready", problems=found)

    @routes.get("/metrics", response_class=PlainTextResponse, summary="Metrics for Prometheus")
    async def metrics() -> Response:
        """Requests, stages of searches, candidates, degraded answers, failures, memory and CPU."""
        return Response(service.metrics.exposition(), media_type=PROMETHEUS)

    for path, answer in (("/healthz", healthz), ("/readyz", readyz), ("/metrics", metrics)):  # monitors may send HEAD requests
        routes.add_api_route(path, answer, methods=["HEAD"], include_in_schema=False)
    return routes
