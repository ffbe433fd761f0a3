"""The pod's share by what it reserved: its Kubernetes requests, put into the environment."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Self

from sidecar.meters.reading import MeterStatus, PodMethod, PodReading
from sidecar.units import BYTES_PER_GIB

REQUESTS_CPU = "EMISSIONS_REQUESTS_CPU"
REQUESTS_MEMORY = "EMISSIONS_REQUESTS_MEMORY"
REQUESTS_GPU = "EMISSIONS_REQUESTS_GPU"

# k8s.io/apimachinery/pkg/api/resource, type Quantity: binary suffixes are powers of 1024,
# decimal ones powers of 1000; an exponent takes the place of a suffix.
_SUFFIXES = {
    "n": 1e-9,
    "u": 1e-6,
    "m": 1e-3,
    "": 1.0,
    "k": 1e3,
    "M": 1e6,
    "G": 1e9,
    "T": 1e12,
    "P": 1e15,
    "E": 1e18,
    "Ki": 1024.0,
    "Mi": 1024.0**2,
    "Gi": 1024.0**3,
    "Ti": 1024.0**4,
    "Pi": 1024.0**5,
    "Ei": 1024.0**6,
}
_QUANTITY = re.compile(
    r"\+?(?P<number>\d{1,30}(?:\.\d{0,30})?|\.\d{1,30})"
    r"(?:[eE](?P<exponent>[+-]?\d{1,3})|(?P<suffix>[KMGTPE]i|[numkMGTPE])?)",
    re.ASCII,
)


def parse_quantity(text: str) -> float:
    """Read a Kubernetes quantity: `500m` = 0.5, `2`, `1.5`, `64Gi` = 64 · 1024³, `1e3`.

    Raises:
        ValueError: it is empty, negative, not finite, or no quantity.

    """
    match = _QUANTITY.fullmatch(text.strip())
    if match is None:
        raise ValueError(
            f"{text!r} is no Kubernetes quantity of zero or more: write it like 500m, 2, 1.5, 64Gi"
        )
    if match["exponent"] is not None:
        value = float(f"{match['number']}e{match['exponent']}")
    else:
        value = float(match["number"]) * _SUFFIXES[match["suffix"] or ""]
    if not math.isfinite(value):
        raise ValueError(f"{text!r} is too large for a quantity")
    return value


@dataclass(frozen=True, slots=True)
class Reservation:
    """What the pod's containers request of the node in sum; None = not told."""

    cpus: float | None = None
    memory_gib: float | None = None
    gpus: float | None = None

    @property
    def is_known(self) -> bool:
        """Whether anything was told; zero is told, too: such a pod owns nothing."""
        return any(part is not None for part in (self.cpus, self.memory_gib, self.gpus))

    def of_shared_gpus(self, replicas: int) -> Self:
        """Return the same in whole GPUs, where the device plugin gives each to so many containers."""
        gpus = None if self.gpus is None else self.gpus / replicas
        return replace(self, gpus=gpus)

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Self:
        """Read the `EMISSIONS_REQUESTS_*` variables; an empty one counts as unset.

        Raises:
            ValueError: a value is no quantity; the message names the variable.

        """
        memory_bytes = _quantity_of(environment, REQUESTS_MEMORY)
        return cls(
            cpus=_quantity_of(environment, REQUESTS_CPU),
            memory_gib=None if memory_bytes is None else memory_bytes / BYTES_PER_GIB,
            gpus=_quantity_of(environment, REQUESTS_GPU),
        )


class RequestsSource:
    """Measures nothing: the share is the reservation over what the node has."""

    name: PodMethod = "requests"
    needs = ""
    is_local = True

    def __init__(self, reservation: Reservation) -> None:
        self.reservation = reservation

    needs_sampling = False

    def sample(self) -> None:
        """There is nothing to sample."""

    def read(self) -> PodReading:
        """Nothing of its own; the share follows from the reservation."""
        return PodReading(cpu_s=None, working_set_bytes=None, method=self.name)

    def status(self) -> tuple[MeterStatus, ...]:
        """Say what was reserved."""
        told = {
            "CPUs": self.reservation.cpus,
            "GiB of memory": self.reservation.memory_gib,
            "GPUs": self.reservation.gpus,
        }
        parts = ", ".join(f"{value:g} {unit}" for unit, value in told.items() if value is not None)
        return (MeterStatus("pod", available=True, detail=f"share by requests: {parts or 'none'}"),)


def _quantity_of(environment: Mapping[str, str], name: str) -> float | None:
    text = environment.get(name, "").strip()
    if not text:
        return None
    try:
        return parse_quantity(text)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
