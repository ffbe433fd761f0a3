"""What a source that asks kubelet or the metrics API tells, and the wall clock that it tells it by."""

from dataclasses import dataclass
from datetime import UTC, datetime

from sidecar.meters.pod.source import PodSource
from tests.fakes.kubelet import TOKEN

EPOCH_S = datetime(2026, 11, 22, 11, tzinfo=UTC).timestamp()


@dataclass
class Clock:
    """The wall clock, in seconds after 11:00."""

    now_s: float = 0.0

    def __call__(self) -> float:
        return EPOCH_S + self.now_s


def used_s(source: PodSource) -> float:
    cpu_s = source.read().cpu_s
    assert cpu_s is not None, detail(source)
    return cpu_s


def detail(source: PodSource) -> str:
    (status,) = source.status()
    assert status.detail.isprintable()
    assert TOKEN not in status.detail
    return status.detail


def untold(source: PodSource) -> str:
    reading = source.read()
    assert (reading.cpu_s, reading.working_set_bytes) == (None, None)
    assert not source.status()[0].available
    return detail(source)
