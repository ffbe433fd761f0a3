"""Which part of each GPU a pod holds, by the ids of the devices that kubelet gave to it. Pure.

NVIDIA's device plugin names a whole board `GPU-…`, an instance of one `MIG-…`, and one of the replicas
of either, where they are shared by time-slicing or MPS, `…::n` (k8s-device-plugin, internal/rm,
AnnotatedID).
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, NamedTuple

from sidecar.node_meter.pod_resources import PodDevices, PodName

ROUNDING: Final = 1e-9
"""Seven sevenths are the whole board, whatever floats make of them."""

Shares = Mapping[PodName, float]
"""What part (0..1) of a device each pod holds; over all pods never more than 1."""


class Holdings(NamedTuple):
    """Who holds what of each board, by its UUID; and pods that hold something nobody can place.

    `unplaced_slices` have MIG devices of some board, `unplaced` anything of any board.
    """

    shares: dict[str, Shares]
    unplaced_slices: frozenset[PodName]
    unplaced: frozenset[PodName]


class MigPart(NamedTuple):
    """The board of a MIG device, and which part (0..1) of its compute slices it has: g/G."""

    board: str
    part: float


def holdings(
    pods: Sequence[PodDevices],
    allocatable: Iterable[str],
    mig_part: Callable[[str], MigPart | None],
) -> Holdings:
    """Return the shares of each board by its UUID.

    A replica holds 1/N of its device; N are those that can be allocated, or those that are held where
    nobody tells. A board that is held more than once over is shared in proportion.
    """
    replicas = _replicas(pods, allocatable)
    held: dict[str, dict[PodName, float]] = {}
    unplaced_slices: set[PodName] = set()
    for pod in pods:
        for device_id in pod.device_ids:
            name, is_replica, _ = device_id.partition("::")
            part = 1.0 / replicas[name] if is_replica else 1.0
            board = name
            if name.startswith("MIG-"):
                found = mig_part(name)
                if found is None:
                    unplaced_slices.add(pod.pod)
                    continue
                board, part = found.board, part * found.part
            elif not name.startswith("GPU-"):
                continue
            shares = held.setdefault(board, {})
            shares[pod.pod] = shares.get(pod.pod, 0.0) + part
    return Holdings(
        {board: _at_most_all(shares) for board, shares in held.items()},
        frozenset(unplaced_slices),
        frozenset(pod.pod for pod in pods if pod.claims_gpus),
    )


def is_held_whole(shares: Shares) -> bool:
    """Whether nothing of the device is left for anybody else."""
    return sum(shares.values()) >= 1.0 - ROUNDING


def _replicas(pods: Iterable[PodDevices], allocatable: Iterable[str]) -> Counter[str]:
    """Count the replicas of each device: all that there are or that are held."""
    ids = {*allocatable, *(name for pod in pods for name in pod.device_ids)}
    return Counter(name.partition("::")[0] for name in ids if "::" in name)


def _at_most_all(shares: Mapping[PodName, float]) -> Shares:
    if not is_held_whole(shares):
        return shares
    total = sum(shares.values())
    return {pod: share / total for pod, share in shares.items()}
