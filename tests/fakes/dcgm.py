"""A fake dcgm-exporter: pages over real HTTP, well-behaved or not.

with FakeDcgm(page) as exporter:
    meter = DcgmMeter([exporter.url], PodName("team-a", "train-0"))
    exporter.page = other_page
    exporter.mode = "drip"
"""

import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import ClassVar, Self

ENERGY = "DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION"
POWER = "DCGM_FI_DEV_POWER_USAGE"
UTIL = "DCGM_FI_DEV_GPU_UTIL"
ACTIVE = "DCGM_FI_PROF_GR_ENGINE_ACTIVE"


@dataclass(frozen=True)
class Gpu:
    """One entity that the exporter watches: a GPU, or an instance of one (`profile`, `instance`).

    `pods` are (namespace, pod, container) or, with KUBERNETES_VIRTUAL_GPUS, with a replica as the
    fourth; more than one of them repeats every row.
    """

    uuid: str
    values: Mapping[str, object]
    model: str = "NVIDIA A100-SXM4-80GB"
    profile: str = ""
    instance: str = ""
    pods: tuple[tuple[str, ...], ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)


def page(*gpus: Gpu) -> bytes:
    """A page in the exporter's format (internal/pkg/rendermetrics), metric by metric."""
    metrics = dict.fromkeys(metric for gpu in gpus for metric in gpu.values)
    lines: list[str] = []
    for metric in metrics:
        lines += [f"# HELP {metric} as documented", f"# TYPE {metric} gauge"]
        for index, gpu in enumerate(gpus):
            if metric in gpu.values:
                lines += (row(metric, index, gpu, pod) for pod in gpu.pods or ((),))
    return "\n".join([*lines, ""]).encode()


def row(metric: str, index: int, gpu: Gpu, pod: tuple[str, ...]) -> str:
    labels = {
        "gpu": str(index),
        "UUID": gpu.uuid,
        "pci_bus_id": f"0000000{index}:00:00.0",
        "device": f"nvidia{index}",
        "modelName": gpu.model,
    }
    if gpu.profile:
        labels |= {"GPU_I_PROFILE": gpu.profile, "GPU_I_ID": gpu.instance}
    labels |= {"Hostname": "aks-gpupool-12345678-vmss000001", "DCGM_FI_DRIVER_VERSION": "595.71.05"}
    labels |= gpu.labels
    labels |= dict(zip(("namespace", "pod", "container", "vgpu"), pod, strict=False))
    text = ",".join(f'{name}="{value}"' for name, value in labels.items())
    return f"{metric}{{{text}}} {gpu.values[metric]}"


class FakeDcgm:
    """The server. `mode`: well, error, redirect, hang, drip, endless, cut, garbage, empty."""

    def __init__(self, content: bytes = b"") -> None:
        self.page = content
        self.mode = "well"
        self.requests = 0
        self.released = threading.Event()
        handler = type("Handler", (_Handler,), {"exporter": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}/metrics"

    def show(self, *gpus: Gpu) -> Self:
        self.page = page(*gpus)
        return self

    def stop(self) -> None:
        """Nobody listens any more."""
        self.released.set()
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
        self._server.server_close()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()


class _Handler(BaseHTTPRequestHandler):
    exporter: ClassVar[FakeDcgm]

    def do_GET(self) -> None:
        self.exporter.requests += 1
        try:
            getattr(self, f"_{self.exporter.mode}")()
        except OSError:  # the meter has gone
            self.close_connection = True

    def log_message(self, *arguments: object) -> None:
        """Say nothing."""

    def _head(self, status: int = 200, length: int | None = None, location: str = "") -> None:
        self.send_response(status)
        self.send_header("Content-Type", "text/plain; version=0.0.4")
        if length is not None:
            self.send_header("Content-Length", str(length))
        if location:
            self.send_header("Location", location)
        self.end_headers()

    def _send(self, pieces: Iterable[bytes]) -> None:
        for piece in pieces:
            self.wfile.write(piece)
            self.wfile.flush()

    def _well(self) -> None:
        self._head(length=len(self.exporter.page))
        self._send([self.exporter.page])

    def _error(self) -> None:
        self._head(503, length=0)

    def _redirect(self) -> None:
        self._head(302, length=0, location=self.exporter.url + "?again")

    def _hang(self) -> None:
        self.exporter.released.wait(30)

    def _drip(self) -> None:
        self._head()
        for byte in self.exporter.page:
            self._send([bytes([byte])])
            if self.exporter.released.wait(0.05):
                return

    def _endless(self) -> None:
        self._head()
        while not self.exporter.released.is_set():
            self._send([self.exporter.page])

    def _cut(self) -> None:
        self._head(length=len(self.exporter.page) + 1000)
        self._send([self.exporter.page])
        self.close_connection = True

    def _garbage(self) -> None:
        self._head()
        self._send([b"\x00\xff{}{}\n" * 1000])

    def _empty(self) -> None:
        self._head(length=0)
