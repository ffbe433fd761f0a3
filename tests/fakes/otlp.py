"""A receiver of OTLP/HTTP metrics on loopback that reads the protobuf, as a real one does."""

import gzip
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)

Points = dict[tuple[str, str | None], float]


class OtlpReceiver:
    """`requests` are what arrived; `status` is what is answered."""

    def __init__(self, status: int = 200) -> None:
        self.requests: list[ExportMetricsServiceRequest] = []
        self.headers: list[dict[str, str]] = []
        self.status = status
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                if receiver.status == 200 and self.path == "/v1/metrics":
                    receiver.headers.append(dict(self.headers))
                    receiver.requests.append(ExportMetricsServiceRequest.FromString(body))
                answer = ExportMetricsServiceResponse().SerializeToString()
                self.send_response(receiver.status if self.path == "/v1/metrics" else 404)
                self.send_header("Content-Type", "application/x-protobuf")
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def metrics_of(request: ExportMetricsServiceRequest) -> dict:
    """Metrics of a request by name."""
    (resource,) = request.resource_metrics
    (scope,) = resource.scope_metrics
    return {metric.name: metric for metric in scope.metrics}


def points_of(request: ExportMetricsServiceRequest) -> Points:
    """The value of each series: by the metric's name and its component."""
    found = {}
    for name, metric in metrics_of(request).items():
        data = metric.sum if metric.HasField("sum") else metric.gauge
        for point in data.data_points:
            (component,) = [item.value.string_value for item in point.attributes] or [None]
            found[name, component] = point.as_double
    return found


def resource_of(request: ExportMetricsServiceRequest) -> dict[str, str]:
    """Attributes of the resource."""
    (resource,) = request.resource_metrics
    return {item.key: item.value.string_value for item in resource.resource.attributes}
