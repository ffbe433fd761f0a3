"""What the containers of a pod request in sum, exactly, as Kubernetes adds it up.

Counted are the containers and the native sidecars, which run at the same time. A container without
a request counts by its limit, as Kubernetes defaults it.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Final

from sidecar.identity.bounded import shown
from sidecar.injector.pod_shape import JsonObject, is_native_sidecar, object_at, objects_at
from sidecar.meters.pod.requests import REQUESTS_CPU, REQUESTS_GPU, REQUESTS_MEMORY

GPU_RESOURCE: Final = "nvidia.com/gpu"

REQUEST_VARIABLES: Final = (REQUESTS_CPU, REQUESTS_MEMORY, REQUESTS_GPU)

_QUANTITY: Final = re.compile(
    r"\+?(?P<number>\d{1,30}(?:\.\d{0,30})?|\.\d{1,30})"
    r"(?:[eE](?P<exponent>[+-]?\d{1,3})|(?P<suffix>[KMGTPE]i|[numkMGTPE])?)",
    re.ASCII,
)
_POWERS_OF_1000: Final = {
    "n": -3, "u": -2, "m": -1, "": 0, "k": 1, "M": 2, "G": 3, "T": 4, "P": 5, "E": 6,
}  # fmt: skip
_POWERS_OF_1024: Final = {"Ki": 1, "Mi": 2, "Gi": 3, "Ti": 4, "Pi": 5, "Ei": 6}
_MAX: Final = Fraction(2**63 - 1)
"""Kubernetes cuts a quantity off here."""


@dataclass(frozen=True, slots=True)
class PodRequests:
    """The sums, and what could not be read and counts as nothing."""

    cpu_millicores: int
    memory_bytes: int
    gpus: int
    problems: tuple[str, ...] = ()

    def variables(self) -> dict[str, str]:
        """Return the environment variables that tell the sidecar."""
        values = (f"{self.cpu_millicores}m", str(self.memory_bytes), str(self.gpus))
        return dict(zip(REQUEST_VARIABLES, values, strict=True))


def pod_requests(spec: JsonObject) -> PodRequests:
    """Add up the requests of a pod's spec."""
    sidecars = filter(is_native_sidecar, objects_at(spec, "initContainers"))
    reader = _Reader()
    for container in (*sidecars, *objects_at(spec, "containers")):
        reader.add(container)
    cpu, memory, gpus = (min(total, int(_MAX)) for total in reader.totals.values())
    return PodRequests(cpu, memory, gpus, tuple(reader.problems))


def exact_quantity(text: str) -> Fraction:
    """Read a Kubernetes quantity exactly: `500m` = 1/2, `1.5Gi` = 1610612736, `1e3` = 1000.

    Raises:
        ValueError: it is negative, or no quantity.

    """
    match = _QUANTITY.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{shown(text)} is no Kubernetes quantity of zero or more")
    number, suffix = Fraction(f"0{match['number']}"), match["suffix"] or ""
    if match["exponent"] is not None:
        factor = Fraction(10) ** int(match["exponent"])
    elif suffix in _POWERS_OF_1024:
        factor = Fraction(1024) ** _POWERS_OF_1024[suffix]
    else:
        factor = Fraction(1000) ** _POWERS_OF_1000[suffix]
    return min(number * factor, _MAX)


class _Reader:
    """Adds up container by container; each amount is rounded up, as Kubernetes rounds it."""

    def __init__(self) -> None:
        self.totals = {"cpu": 0, "memory": 0, GPU_RESOURCE: 0}
        self.problems: list[str] = []

    def add(self, container: JsonObject) -> None:
        resources = object_at(container, "resources")
        requests, limits = object_at(resources, "requests"), object_at(resources, "limits")
        for name, unit in (("cpu", Fraction(1, 1000)), ("memory", Fraction(1))):
            source = limits if requests.get(name) is None else requests
            self.totals[name] += math.ceil(self._amount(source, name) / unit)
        gpus = (self._amount(part, GPU_RESOURCE) for part in (requests, limits))
        self.totals[GPU_RESOURCE] += math.ceil(max(gpus))

    def _amount(self, amounts: Mapping[str, Any], name: str) -> Fraction:
        value = amounts.get(name)
        if value is None:
            return Fraction(0)
        try:
            if isinstance(value, bool) or not isinstance(value, str | int | float):
                raise ValueError(f"{type(value).__name__} is no Kubernetes quantity")
            return exact_quantity(str(value))
        except ValueError as error:
            self.problems.append(f"a container's {name} counts as 0: {error}")
            return Fraction(0)
