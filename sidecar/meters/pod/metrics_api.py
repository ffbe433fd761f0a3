"""The pod's share as metrics-server tells it: PodMetrics of metrics.k8s.io/v1beta1.

k8s.io/metrics/pkg/apis/metrics/v1beta1: usage is the mean over `window`, which ends at `timestamp`.
"""

import logging
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote

from sidecar.bounded_http import one_line
from sidecar.identity.bounded import shown
from sidecar.kubernetes_http import KubernetesHttp, KubernetesHttpError
from sidecar.meters.condition import Condition
from sidecar.meters.pod.kubelet import OWN_CONTAINER
from sidecar.meters.pod.kubelet_summary import CONTAINERS_MAX, moment_of
from sidecar.meters.pod.requests import parse_quantity
from sidecar.meters.pod.sampled_counter import Lag, Sample, SampledCounter
from sidecar.meters.reading import MeterStatus, PodMethod, PodReading

log = logging.getLogger(__name__)

DEADLINE_S: Final = 1.0
ANSWER_BYTES_MAX: Final = 1024 * 1024

LAGS_S: Final = (60.0, 120.0)
"""metrics-server asks each 15 s (`--metric-resolution`, often 60 s) for numbers up to 30 s old."""

CLOCK_SLACK_S: Final = 60.0
"""Times further ahead than this are not believed."""

CPUS_MAX: Final = 10_000
"""The largest VM of Azure has under 2,000."""

QUANTITY_CHARACTERS_MAX: Final = 64

