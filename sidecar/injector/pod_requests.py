"""What the scheduler keeps for a pod, exactly, as Kubernetes works it out.

Kubernetes documentation, "Init Containers", "Resource sharing within containers": the larger of what
containers and native sidecars request together, and of what any init container requests with the native
sidecars before it. A container without a request counts by its limit, as Kubernetes defaults it. Pods
with resources of their own (pod-level) are never injected.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Final

from sidecar.identity.bounded import shown
from sidecar.injector.pod_shape import JsonObject, is_native_sidecar, object_at, objects_at
from sidecar.meters.pod.requests import REQUESTS_CPU, REQUESTS_GPU, REQUESTS_MEMORY

GPU_VENDORS: Final = frozenset({"nvidia.com", "amd.com", "gpu.intel.com"})
WHOLE_GPUS: Final = frozenset({"nvidia.com/gpu", "nvidia.com/gpu.shared", "amd.com/gpu"})
"""Extended resources of device plugins; `gpu.shared` counts replicas, as `gpu` does where GPUs are
shared under that name (k8s-device-plugin, README, "Shared Access to GPUs")."""

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

_MIG: Final = re.compile(r"nvidia\.com/mig-(?P<slices>[1-9])g\..+", re.ASCII)
_A30: Final = re.compile(r"nvidia\.com/mig-(?:1g\.6gb|2g\.12gb|4g\.24gb)(?:\..*)?", re.ASCII)
"""A profile names its compute slices, of 7 that a board has, or of 4 of an A30: NVIDIA MIG User Guide,
"Supported MIG Profiles"."""


@dataclass(frozen=True, slots=True)
class PodRequests:
    """What the scheduler keeps for the pod, and what could not be read and counts as nothing.

    `gpus` counts whole GPUs (or replicas of them) and parts of MIG boards; None = not told: the pod
    holds something of a vendor of GPUs, or a ResourceClaim, of which nobody can say here what it is.
    """

    cpu_millicores: int
    memory_bytes: int
    gpus: Fraction | None
    problems: tuple[str, ...] = ()

    @property
    def may_hold_gpus(self) -> bool:
        """Whether the pod may have a GPU."""
        return self.gpus is None or self.gpus > 0

    def variables(self) -> dict[str, str]:
        """Return the environment variables that tell the sidecar; an empty one tells nothing."""
        gpus = "" if self.gpus is None else _gpu_text(self.gpus)
        values = (f"{self.cpu_millicores}m", str(self.memory_bytes), gpus)
        return dict(zip(REQUEST_VARIABLES, values, strict=True))


def pod_requests(spec: JsonObject) -> PodRequests:
    """Return the effective requests of a pod's spec."""
    reader = _Reader()
    run = [reader.amounts(container) for container in objects_at(spec, "containers")]
    init = [
        (reader.amounts(container), is_native_sidecar(container))
        for container in objects_at(spec, "initContainers")
    ]
    cpu, memory, gpus = (
        min(_effective([one[place] for one in run], [(one[place], stays) for one, stays in init]), _MAX)
        for place in range(3)
    )  # fmt: skip
    is_told = gpus > 0 or not reader.holds_unknown
    return PodRequests(int(cpu), int(memory), gpus if is_told else None, tuple(reader.problems))


def _effective(run: Sequence[Fraction], init: Sequence[tuple[Fraction, bool]]) -> Fraction:
    """Return the larger of what runs together in the end, and of what runs at any time before."""
    beside = most = Fraction(0)
    for amount, stays in init:
        most = max(most, amount + beside)
        beside += amount if stays else 0
    return max(most, sum(run, beside))


def _gpu_text(gpus: Fraction) -> str:
    """Spell a number of GPUs as a quantity: whole, or cut to millionths, so that sums stay within."""
    millionths = math.floor(gpus * 10**6)
    return f"{millionths}u" if millionths % 10**6 else str(millionths // 10**6)


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
    """Reads container by container; each amount is rounded up, as Kubernetes rounds it."""

    def __init__(self) -> None:
        self.problems: list[str] = []
        self.holds_unknown = False

    def amounts(self, container: JsonObject) -> tuple[Fraction, Fraction, Fraction]:
        """Return millicores, bytes, and GPUs."""
        resources = object_at(container, "resources")
        requests, limits = object_at(resources, "requests"), object_at(resources, "limits")
        self.holds_unknown |= bool(objects_at(resources, "claims"))
        both = {**requests, **{name: value for name, value in limits.items() if value is not None}}
        gpus = sum((self._gpus(both, name) for name in both), Fraction(0))
        either = {
            **limits,
            **{name: value for name, value in requests.items() if value is not None},
        }
        cpu = math.ceil(self._amount(either, "cpu") * 1000)
        return Fraction(cpu), Fraction(math.ceil(self._amount(either, "memory"))), gpus

    def _gpus(self, amounts: Mapping[str, Any], name: str) -> Fraction:
        """Return how many GPUs an extended resource stands for, and note one that is not known."""
        vendor, _, _ = str(name).partition("/")
        if vendor not in GPU_VENDORS:
            return Fraction(0)
        count = Fraction(math.ceil(self._amount(amounts, name)))
        slices = _MIG.fullmatch(str(name))
        if name in WHOLE_GPUS:
            return count
        if slices is None:
            self.holds_unknown |= count > 0
            return Fraction(0)
        return count * Fraction(int(slices["slices"]), 4 if _A30.fullmatch(str(name)) else 7)

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
