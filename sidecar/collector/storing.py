"""From bytes to a committed segment: checked, its owner proven, stored under its own name."""

import logging
from dataclasses import dataclass, replace
from typing import Final, Protocol

from sidecar.collector.backend import Backend
from sidecar.collector.handover import Holder, Receipts, require_holder
from sidecar.collector.limits import Limits, retry_after_s
from sidecar.collector.record_lines import RecordLines
from sidecar.collector.refusal import Refusal, shown
from sidecar.collector.segment_check import CheckedSegment, check_segment, foreign_field
from sidecar.collector.token_review import Caller
from sidecar.segment import Parcel
from sidecar.transport.delivery import Delivery, Undelivered

_log = logging.getLogger(__name__)

COME_AGAIN_S: Final = 5.0
COME_AGAIN_MAX_S: Final = 300.0
POD_RUNS_S: Final = 60.0

USUAL_CONTENT_BYTES: Final = 32 * 1024
USUAL_NDJSON_BYTES: Final = 256 * 1024
"""Nearly all segments are shorter: sidecars close them at this size, and 5 min have a third of it."""


@dataclass(frozen=True, slots=True)
class Stored:
    """A segment that is committed; not `created` where it was there already."""

    blob: str
    created: bool
    records: int
    handed_over: bool

    @property
    def outcome(self) -> str:
        """What to count it under."""
        if not self.created:
            return "existing"
        return "handed_over" if self.handed_over else "created"


@dataclass(frozen=True, slots=True)
class Checks:
    """What segments are held to. `node_meter`: a service account, NAMESPACE/NAME; None: nobody's."""

    limits: Limits
    receipts: Receipts | None = None
    node_meter: str | None = None


class Pods(Protocol):
    """Who knows which pods run."""

    def is_gone(self, namespace: str, pod: str, pod_uid: str) -> bool:
        """Whether the pod runs no more. Raises Refusal (503)."""
        ...


class Storing:
    """Stores segments; calls block, and any thread may make them."""

    def __init__(self, backend: Backend, pods: Pods, checks: Checks) -> None:
        self._backend = backend
        self._pods = pods
        self._receipts = checks.receipts
        self._limits = checks.limits
        self._usual = replace(
            checks.limits, ndjson_bytes=min(USUAL_NDJSON_BYTES, checks.limits.ndjson_bytes)
        )
        self._node_meter = checks.node_meter
        self._lines = RecordLines()
        self._takes = True

    def looked_at(self, content: bytes) -> CheckedSegment | None:
        """Return what a segment of usual size holds, within two milliseconds. Raises Refusal.

        None for a longer one, which is not to be looked at in the thread that serves all callers.
        """
        if len(content) > USUAL_CONTENT_BYTES:
            return None
        try:
            return check_segment(content, self._lines, self._usual)
        except Refusal as refusal:
            if refusal.status == 413:  # longer than it seemed
                return None
            raise

    def store(
        self,
        content: bytes,
        caller: Caller,
        receipt: str | None,
        segment: CheckedSegment | None = None,
    ) -> Stored:
        """Commit a compressed segment; on return it is stored. Raises Refusal.

        `receipt` proves whose it is where the caller's pod is another than the records'. `segment` is
        what `looked_at` returned.
        """
        segment = segment or check_segment(content, self._lines, self._limits)
        if segment.is_nodes_own:
            self._require_node_meter(caller)
        foreign = foreign_field(segment.origins, caller)
        plain = _parcel(segment, content, segment.name)
        if foreign is None:
            return self._stored(plain, handed_over=False)
        if receipt is None:
            raise Refusal(403, "foreign", f"{foreign} by the token; a pod ships its own records")
        holder = require_holder(self._receipts, receipt, caller)
        self._require_gone(segment, holder)
        return self._taken_over(plain, _parcel(segment, content, segment.handed_over_name))

    def _require_node_meter(self, caller: Caller) -> None:
        """Refuse what others say that a node used: pods could take their neighbours' figures away."""
        account = f"{caller.namespace}/{caller.service_account}"
        if account == self._node_meter:
            return
        known = f"which is {shown(self._node_meter)}"
        if self._node_meter is None:
            known = "and this collector knows none: set EMISSIONS_NODE_METER_ACCOUNT"
        raise Refusal(
            403,
            "not_node_meter",
            f"pod_method 'unallocated' is for records of the node meter alone, {known}; the caller is "
            f"{shown(account)}",
        )

    def _require_gone(self, segment: CheckedSegment, holder: Holder) -> None:
        foreign = foreign_field(segment.origins, holder)
        if foreign is not None:
            raise Refusal(403, "foreign", f"{foreign} by the receipt")
        if not self._pods.is_gone(holder.namespace, holder.pod, holder.pod_uid):
            raise Refusal(
                403,
                "pod_runs",
                f"pod {holder.pod} runs still and ships its segments itself; come again when it is "
                "gone",
                retry_after_s=retry_after_s(POD_RUNS_S),
            )

    def _taken_over(self, plain: Parcel, marked: Parcel) -> Stored:
        """Store another pod's segment under its marked name, unless it brought it itself.

        What that pod stored with its own token stands: other content under its name is a conflict.
        """
        try:
            is_there = self._backend.exists(plain.blob_name)
        except Undelivered as reason:
            raise self._come_again(reason) from reason
        if is_there:
            return self._stored(plain, handed_over=False)
        return self._stored(marked, handed_over=True)

    def _stored(self, parcel: Parcel, *, handed_over: bool) -> Stored:
        delivery = self._delivered(parcel)
        return Stored(parcel.blob_name, delivery == "created", parcel.records, handed_over)

    def _delivered(self, parcel: Parcel) -> Delivery:
        try:
            delivery = self._backend.deliver(parcel, self._limits.store_s)
        except Undelivered as reason:
            if not reason.refused:
                raise self._come_again(reason) from reason
            _log.warning("%s is refused: %s", parcel.blob_name, reason)
            raise Refusal(409, "conflict", str(reason)) from reason
        if not self._takes:
            self._takes = True
            _log.info("%s takes segments again", self._backend.destination)
        return delivery

    def _come_again(self, reason: Undelivered) -> Refusal:
        if self._takes:  # told once, not for each of thousands of segments
            self._takes = False
            _log.warning("%s takes no segments: %s", self._backend.destination, reason)
        least_s = min(reason.retry_after_s or COME_AGAIN_S, COME_AGAIN_MAX_S)
        return Refusal(503, "storage", str(reason), retry_after_s=retry_after_s(least_s))


def _parcel(segment: CheckedSegment, content: bytes, name: str) -> Parcel:
    return Parcel(name, content, segment.sha256, segment.records)
