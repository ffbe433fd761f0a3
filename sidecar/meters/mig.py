"""MIG: which part of a board's energy belongs to some of its instances. Pure.

NVML and DCGM know power and energy of the whole board only, never of an instance, so every split is
an estimate: idle energy by slices, the rest by slices times activity.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

USUAL_SLICES: Final = 7
"""Compute slices of a board: A100, H100, H200, B200 (NVIDIA MIG User Guide, "Supported GPUs")."""

_FEWER_SLICES: Final = (
    (re.compile(r"\bA30\b"), 4),
    (re.compile(r"\bRTX PRO 6000\b"), 4),
    (re.compile(r"\bRTX PRO (?:5000|4500)\b"), 2),
)
"""From the same table, column "Max Number of Instances": one instance is at least one slice."""

_PROFILE: Final = re.compile(r"(?:\d{1,2}c\.)?(?P<slices>\d{1,2})g\.\S{1,40}")
"""`3g.20gb`, `1g.5gb+me`; `1c.3g.20gb` is one compute slice of an instance of three."""


@dataclass(frozen=True, slots=True)
class MigInstance:
    """One instance of a board: its compute slices, and which part (0..1) of it is the pod's.

    `activity` (0..1) is the part of the time in which its graphics engine was active; None = not
    known.
    """

    slices: int
    pod_part: float
    activity: float | None = None


def board_slices(model: str) -> int:
    """Return G, the number of compute slices of a board, by the name of its product."""
    return next((count for name, count in _FEWER_SLICES if name.search(model)), USUAL_SLICES)


def profile_slices(profile: str) -> int | None:
    """Return g, the compute slices of an instance, by its profile; None for what is no profile."""
    match = _PROFILE.fullmatch(profile)
    return int(match["slices"]) if match and int(match["slices"]) > 0 else None


def held_share(instances: Sequence[MigInstance], board: int) -> float:
    """Return Σ g_p / G: the share of the board that the pod holds, used or not."""
    total = max(board, sum(instance.slices for instance in instances))
    return sum(instance.slices * instance.pod_part for instance in instances) / total


def energy_share(
    instances: Sequence[MigInstance], board: int, idle_fraction: float | None
) -> float:
    """Return the pod's share of the board's energy: i · Σg_p/G + (1 − i) · Σg_p·a_p / Σg·a.

    i = `idle_fraction` (0..1) of the energy is what the board draws for being there. Without it, or
    without the activity of every instance, or where none was active, all goes by slices.
    """
    held = held_share(instances, board)
    if idle_fraction is None:
        return held
    work = pod_work = 0.0
    for instance in instances:
        if instance.activity is None:
            return held
        work += instance.slices * instance.activity
        pod_work += instance.slices * instance.activity * instance.pod_part
    if work <= 0:
        return held
    return idle_fraction * held + (1.0 - idle_fraction) * (pod_work / work)
