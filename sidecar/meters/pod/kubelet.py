"""The pod's share as the node's kubelet tells it: `/stats/summary`, asked without a detour.

Access is "get" on nodes/stats (Kubernetes documentation, "Kubelet authentication/authorization"),
which shows numbers of all pods of the node and allows nothing else. Never nodes/proxy, nor through
the API server: that would allow to run commands in any pod.
"""

import logging
import math
import time
from collections.abc import Callable, Iterator
from typing import Final

from sidecar.identity.bounded import shown
from sidecar.kubernetes_http import KubernetesHttp, KubernetesHttpError
from sidecar.meters.condition import Condition
from sidecar.meters.pod.kubelet_summary import (
    CONTAINERS_MAX,
    ContainerStats,
    PodStats,
    Summary,
    pod_in_summary,
)
from sidecar.meters.pod.sampled_counter import Lag, Sample, SampledCounter
from sidecar.meters.reading import MeterStatus, PodMethod, PodReading

log = logging.getLogger(__name__)

OWN_CONTAINER: Final = "emissions-sidecar"

SHORT_PATH: Final = "/stats/summary?only_cpu_and_memory=true"
WHOLE_PATH: Final = "/stats/summary"
"""With the feature gate PodAndContainerStatsFromCRI the short form lists no containers."""

DEADLINE_S: Final = 1.0
SUMMARY_BYTES_MAX: Final = 8 * 1024 * 1024

LAGS_S: Final = (30.0, 60.0)
"""cAdvisor in kubelet looks each 10 to 15 s (`HousekeepingInterval`, `MaxHousekeepingInterval`), times
a random 1 to 2 (`jitter` in its manager/container.go): 30 s at most, unless it is overloaded."""

RUNS_MAX: Final = 4 * CONTAINERS_MAX
"""Runs of containers kept apart; what older ones used stays in the sum."""

_NO_TRUST: Final = (
    "; an AKS node pool without kubelet serving certificate rotation has a self-signed certificate: "
    "turn the rotation on, or choose another EMISSIONS_ATTRIBUTION"
)


class _UntoldError(Exception):
    """kubelet answers, but not about this pod."""


class ContainerTally:
    """Adds up runs of containers so that nothing falls or doubles.

    A run is a name and a start time: a container that restarts begins anew, and one that is gone
    keeps what it used. Each run has the highest value it was seen with.
    """

    def __init__(self) -> None:
        self._runs: dict[tuple[str, str], SampledCounter] = {}
        self._dropped_s = 0.0

    def add(self, container: ContainerStats) -> None:
        """Take what a container has used; without CPU time there is nothing to take."""
        if container.cpu is None:
            return
        key = (container.name, container.started)
        run = self._runs.pop(key, None) or SampledCounter(_begin(container))
        run.add(container.cpu)
        self._runs[key] = run  # the last ones seen are the last ones dropped
        if len(self._runs) > RUNS_MAX:
            self._dropped_s += self._runs.pop(next(iter(self._runs))).value

    def at(self, moment_s: float) -> float:
        """Return the CPU seconds of all runs as of this moment."""
        return self._dropped_s + sum(run.at(moment_s) for run in self._runs.values())

    @property
    def latest_s(self) -> float:
        """The CPU seconds of all runs as last seen."""
        return self._dropped_s + sum(run.value for run in self._runs.values())


