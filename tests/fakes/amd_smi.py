"""A stand-in for the Python module `amdsmi`, as documented for ROCm 6 and 7, driven by a state.

It has the functions that are used, with their argument checks, answers and exceptions; keys and
values per version. The C library below it (libamd_smi.so) needs an AMD driver and has no stand-in.
"""

from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

NOT_SUPPORTED = 2
NOT_FOUND = 31
NOT_INIT = 32
DRIVER_NOT_LOADED = 34

RESOLUTION = 15.259  # microjoules a step: 2^-16 J, as an MI300X tells it


class AmdSmiException(Exception):  # noqa: N818 - as the module calls it
    """The base of all."""


class AmdSmiLibraryException(AmdSmiException):
    """A status other than success."""

    def __init__(self, err_code: int) -> None:
        super().__init__(err_code)
        self.err_code = abs(err_code)

    def __str__(self) -> str:
        return f"Error code:\n\t{self.err_code} | AMDSMI_STATUS_{self.err_code} - fake"


class AmdSmiParameterException(AmdSmiException):
    """An argument of the wrong type."""


class Handle:
    """What `amdsmi_processor_handle` is: opaque."""

    def __init__(self, index: int) -> None:
        self.index = index


@dataclass
class FakeGpu:
    """One processor. `power` and `activity` may be a number or "N/A"."""

    uuid: str
    bdf: str
    energy_j: float = 1000.0
    power: Any = 500
    activity: Any = 50
    cap: Any = 750_000_000
    market_name: str = "AMD Instinct MI300X OAM"
    errors: dict[str, int] = field(default_factory=dict)


@dataclass
class FakeAmdSmi:
    """The state of a driver and the module that tells it. `version` decides names of keys."""

    gpus: list[FakeGpu]
    version: tuple[int, int] = (7, 0)
    energy_unit: float = 1.0
    initialised: int = 0
    clock_ns: int = 10**12
    errors: dict[str, int] = field(default_factory=dict)

    def advance(self, seconds: float, watts: float = 500.0) -> None:
        """Let time pass, in which every GPU draws so much."""
        self.clock_ns += int(seconds * 1e9)
        for gpu in self.gpus:
            gpu.energy_j += watts * seconds * self.energy_unit

    @property
    def module(self) -> ModuleType:
        """What `import amdsmi` would give."""
        module = ModuleType("amdsmi")
        for kind in (AmdSmiException, AmdSmiLibraryException, AmdSmiParameterException):
            setattr(module, kind.__name__, kind)
        for name in dir(self):
            if name.startswith("amdsmi_"):
                setattr(module, name, getattr(self, name))
        return module

    def amdsmi_init(self, flag: int = 2) -> None:
        self._check("amdsmi_init")
        self.initialised += 1

    def amdsmi_shut_down(self) -> None:
        self._check("amdsmi_shut_down", needs_init=True)
        self.initialised -= 1

    def amdsmi_get_processor_handles(self) -> list[Handle]:
        self._check("amdsmi_get_processor_handles", needs_init=True)
        return [Handle(index) for index in range(len(self.gpus))]

    def amdsmi_get_gpu_device_bdf(self, processor_handle: object) -> str:
        return self._gpu("amdsmi_get_gpu_device_bdf", processor_handle).bdf

    def amdsmi_get_gpu_device_uuid(self, processor_handle: object) -> str:
        return self._gpu("amdsmi_get_gpu_device_uuid", processor_handle).uuid

    def amdsmi_get_gpu_asic_info(self, processor_handle: object) -> dict[str, Any]:
        gpu = self._gpu("amdsmi_get_gpu_asic_info", processor_handle)
        return {"market_name": gpu.market_name, "vendor_id": "0x1002", "asic_serial": "0x0"}

    def amdsmi_get_energy_count(self, processor_handle: object) -> dict[str, Any]:
        gpu = self._gpu("amdsmi_get_energy_count", processor_handle)
        name = "energy_accumulator" if self.version >= (6, 2) else "power"
        steps = int(gpu.energy_j * 1e6 / RESOLUTION)
        return {name: steps, "counter_resolution": RESOLUTION, "timestamp": self.clock_ns}

    def amdsmi_get_power_info(self, processor_handle: object) -> dict[str, Any]:
        gpu = self._gpu("amdsmi_get_power_info", processor_handle)
        none = "N/A" if self.version >= (6, 2) else 0xFFFF
        return {
            "current_socket_power": none if gpu.power == "N/A" else gpu.power,
            "average_socket_power": none,
            "gfx_voltage": none,
            "power_limit": 750,
        }

    def amdsmi_get_gpu_activity(self, processor_handle: object) -> dict[str, Any]:
        gpu = self._gpu("amdsmi_get_gpu_activity", processor_handle)
        return {"gfx_activity": gpu.activity, "umc_activity": 10, "mm_activity": "N/A"}

    def amdsmi_get_power_cap_info(self, processor_handle: object) -> dict[str, Any]:
        gpu = self._gpu("amdsmi_get_power_cap_info", processor_handle)
        return {"power_cap": gpu.cap, "default_power_cap": 750_000_000, "max_power_cap": 0}

    def _gpu(self, function: str, handle: object) -> FakeGpu:
        if not isinstance(handle, Handle):
            raise AmdSmiParameterException(handle)
        self._check(function, needs_init=True)
        gpu = self.gpus[handle.index]
        if function in gpu.errors:
            raise AmdSmiLibraryException(gpu.errors[function])
        return gpu

    def _check(self, function: str, *, needs_init: bool = False) -> None:
        if function in self.errors:
            raise AmdSmiLibraryException(self.errors[function])
        if needs_init and self.initialised <= 0:
            raise AmdSmiLibraryException(NOT_INIT)
