"""What the node meter answers over HTTP: to each pod its own counters, and to probes how it does.

`GET /v1/pod` with the pod's projected token; `/healthz`, `/readyz`, `/metrics` for anybody. A reading is
as of the moment of the request, so that a sidecar's windows end where it says they do.
"""

import json
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, Final

from sidecar.exporters.prometheus import Sample, prometheus_text
from sidecar.identity.bounded import shown
from sidecar.meters.reading import GpuReading
from sidecar.node_meter.callers import Caller, Callers
from sidecar.node_meter.gpus import NodeGpus
from sidecar.node_meter.looks import Looks
from sidecar.node_meter.metrics import gpu_samples, pods_samples, service_samples
from sidecar.node_meter.pod_resources import PodName
from sidecar.node_meter.pods import NodePods, PodUse
from sidecar.node_meter.refusal import JSON, Refusal
from sidecar.status import Answer, Asked, Bounds

POD_PATH: Final = "/v1/pod"

BOUNDS: Final = Bounds(connections=128, request_s=2.0, spared_s=1.0)
"""The windows of all pods end at the same moments; a request is not ended while its sidecar still waits,
which is for 1 s."""

NAMES_MAX: Final = 1024

_TEXT: Final = "text/plain; charset=utf-8"


class PodNames:
    """Which uid the pods have that have called, by their names: kubelet's list has no uids."""

    def __init__(self, is_there: Callable[[str], bool]) -> None:
        self._is_there = is_there
        self._uids: dict[PodName, str] = {}
        self._lock = threading.Lock()

    def note(self, name: PodName, uid: str) -> None:
        """Take note of a pod that runs; those that have ended make room."""
        with self._lock:
            self._uids[name] = uid
            if len(self._uids) > NAMES_MAX:
                there = {n: u for n, u in self._uids.items() if self._is_there(u)}
                self._uids = there if len(there) <= NAMES_MAX else {name: uid}

    def keep(self, listed: Collection[PodName]) -> None:
        """Forget pods that kubelet does not list any more: their names are free for others.

        Of a StatefulSet's next pod of the same name nothing is known until it calls.
        """
        with self._lock:
            self._uids = {name: uid for name, uid in self._uids.items() if name in listed}

    def has_ended(self, name: PodName) -> bool:
        """Whether this pod has run here and does no more."""
        uid = self._uids.get(name)
        return uid is not None and not self._is_there(uid)


class NodeMeterService:
    """Answers requests; `answer` is called from many threads."""

    def __init__(
        self, callers: Callers, pods: NodePods, gpus: NodeGpus, looks: Looks, names: PodNames
    ) -> None:
        self._callers = callers
        self._pods = pods
        self._gpus = gpus
        self._looks = looks
        self._names = names
        self._lock = threading.Lock()
        self._outcomes: Counter[str] = Counter({"answered": 0})
        self.own_samples: Callable[[], Iterable[Sample]] = tuple
        """What the node's own records tell, and what became of them."""
        self.node: str | None = None
        self.boot = uuid.uuid4().hex[:12]

    def answer(self, asked: Asked) -> Answer:
        """Answer one request."""
        if asked.method not in ("GET", "HEAD"):
            return Answer(405, b"GET is wanted\n", allow="GET, HEAD")
        if asked.path == POD_PATH:
            return self._pod(asked.authorization)
        if asked.path == "/healthz":
            return Answer(503, b"no looks any more\n") if self._looks.are_late else _ok()
        if asked.path == "/readyz":
            status = self._pods.status()
            return _ok() if status.available else Answer(503, status.detail.encode() + b"\n")
        if asked.path == "/metrics":
            return Answer(200, *self._metrics())
        return Answer(404, b"there are /v1/pod, /healthz, /readyz and /metrics\n")

    def _pod(self, authorization: str | None) -> Answer:
        try:
            answer = self._granted(self._callers.caller(authorization))
            outcome = "answered"
        except Refusal as refusal:
            answer, outcome = refusal.answer(), refusal.code
        with self._lock:
            self._outcomes[outcome] += 1
        return answer

    def _granted(self, caller: Caller) -> Answer:
        """Return what the caller's pod used. Raises Refusal."""
        if caller.node is not None and self.node is not None and caller.node != self.node:
            raise Refusal(
                403,
                "other_node",
                f"this is node {shown(self.node)}, the pod is on {shown(caller.node)}; the Service of "
                "the node meter needs internalTrafficPolicy: Local",
            )
        use = self._pods.read(caller.pod_uid)
        if use is None:
            problem = self._pods.status()
            if not problem.available:
                raise Refusal(503, "no_cgroups", problem.detail)
            raise Refusal(
                404,
                "pod_not_here",
                f"pod {shown(caller.pod_uid)} has no cgroup on this node; the Service of the node "
                "meter needs internalTrafficPolicy: Local",
            )
        name = PodName(caller.namespace, caller.pod)
        self._names.note(name, caller.pod_uid)
        document = self._document(caller, use, self._gpus.of(name))
        return Answer(200, json.dumps(document, allow_nan=False).encode(), JSON)

    def _document(
        self, caller: Caller, use: PodUse, gpus: tuple[GpuReading, ...]
    ) -> Mapping[str, Any]:
        return {
            "node": self.node,
            "pod_uid": caller.pod_uid,
            "boot": self.boot,
            "at_s": time.time(),
            "cpu_s": use.cpu_s,
            "working_set_bytes": use.working_set_bytes,
            "memory_byte_s": use.memory_byte_s,
            "gpus": [_gpu(reading) for reading in gpus],
        }

    def _metrics(self) -> tuple[bytes, str]:
        with self._lock:
            outcomes = dict(self._outcomes)
        return prometheus_text(
            (
                *self.own_samples(),
                *pods_samples(self._pods.total()),
                *service_samples((self._looks.count, self._looks.last_look_s), outcomes),
                *gpu_samples(self._gpus.unallocated()),
            )
        )


def _ok() -> Answer:
    return Answer(200, b"ok\n", _TEXT)


def _gpu(reading: GpuReading) -> Mapping[str, Any]:
    names = (
        "uuid", "model", "energy_mj", "pod_energy_mj", "pod_share", "share_method", "energy_source",
        "utilization_s", "observed_s", "metered_s", "power_limit_w", "mig", "virtual", "notes",
    )  # fmt: skip
    return {name: getattr(reading, name) for name in names}
