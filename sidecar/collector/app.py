"""The collector's HTTP side: routes, who may ask how much, and the answers."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import asdict, dataclass, field
from typing import Final, TypeVar

from anyio import CapacityLimiter, to_thread
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from sidecar.collector.backend import Backend
from sidecar.collector.cluster import CALLS_MAX, Cluster
from sidecar.collector.handover import Receipts
from sidecar.collector.intensity import CallOutcome, Intensities, IntensitySource
from sidecar.collector.limits import Gate, Limits, PodRates, retry_after_s
from sidecar.collector.metrics import CollectorMetrics
from sidecar.collector.node_facts import Nodes
from sidecar.collector.refusal import Refusal, shown
from sidecar.collector.storing import Checks, Stored, Storing
from sidecar.collector.token_review import Caller, ReviewOutcome, TokenReviewer
from sidecar.collector_client import (
    HANDOVER_HEADER,
    INTENSITY_PATH,
    NODE_PATH,
    RECEIPT_HEADER,
    SEGMENTS_PATH,
)
from sidecar.exporters.instruments import registry_text
from sidecar.http_edge import BodyFault, bounded_body, http_error_answer
from sidecar.serving import Readiness, health_routes
from sidecar.transport.delivery import Undelivered

_log = logging.getLogger(__name__)

_CONTENT_TYPES: Final = ("", "application/gzip", "application/x-gzip", "application/octet-stream")

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What the application is made of. `check_again_s`: until storage can be reached.

    `node_meter` is the service account, NAMESPACE/NAME, that may send records of a node's own.
    """

    backend: Backend
    cluster: Cluster
    audience: str
    receipts: Receipts | None = None
    intensity: IntensitySource | None = None
    node_meter: str | None = None
    uploads: int = 16
    limits: Limits = field(default_factory=Limits)
    readiness: Readiness = field(default_factory=Readiness)
    metrics: CollectorMetrics = field(default_factory=CollectorMetrics)
    check_again_s: float = 5.0


def collector_app(parts: Parts) -> Starlette:
    """Make the application."""
    collector = _Collector(parts)
    app = Starlette(
        routes=[
            Route(SEGMENTS_PATH, collector.take_segment, methods=["POST"]),
            Route(NODE_PATH, collector.tell_node, methods=["GET"]),
            Route(INTENSITY_PATH, collector.tell_intensity, methods=["GET"]),
            Route("/metrics", collector.tell_metrics, methods=["GET"]),
            *health_routes(parts.readiness),
        ],
        exception_handlers={
            HTTPException: _tell_http_error,
            Exception: collector.tell_own_error,
        },
        lifespan=collector.lifespan,
    )
    app.router.redirect_slashes = False
    return app


