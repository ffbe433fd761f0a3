"""The webhook's HTTP side: two routes for the API server, health and metrics."""

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from sidecar.exporters.instruments import registry_text
from sidecar.http_edge import BodyFault, LargeBodies, bounded_body, http_error_answer
from sidecar.injector.certificate import Certificate
from sidecar.injector.config import InjectConfig
from sidecar.injector.inject import TRACK
from sidecar.injector.metrics import InjectorMetrics
from sidecar.injector.review import Answer, answer
from sidecar.serving import Readiness, health_routes

_log = logging.getLogger(__name__)

MUTATE_PATH: Final = "/mutate"
"""For pods that have the annotation `emissions/track`."""

MUTATE_NAMESPACE_PATH: Final = "/mutate/namespace"
"""For pods of a namespace whose label `emissions/track` is `true`; the API server selects them."""

_TRACKED_NAMESPACE: Final = {TRACK: "true"}


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What the application is made of. `body_s` is the time for a body, `body_bytes` its length.

    Of bodies longer than nearly all pods are, `large_bodies` takes few at a time.
    """

    config: InjectConfig
    certificate: Certificate | None = None
    readiness: Readiness = field(default_factory=Readiness)
    metrics: InjectorMetrics = field(default_factory=InjectorMetrics)
    body_bytes: int = 3 * 1024**2
    body_s: float = 5.0
    large_bodies: LargeBodies = field(
        default_factory=lambda: LargeBodies(at_once=4, from_bytes=64 * 1024)
    )


def webhook_app(parts: Parts) -> Starlette:
    """Make the application."""
    webhook = _Webhook(parts)
    app = Starlette(
        routes=[
            Route(MUTATE_PATH, webhook.mutate, methods=["POST"]),
            Route(MUTATE_NAMESPACE_PATH, webhook.mutate_in_namespace, methods=["POST"]),
            Route("/metrics", webhook.tell_metrics, methods=["GET"]),
            Route("/readyz", webhook.tell_readiness, methods=["GET"]),
            *health_routes(parts.readiness),
        ],
        exception_handlers={HTTPException: _tell_http_error},
    )
    app.router.redirect_slashes = False
    parts.readiness.ready()
    return app


class _Webhook:
    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._metrics = parts.metrics

    async def mutate(self, request: Request) -> Response:
        """`POST /mutate`."""
        return await self._measured(request, {})

    async def mutate_in_namespace(self, request: Request) -> Response:
        """`POST /mutate/namespace`."""
        return await self._measured(request, _TRACKED_NAMESPACE)

    async def tell_readiness(self, _: Request) -> Response:
        """`GET /readyz`: an expired certificate sends the API server to another replica."""
        certificate, readiness = self._parts.certificate, self._parts.readiness
        obstacle = readiness.obstacle or (certificate.obstacle() if certificate else None)
        if obstacle is None:
            return JSONResponse({"status": "ready"})
        return JSONResponse({"error": "not_ready", "detail": obstacle}, 503)

    async def tell_metrics(self, _: Request) -> Response:
        """`GET /metrics`."""
        gauge, certificate = self._metrics.certificate_expiry, self._parts.certificate
        expiry_s = certificate.expiry_s() if certificate else None
        if gauge is not None and expiry_s is not None:
            gauge.set(expiry_s)
        text, content_type = registry_text(self._metrics.registry)
        return Response(text, headers={"Content-Type": content_type})

    async def _measured(self, request: Request, namespace_labels: Mapping[str, str]) -> Response:
        begun_s = time.perf_counter()
        try:
            parts = self._parts
            body = await bounded_body(request, parts.body_bytes, parts.body_s, parts.large_bodies)
        except BodyFault as fault:
            detail = self._fault_text(fault)
            _log.error("request let through without a patch (body): %s", detail)
            given = Answer(None, "failed", "body")
            response: Response = JSONResponse({"error": "body", "detail": detail}, fault.status)
        else:
            given = answer(body, namespace_labels, self._parts.config)
            response = _response(given)
        self._metrics.requests.labels(given.outcome, given.reason).inc()
        self._metrics.duration.observe(time.perf_counter() - begun_s)
        return response

    def _fault_text(self, fault: BodyFault) -> str:
        if fault.status == 408:
            return f"not whole after {self._parts.body_s:g} s"
        if fault.status == 400:
            return "the connection ended before the body did"
        return f"more than {self._parts.body_bytes} bytes"


def _response(given: Answer) -> Response:
    if given.content is None:
        detail = "send an AdmissionReview of admission.k8s.io/v1"
        return JSONResponse({"error": given.reason, "detail": detail}, 400)
    return Response(given.content, media_type="application/json")


async def _tell_http_error(_: Request, error: Exception) -> Response:
    detail = f"there is POST {MUTATE_PATH}, POST {MUTATE_NAMESPACE_PATH}"
    return http_error_answer(error, detail)