class KubeletSource:
    """CPU time and working set of the pod's containers but our own, from the node's kubelet.

    The CPU time is as of 30 s ago, between two looks of kubelet's (`sampled_counter`): that much of the
    end of a pod is not seen. It never exceeds what the pod's own cgroup counted.

    `clock` is the wall clock, in seconds: kubelet's numbers carry their times, by the same clock.
    """

    name: PodMethod = "kubelet"
    needs = (
        'chart value attribution.kubelet: a ClusterRole with "get" on nodes/stats for the pod\'s '
        "service account, and its token mounted"
    )
    is_local = False
    needs_sampling = False

    def __init__(
        self,
        http: KubernetesHttp,
        pod_uid: str,
        own_container: str = OWN_CONTAINER,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._http = http
        self._pod_uid = pod_uid
        self._own_container = own_container
        self._clock = clock
        self._path = SHORT_PATH
        self._condition = Condition("pod", log)
        self._containers = ContainerTally()
        self._ourselves = ContainerTally()
        self._pod_cpu: Sample | None = None
        self._pod_cpu_falls = False
        self._lag = Lag(LAGS_S)
        self._told_s = 0.0

    def sample(self) -> None:
        """There is nothing to sample: kubelet's counters are cumulative."""

    def read(self) -> PodReading:
        """Ask kubelet; takes at most about a second. CPU seconds never fall."""
        try:
            pod = self._asked()
        except KubernetesHttpError as error:
            advice = _NO_TRUST if error.trouble == "tls" else ""
            return self._unknown(f"{error}{advice}")
        except _UntoldError as error:
            return self._unknown(str(error))
        self._take(pod)
        self._condition.works(f"kubelet {self._http.url}")
        return PodReading(
            cpu_s=self._told_s,
            working_set_bytes=self._working_set_bytes(pod),
            method=self.name,
            age_s=self._lag.seconds,
        )

    def status(self) -> tuple[MeterStatus, ...]:
        """How the last reading went."""
        return (self._condition.status,)

    def _asked(self) -> PodStats:
        summary = self._http.get(self._path, self._find, DEADLINE_S, SUMMARY_BYTES_MAX)
        if summary.pod is None:
            raise _UntoldError(
                f"kubelet {self._http.url} lists {summary.pods} pods, but not {shown(self._pod_uid)}: "
                "a new pod comes within 15 s; else check that POD_UID and HOST_IP are from the "
                "downward API"
            )
        told = [container for container in summary.pod.containers if container.cpu is not None]
        if not told:
            if not summary.pod.containers:
                self._path = WHOLE_PATH
            raise _UntoldError(
                f"kubelet {self._http.url} tells no CPU time of this pod's containers yet; it is "
                "asked again"
            )
        return summary.pod

    def _find(self, pieces: Iterator[bytes]) -> Summary:
        return pod_in_summary(pieces, self._pod_uid)

    def _take(self, pod: PodStats) -> None:
        now_s = self._clock()
        for container in pod.containers:
            if container.name == self._own_container:
                self._ourselves.add(container)
                continue
            self._containers.add(container)
            if container.cpu is not None:
                self._lag.see(now_s - container.cpu.moment_s)
        self._take_pod_cpu(pod.cpu)
        used_s = min(self._containers.at(now_s - self._lag.seconds), self._most_s)
        self._told_s = max(self._told_s, used_s)

    def _take_pod_cpu(self, cpu: Sample | None) -> None:
        """Keep what the pod's cgroup counted; an older answer is not news.

        A later value that is lower is no cgroup's: kubelet then adds up the containers that there are.
        """
        last = self._pod_cpu
        if cpu is None:
            return
        if last is None or cpu.value >= last.value:
            self._pod_cpu = cpu
        elif cpu.moment_s > last.moment_s:
            self._pod_cpu_falls = True

    @property
    def _most_s(self) -> float:
        """What the pod's cgroup counted without us: no sum of containers is more."""
        if self._pod_cpu is None or self._pod_cpu_falls:
            return math.inf
        return max(0.0, self._pod_cpu.value - self._ourselves.latest_s)

    def _working_set_bytes(self, pod: PodStats) -> int | None:
        sizes = [
            container.working_set_bytes
            for container in pod.containers
            if container.name != self._own_container and container.working_set_bytes is not None
        ]
        return sum(sizes) if sizes else None

    def _unknown(self, detail: str) -> PodReading:
        self._condition.missing(detail)
        return PodReading(cpu_s=None, working_set_bytes=None, method=self.name)


def _begin(container: ContainerStats) -> Sample | None:
    """Return where a run began: with nothing used."""
    started_s = container.started_s
    if started_s is None or container.cpu is None or started_s >= container.cpu.moment_s:
        return None
    return Sample(started_s, 0.0)
