"""What became of each node's energy: its pods' part, what settling took off, and what nobody used."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Self

from sidecar.amounts import counted, energy, mass
from sidecar.identity.bounded import shown
from sidecar.report.settle import COMPONENTS, Stretch
from sidecar.windows import rfc3339

NODES_SHOWN: Final = 20
"""Nodes named in a report, those with most taken off first; the sums are of all."""

NOTEWORTHY: Final = 1e-3
"""Part of the claims from which on taking off is worth a word: readings of one node at nearly one
time differ by some ticks."""


@dataclass(slots=True)
class Balance:
    """Energies of one node, or of several, kWh: node = pods + untracked + unallocated.

    `claimed` is what the records of pods say, `pods` what they keep of it. `untracked` is what pods
    without records used, where a node meter tells it; elsewhere it is inside `unallocated`.
    """

    node: str = ""
    start_s: float = math.inf
    end_s: float = -math.inf
    node_energy_kwh: float = 0.0
    claimed_energy_kwh: float = 0.0
    pods_energy_kwh: float = 0.0
    untracked_energy_kwh: float = 0.0
    unallocated_energy_kwh: dict[str, float] = field(
        default_factory=lambda: dict.fromkeys(COMPONENTS, 0.0)
    )
    unallocated_emissions_g: float | None = None

    @property
    def taken_off_kwh(self) -> float:
        """Return what the pods claimed too much."""
        return max(0.0, self.claimed_energy_kwh - self.pods_energy_kwh)

    @property
    def is_noteworthy(self) -> bool:
        """Whether more was taken off than late ticks explain."""
        return self.taken_off_kwh > NOTEWORTHY * self.claimed_energy_kwh

    def add_stretch(self, stretch: Stretch, grams_per_kwh: float | None) -> None:
        """Add a settled stretch of the node's time; with the factor of its records, also emissions."""
        self.start_s = min(self.start_s, stretch.start_s)
        self.end_s = max(self.end_s, stretch.end_s)
        rest_kwh = 0.0
        for name, balance in zip(COMPONENTS, stretch.balances, strict=True):
            self.node_energy_kwh += balance.node
            self.claimed_energy_kwh += balance.claimed
            self.pods_energy_kwh += balance.pods
            self.untracked_energy_kwh += balance.untracked
            self.unallocated_energy_kwh[name] += balance.unallocated
            rest_kwh += balance.unallocated
        if grams_per_kwh is not None:
            self.unallocated_emissions_g = (
                self.unallocated_emissions_g or 0.0
            ) + rest_kwh * grams_per_kwh

    @classmethod
    def of_all(cls, nodes: Iterable[Self]) -> Self:
        """Return the sums over nodes."""
        total = cls()
        for item in nodes:
            total.start_s = min(total.start_s, item.start_s)
            total.end_s = max(total.end_s, item.end_s)
            total.node_energy_kwh += item.node_energy_kwh
            total.claimed_energy_kwh += item.claimed_energy_kwh
            total.pods_energy_kwh += item.pods_energy_kwh
            total.untracked_energy_kwh += item.untracked_energy_kwh
            for name, kwh in item.unallocated_energy_kwh.items():
                total.unallocated_energy_kwh[name] += kwh
            if item.unallocated_emissions_g is not None:
                total.unallocated_emissions_g = (
                    total.unallocated_emissions_g or 0.0
                ) + item.unallocated_emissions_g
        return total

    def to_row(self) -> dict[str, Any]:
        """Return it as JSON types."""
        row: dict[str, Any] = {"node": self.node} if self.node else {}
        if self.start_s <= self.end_s:
            row["window_start"], row["window_end"] = rfc3339(self.start_s), rfc3339(self.end_s)
        return row | {
            "node_energy_kwh": self.node_energy_kwh,
            "pods_energy_kwh": self.pods_energy_kwh,
            "energy_taken_off_kwh": self.taken_off_kwh,
            "untracked_energy_kwh": self.untracked_energy_kwh,
            "unallocated_energy_kwh": sum(self.unallocated_energy_kwh.values()),
            **{
                f"unallocated_{name}_energy_kwh": kwh
                for name, kwh in self.unallocated_energy_kwh.items()
            },
            "unallocated_emissions_g": self.unallocated_emissions_g,
        }


def balance_mapping(nodes: Sequence[Balance]) -> dict[str, Any]:
    """Return the balance of all nodes, and those by name that settling took much off from."""
    settled = _most_settled(nodes)
    return {
        "nodes": len(nodes),
        **Balance.of_all(nodes).to_row(),
        "settled_nodes": len(settled),
        "most_settled": [item.to_row() for item in settled[:NODES_SHOWN]],
    }


def balance_lines(nodes: Sequence[Balance]) -> Iterator[str]:
    """Say the same to people."""
    if not nodes:
        return
    settled = _most_settled(nodes)
    if settled:
        names = [
            f"{shown(item.node)} {energy(item.taken_off_kwh)}" for item in settled[:NODES_SHOWN]
        ]
        more = f" and {len(settled) - NODES_SHOWN} more" if len(settled) > NODES_SHOWN else ""
        yield (
            f"settled nodes, whose pods claimed more than they had: {', '.join(names)}{more}; "
            "give all their pods one attribution method"
        )
    total = Balance.of_all(nodes)
    if total.untracked_energy_kwh > 0:
        untracked = energy(total.untracked_energy_kwh)
        yield f"pods without records: {untracked}, as the node meter counts them"
    parts = total.unallocated_energy_kwh
    yield (
        f"unallocated, used by no pod with records: {energy(sum(parts.values()))} of "
        f"{energy(total.node_energy_kwh)} of {counted(len(nodes), 'node')} ("
        + ", ".join(f"{name.upper()} {energy(kwh)}" for name, kwh in parts.items())
        + f"), {mass(total.unallocated_emissions_g)} CO2e"
    )


def _most_settled(nodes: Iterable[Balance]) -> list[Balance]:
    settled = (item for item in nodes if item.is_noteworthy)
    return sorted(settled, key=lambda item: (-item.taken_off_kwh, item.node))