class _Collector:
    """The routes, and the bounds that they share."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._metrics = parts.metrics
        self._rates = PodRates(parts.limits)
        self._arriving = Gate(parts.uploads * parts.limits.arriving)
        self._uploads = asyncio.Semaphore(parts.uploads)
        self._upload_threads = CapacityLimiter(parts.uploads)
        self._cluster_threads = CapacityLimiter(CALLS_MAX)
        checks = Checks(parts.limits, parts.receipts, parts.node_meter)
        self._storing = Storing(parts.backend, parts.cluster, checks)
        self._nodes = Nodes(parts.cluster, self._asked)
        self._intensities: Intensities | None = None
        if parts.intensity is not None:
            self._intensities = Intensities(
                parts.intensity, self._nodes.facts, self._count_intensity_call
            )
        self._reviewer = TokenReviewer(
            parts.cluster, parts.audience, self._asked, told=self._count_review
        )

    @asynccontextmanager
    async def lifespan(self, _: Starlette) -> AsyncIterator[None]:
        """Look in the background whether storage can be reached, until it can; close it at the end."""
        task = asyncio.create_task(self._become_ready())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            self._parts.backend.close()
            if self._intensities is not None:
                self._intensities.close()

    async def take_segment(self, request: Request) -> Response:
        """`POST /v1/segments`."""
        with self._measured("segments"):
            return await self._answered(request, self._segment_answer)

    async def tell_node(self, request: Request) -> Response:
        """`GET /v1/node`."""
        with self._measured("node"):
            return await self._answered(request, self._node_answer)

    async def tell_intensity(self, request: Request) -> Response:
        """`GET /v1/intensity?zone=…&forecast=true`."""
        with self._measured("intensity"):
            return await self._answered(request, self._intensity_answer)

    async def tell_metrics(self, _: Request) -> Response:
        """`GET /metrics`."""
        text, content_type = registry_text(self._metrics.registry)
        return Response(text, headers={"Content-Type": content_type})

    async def tell_own_error(self, request: Request, _: Exception) -> Response:
        """Answer 500; the server logs the error."""
        if request.url.path == SEGMENTS_PATH:
            self._metrics.segments.labels("internal").inc()
        detail = "an error of the collector's own; its log says which"
        return Refusal(500, "internal", detail).answer()

    async def _answered(
        self, request: Request, answer: Callable[[Request, Caller], Awaitable[Response]]
    ) -> Response:
        """Answer a pod; every answer to one that is known carries its receipt."""
        receipt = None
        try:
            caller = await self._reviewer.caller(request.headers.get("authorization"))
            if self._parts.receipts is not None:
                receipt = self._parts.receipts.given_to(caller)
            with self._rates.entered(caller.pod_uid):
                response = await answer(request, caller)
        except Refusal as refusal:
            if request.method == "POST":
                self._metrics.segments.labels(refusal.code).inc()
            response = refusal.answer()
        if receipt is not None:
            response.headers[RECEIPT_HEADER] = receipt
        return response

    async def _segment_answer(self, request: Request, caller: Caller) -> Response:
        _require_gzip(request)
        with self._arriving.entered():
            content = await _body(request, self._parts.limits)
            receipt = request.headers.get(HANDOVER_HEADER)
            stored = await self._stored(content, caller, receipt)
        self._count(stored, len(content))
        status = 201 if stored.created else 200
        return JSONResponse(asdict(stored), status)

    async def _node_answer(self, _: Request, caller: Caller) -> Response:
        return JSONResponse(asdict(await self._nodes.facts(caller.node)))

    async def _intensity_answer(self, request: Request, caller: Caller) -> Response:
        if self._intensities is None:
            raise Refusal(
                404,
                "no_intensity_source",
                "this collector has no source of carbon intensity over time; set its "
                "EMISSIONS_INTENSITY_SOURCE",
            )
        zone = request.query_params.get("zone", "")
        with_forecast = request.query_params.get("forecast") == "true"
        content = await self._intensities.answer(caller, zone, with_forecast=with_forecast)
        return Response(content, media_type="application/json")

    async def _stored(self, content: bytes, caller: Caller, receipt: str | None) -> Stored:
        # Here and not in a thread: threads that reckon take turns with this one, 5 ms each.
        segment = self._storing.looked_at(content)
        try:
            async with asyncio.timeout(self._parts.limits.queue_s):
                await self._uploads.acquire()
        except TimeoutError:
            raise Refusal(
                503,
                "busy",
                f"{self._parts.uploads} segments are being stored, and more wait; come again",
                retry_after_s=retry_after_s(self._parts.limits.queue_s),
            ) from None
        try:
            return await to_thread.run_sync(
                lambda: self._storing.store(content, caller, receipt, segment),
                limiter=self._upload_threads,
            )
        finally:
            self._uploads.release()

    async def _asked(self, call: Callable[[], T]) -> T:
        return await to_thread.run_sync(call, limiter=self._cluster_threads)

    @contextmanager
    def _measured(self, route: str) -> Iterator[None]:
        begun_s = time.monotonic()
        with self._metrics.in_flight.track_inprogress():
            yield
        self._metrics.duration.labels(route).observe(time.monotonic() - begun_s)

    def _count(self, stored: Stored, content_bytes: int) -> None:
        self._metrics.segments.labels(stored.outcome).inc()
        if stored.created:
            self._metrics.records.inc(stored.records)
            self._metrics.content.inc(content_bytes)

    def _count_review(self, outcome: ReviewOutcome) -> None:
        self._metrics.reviews.labels(outcome).inc()

    def _count_intensity_call(self, outcome: CallOutcome) -> None:
        self._metrics.intensity_calls.labels(outcome).inc()

    async def _become_ready(self) -> None:
        told = ""
        backend = self._parts.backend
        while True:
            try:
                await to_thread.run_sync(backend.check, abandon_on_cancel=True)
            except Undelivered as reason:
                text = str(reason)
                self._parts.readiness.not_ready(text)
                if text != told:
                    _log.warning("not ready: %s", text)
                told = text
            except Exception:  # noqa: BLE001 - see below
                # Contrary to its contract; yet no service stays unready for ever over one such answer.
                _log.exception("not ready: storage cannot be checked")
            else:
                self._parts.readiness.ready()
                _log.info("ready: segments go to %s", backend.destination)
                return
            await asyncio.sleep(self._parts.check_again_s)


def _require_gzip(request: Request) -> None:
    given = request.headers.get("content-type", "")
    if given.partition(";")[0].strip().lower() not in _CONTENT_TYPES:
        raise Refusal(
            400, "content_type", f"Content-Type {shown(given)}; send application/gzip, one segment"
        )


async def _body(request: Request, limits: Limits) -> bytes:
    """Read the body. Raises Refusal: 413 too large, 408 too slow, 400 nothing or cut off."""
    try:
        content = await bounded_body(request, limits.content_bytes, limits.body_s)
    except BodyFault as fault:
        raise _refused_body(fault, limits) from None
    if not content:
        raise Refusal(400, "not_a_segment", "the body is empty; send one gzip segment")
    return content


def _refused_body(fault: BodyFault, limits: Limits) -> Refusal:
    if fault.status == 408:
        detail = f"{fault.received} bytes came in {limits.body_s:g} s, and not all; come again"
        return Refusal(408, "too_slow", detail)
    if fault.status == 400:
        return Refusal(400, "cut_off", "the connection ended before the body did")
    return Refusal(
        413,
        "too_large",
        f"more than {limits.content_bytes} bytes of gzip; close segments earlier and ship smaller "
        "ones",
    )


async def _tell_http_error(request: Request, error: Exception) -> Response:
    asked = f"{request.method} {shown(request.url.path)}"
    detail = f"{asked}: there is POST /v1/segments, GET /v1/node, GET /v1/intensity"
    return http_error_answer(error, detail)