_BYTES_MAX: Final = 2**63
_DURATION: Final = re.compile(r"(?:[0-9]{1,9}(?:\.[0-9]{1,9})?(?:h|ms|m|s|us|µs|ns))+")
_DURATION_PART: Final = re.compile(r"([0-9.]+)(h|ms|m|s|us|µs|ns)")
_SECONDS: Final[Mapping[str, float]] = {
    "h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class PodMetrics:
    """Mean CPUs used over `window_s` up to `moment_s` (seconds since the epoch), and the memory."""

    moment_s: float
    window_s: float
    cpus: float
    working_set_bytes: int


class MetricsApiSource:
    """CPU time and working set of the pod's containers but our own, from metrics-server.

    Means are added up: each stands for the time since the one before, each once. Where windows are
    longer than metrics-server's resolution, means between two readings are not seen, and the last one
    stands for them. The CPU time is as of 60 s ago (120 s where metrics-server asks seldom), as
    `sampled_counter` explains.

    `clock` is the wall clock, in seconds.
    """

    name: PodMethod = "metrics-api"
    needs = (
        'chart value attribution.metricsApi: a Role in the namespace with "get" on '
        "pods.metrics.k8s.io for the pod's service account, and its token mounted"
    )
    is_local = False
    needs_sampling = False

    def __init__(
        self,
        http: KubernetesHttp,
        namespace: str,
        pod: str,
        own_container: str = OWN_CONTAINER,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._http = http
        self._path = (
            f"/apis/metrics.k8s.io/v1beta1/namespaces/{quote(namespace, safe='')}"
            f"/pods/{quote(pod, safe='')}"
        )
        self._own_container = own_container
        self._clock = clock
        self._condition = Condition("pod", log)
        self._counted_until_s = clock()
        self._is_first = True
        self._counter = SampledCounter()
        self._lag = Lag(LAGS_S)
        self._told_s = 0.0

    def sample(self) -> None:
        """Nothing is sampled: metrics-server has a new mean only each 15 s or so."""

    def read(self) -> PodReading:
        """Ask the API server; takes at most about a second. CPU seconds never fall."""
        try:
            answer = self._http.get_json(self._path, DEADLINE_S, ANSWER_BYTES_MAX)
            metrics = parse_pod_metrics(answer, self._own_container)
            self._take(metrics)
        except KubernetesHttpError as error:
            advice = (
                "; metrics-server is not installed, or has not seen this pod yet"
                if error.status == 404
                else ""
            )
            return self._unknown(f"{error}{advice}")
        except ValueError as error:
            return self._unknown(f"{self._http.url} metrics.k8s.io: {error}; see metrics-server")
        self._condition.works(f"metrics.k8s.io at {self._http.url}")
        return PodReading(
            cpu_s=self._told_s,
            working_set_bytes=metrics.working_set_bytes,
            method=self.name,
            age_s=self._lag.seconds,
        )

    def status(self) -> tuple[MeterStatus, ...]:
        """How the last reading went."""
        return (self._condition.status,)

    def _take(self, metrics: PodMetrics) -> None:
        now_s = self._clock()
        ahead_s = metrics.moment_s - now_s
        if ahead_s > CLOCK_SLACK_S:
            raise ValueError(f"its time is {ahead_s:.0f} s ahead of this node's clock")
        if self._counted_until_s > now_s + CLOCK_SLACK_S:  # the clock was set back
            self._counted_until_s, self._is_first = now_s, True
        self._lag.see(-ahead_s)
        since_s = self._counted_until_s
        if self._is_first:
            since_s = max(since_s, metrics.moment_s - metrics.window_s)
        if metrics.moment_s > since_s:
            used_s = metrics.cpus * (metrics.moment_s - since_s)
            self._counter.add(Sample(since_s, self._counter.value))
            self._counter.add(Sample(metrics.moment_s, self._counter.value + used_s))
            self._counted_until_s, self._is_first = metrics.moment_s, False
        self._told_s = max(self._told_s, self._counter.at(now_s - self._lag.seconds))

    def _unknown(self, detail: str) -> PodReading:
        self._condition.missing(detail)
        return PodReading(cpu_s=None, working_set_bytes=None, method=self.name)


def parse_pod_metrics(answer: object, own_container: str) -> PodMetrics:
    """Read a PodMetrics object, without our own container. Raises ValueError for anything else."""
    told = answer if isinstance(answer, dict) else {}
    containers = told.get("containers")
    if told.get("kind") != "PodMetrics" or not isinstance(containers, list):
        raise ValueError("the answer is no PodMetrics")
    moment_s = moment_of(told.get("timestamp"))
    if moment_s is None:
        raise ValueError(f"timestamp {shown(str(told.get('timestamp'))[:100])} is no time")
    if len(containers) > CONTAINERS_MAX:
        raise ValueError(f"{len(containers)} containers in one pod")
    usages = [
        _usage(container)
        for container in containers
        if not isinstance(container, dict) or container.get("name") != own_container
    ]
    if not usages:
        raise ValueError("it has no container of the pod but our own yet")
    cpus = sum(usage[0] for usage in usages)
    size_bytes = sum(usage[1] for usage in usages)
    if cpus > CPUS_MAX or size_bytes > _BYTES_MAX:
        raise ValueError(f"{cpus:g} CPUs and {size_bytes:g} bytes are more than any node has")
    return PodMetrics(moment_s, parse_duration_s(told.get("window")), cpus, int(size_bytes))


def parse_duration_s(text: object) -> float:
    """Read a Go duration such as 1m15.2s. Raises ValueError."""
    if not isinstance(text, str) or not _DURATION.fullmatch(text):
        raise ValueError(f"window {shown(str(text)[:100])} is no duration such as 15.2s")
    return sum(float(number) * _SECONDS[unit] for number, unit in _DURATION_PART.findall(text))


def _usage(container: Any) -> tuple[float, float]:  # noqa: ANN401 - JSON of someone else
    """Return CPUs and bytes of one container."""
    usage = container.get("usage") if isinstance(container, dict) else None
    if not isinstance(usage, dict):
        raise ValueError("a container without usage")
    return _quantity(usage, "cpu"), _quantity(usage, "memory")


def _quantity(usage: Mapping[str, Any], name: str) -> float:
    text = usage.get(name)
    if not isinstance(text, str) or len(text) > QUANTITY_CHARACTERS_MAX:
        raise ValueError(f"a container's {name} is {shown(str(text)[:100])}, no quantity")
    try:
        return parse_quantity(text)
    except ValueError as error:
        raise ValueError(f"a container's {name}: {one_line(str(error))}") from error
