"""Energy, utilisation and owners of NVIDIA GPUs as dcgm-exporter on this node tells them.

The exporter needs no privilege of the pod: it is asked over plain HTTP, and its labels say which pod
holds which device. AKS's managed GPU nodes serve it on port 19400, others usually on 9400.
"""

import http.client
import logging
import math
import time
from collections.abc import Callable, Sequence
from typing import Final

from sidecar.bounded_http import Answer, Limits, NoAnswerError, Request, exchange, one_line
from sidecar.meters.condition import Condition
from sidecar.meters.dcgm_gpu import Allocation, DcgmGpu, PodName
from sidecar.meters.dcgm_page import DEVICES_MAX, DevicePage, PageError, read_page
from sidecar.meters.reading import GpuReading, MeterStatus

log = logging.getLogger(__name__)

PORTS: Final = (19400, 9400)
TIMEOUT_S: Final = 1.0
"""For all addresses together: a reading must not hold up the others."""

CONNECT_TIMEOUT_S: Final = 0.4
PAGE_BYTES_MAX: Final = 8 * 1024 * 1024
"""A node with 8 GPUs, 7 instances each, and all fields has about 1 MiB."""

FIRST_PAUSE_S: Final = 5.0
LONGEST_PAUSE_S: Final = 60.0
LONGEST_PAUSE_WITHOUT_S: Final = 600.0
"""An exporter that failed is asked again after 5 s, then after twice the time, up to a minute; one
that never answered, up to ten."""


def _no_idle_power(model: str) -> float | None:  # noqa: ARG001 - as the others
    return None


def exporter_urls(host_ip: str) -> tuple[str, ...]:
    """Return where a dcgm-exporter of the node with this address may be."""
    host = f"[{host_ip}]" if ":" in host_ip else host_ip
    return tuple(f"http://{host}:{port}/metrics" for port in PORTS)


class DcgmMeter:
    """Meters the GPUs that an exporter shows since its first page; the first of `urls` that does.

    `pod` is this pod (None: whose a device is stays unknown), `idle_w` tells the idle power of a
    model for the split of MIG boards (None = not known), and `replicas` how many containers may
    share a device. Nothing that the exporter answers raises out of here.
    """

    needs_sampling = False

    def __init__(
        self,
        urls: Sequence[str],
        pod: PodName | None,
        *,
        idle_w: Callable[[str], float | None] = _no_idle_power,
        replicas: int = 1,
    ) -> None:
        self._urls = list(urls)
        self._pod = pod
        self._idle_w = idle_w
        self._replicas = replicas
        self._gpus: dict[str, DcgmGpu] = {}
        self._ask_after_s = -math.inf
        self._pause_s = FIRST_PAUSE_S
        self._closed = not urls
        self._condition = Condition("dcgm", log)
        if not urls:
            self._condition.absent("no address of a dcgm-exporter is known")

    def sample(self, monotonic_s: float) -> None:
        """Take the first page, from which on everything counts; later ones are for `read`."""
        if not self._gpus:
            self._ask(monotonic_s)

    def read(self, monotonic_s: float) -> tuple[GpuReading, ...]:
        """Ask for a page, and return every GPU seen so far with its totals."""
        self._ask(monotonic_s)
        return tuple(gpu.reading() for gpu in self._gpus.values())

    def status(self) -> tuple[MeterStatus, ...]:
        """Say how the exporter does, then each GPU of which it tells nothing."""
        lost = (
            MeterStatus(f"gpu {gpu.uuid}", available=False, detail=gpu.trouble)
            for gpu in self._gpus.values()
            if gpu.trouble is not None
        )
        return (self._condition.status, *lost)

    def close(self) -> None:
        """Ask no more. Later reads return the last totals."""
        self._closed = True

    def _ask(self, now_s: float) -> None:
        if self._closed or now_s < self._ask_after_s:
            return
        failures = []
        ends_s = time.monotonic() + TIMEOUT_S
        for url in tuple(self._urls):
            left_s = ends_s - time.monotonic()
            try:
                devices = fetch_page(url, left_s)
            except PageError as error:
                failures.append(f"{one_line(url)}: {error}")
                continue
            self._urls.remove(url)
            self._urls.insert(0, url)
            self._take(devices, now_s)
            self._pause_s = FIRST_PAUSE_S
            self._condition.works(f"{len(devices)} GPUs shown by {one_line(url)}")
            return
        self._urls.append(self._urls.pop(0))  # a slow one leaves no time for the next
        self._fail("; ".join(sorted(failures)), now_s)

    def _take(self, devices: dict[str, DevicePage], now_s: float) -> None:
        allocation = None
        if self._pod is not None:
            allocation = Allocation.of(self._pod, devices.values(), self._replicas)
        for uuid, seen in devices.items():
            if uuid not in self._gpus and len(self._gpus) < DEVICES_MAX:
                self._gpus[uuid] = DcgmGpu(uuid, self._idle_w)
            if uuid in self._gpus:
                self._gpus[uuid].take(seen, allocation, now_s)
        for uuid, gpu in self._gpus.items():
            if uuid not in devices:
                gpu.miss()

    def _fail(self, why: str, now_s: float) -> None:
        self._ask_after_s = now_s + self._pause_s
        longest_s = LONGEST_PAUSE_S if self._gpus else LONGEST_PAUSE_WITHOUT_S
        self._pause_s = min(self._pause_s * 2, longest_s)
        if self._gpus:
            self._condition.fails(f"{why}; trying again")
        else:
            self._condition.absent(f"no dcgm-exporter: {why}")


def fetch_page(url: str, timeout_s: float) -> dict[str, DevicePage]:
    """Return the devices that an exporter shows, at least one. Raises PageError."""
    if timeout_s <= 0:
        raise PageError("not asked, no time was left")
    limits = Limits(timeout_s, min(CONNECT_TIMEOUT_S, timeout_s), PAGE_BYTES_MAX)
    try:
        devices = exchange(Request("GET", url), limits, _devices)
    except NoAnswerError as error:
        raise PageError(f"no answer, {error}") from error
    if not devices:
        raise PageError("the page shows no GPU")
    return devices


def _devices(answer: Answer) -> dict[str, DevicePage]:
    if answer.status != http.client.OK:
        raise PageError(f"HTTP {answer.status}")
    return read_page(answer.pieces, PAGE_BYTES_MAX)
