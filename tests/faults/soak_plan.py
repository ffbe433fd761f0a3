"""What happens in a soak, and when: drawn at random from a seed, so that a failure can be had again."""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

HOUR_S: Final = 3600.0
QUIET_S: Final = 200.0
"""Of the soak's clock, before the first fault: sidecars reach their size."""

POD_FAULTS: Final[dict[str, float]] = {
    "kill": 1.0,
    "terminate_and_kill": 0.4,
    "restart": 0.4,
    "replace": 0.5,
    "announce": 0.3,
    "step_clock": 0.8,
    "suspend": 0.3,
    "fill": 0.8,
    "start_read_only": 0.3,
    "cut": 0.3,
    "remove": 0.3,
    "unmount": 0.1,
    "expire_token": 0.4,
    "lose_token": 0.3,
}
"""Faults of one pod, its machine or its volume, and how often each comes for a pod in two hours."""

STEPS_S: Final = (-HOUR_S, -90.0, -2.0, -0.9, 0.9, 90.0, 24 * HOUR_S)
NETWORK_FAULTS: Final = (
    "refuse", "black_hole", "drop_answer", "cut_request", "slow", "drip_answer", "busy", "broken",
)  # fmt: skip
API_FAULTS: Final = ("error", "forbidden", "hang", "garbage", "no-status")
ATTACKS: Final = (
    "bomb", "foreign_records", "climbing_project", "no_token", "invented_token", "garbage",
)  # fmt: skip


@dataclass(frozen=True, order=True)
class Event:
    """A fault at a moment of the soak's clock; `lasts_s` until it is over, where it ends."""

    at_s: float
    what: str
    whom: str
    lasts_s: float = 0.0
    how: Any = None

    def __str__(self) -> str:
        lasts = f" for {self.lasts_s:.0f} s" if self.lasts_s else ""
        how = "" if self.how is None else f" ({self.how})"
        return f"{self.at_s:8.1f} s  {self.whom}: {self.what}{how}{lasts}"


@dataclass(frozen=True)
class Plan:
    """How large a soak is, how fast its clock runs, and how many times the usual faults there are."""

    seed: int
    hours: float
    pods: int
    speed: float
    times: float = 1.0

    @property
    def end_s(self) -> float:
        """When no more faults begin; what lasts longer is over then, too."""
        return self.hours * HOUR_S

    def events(self) -> list[Event]:
        """All that happens, in order."""
        dice = random.Random(self.seed)
        return sorted(
            event for event in self._drawn(dice) if QUIET_S <= event.at_s < self.end_s - QUIET_S
        )

    def _drawn(self, dice: random.Random) -> Iterator[Event]:
        for number in range(self.pods):
            for what, times in POD_FAULTS.items():
                for at_s in self._moments(dice, 2 * HOUR_S / times / self.times):
                    lasts_s, how = _of_pod(dice, what)
                    yield Event(at_s, what, f"pod {number}", lasts_s, how)
        yield from self._of_network(dice)
        for number in (0, 1):
            for at_s in self._moments(dice, 900 / self.times):
                yield Event(at_s, "kill", f"collector {number}", dice.uniform(1, 600))
        for at_s in self._moments(dice, 300 / self.times):
            yield Event(at_s, dice.choice(ATTACKS), "attacker")

    def _of_network(self, dice: random.Random) -> Iterator[Event]:
        """One fault of a way after the other: of each there is one at a time."""
        for way in ("front 0", "front 1", "storage"):
            at_s = QUIET_S
            while at_s < self.end_s:
                at_s += dice.expovariate(self.times / 900)
                fault, lasts_s = dice.choice(NETWORK_FAULTS), _duration_s(dice)
                yield Event(at_s, fault, way, lasts_s, _how(dice, fault))
                at_s += lasts_s
        at_s = QUIET_S
        while at_s < self.end_s:
            at_s += dice.expovariate(self.times / 1200)
            lasts_s = dice.uniform(20, 400)
            yield Event(at_s, dice.choice(API_FAULTS), "api", lasts_s)
            at_s += lasts_s

    def _moments(self, dice: random.Random, every_s: float) -> Iterator[float]:
        at_s = dice.expovariate(1 / every_s)
        while at_s < self.end_s:
            yield at_s
            at_s += dice.expovariate(1 / every_s)


def _of_pod(dice: random.Random, what: str) -> tuple[float, Any]:
    """How long a fault of a pod lasts, or until it is started again; and how it is."""
    lasts_s, how = 0.0, None
    match what:
        case "step_clock":
            how = dice.choice(STEPS_S)
        case "suspend":
            how = round(dice.uniform(60, 12 * HOUR_S))
        case "fill":
            lasts_s, how = _duration_s(dice), dice.choice((0, 0, 4096, 8192))
        case "replace":
            lasts_s, how = dice.uniform(1, 200), dice.choice(("killed", "ended"))
        case "start_read_only" | "expire_token" | "lose_token":
            lasts_s = _duration_s(dice)
        case "kill" | "restart" | "terminate_and_kill":
            lasts_s = dice.choice((1.0, 1.0, dice.uniform(1, 400)))
    return lasts_s, how


def _duration_s(dice: random.Random) -> float:
    """Mostly short; an outage of half an hour is among them."""
    return dice.choice((dice.uniform(5, 60), dice.uniform(60, 600), dice.uniform(600, 1800)))


def _how(dice: random.Random, fault: str) -> int | None:
    match fault:
        case "cut_request":
            return dice.randint(1, 4000)
        case "slow":
            return dice.choice((2_000, 10_000, 50_000))
        case "drip_answer":
            return dice.choice((50, 1_000))
        case "busy":
            return dice.randint(1, 120)
    return None
