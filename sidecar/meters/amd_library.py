"""The calls of AMD SMI used here, typed, over the unmodified Python module `amdsmi` of ROCm.

Names, units and status codes are those of the AMD SMI documentation ("Python API") and of the module
as shipped with ROCm 6.0 to 7.0. Every failure is one `AmdCallError`.
"""

import ctypes
import importlib
import importlib.util
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from sidecar.meters.gpu_library import BoardHandle, GpuCallError

# amdsmi_status_t
INVAL = 1
NOT_SUPPORTED = 2
NOT_YET_IMPLEMENTED = 3
FAIL_LOAD_SYMBOL = 5
NO_PERM = 10
NOT_FOUND = 31
NOT_INIT = 32
DRIVER_NOT_LOADED = 34
NO_DRV = 51
UNKNOWN_ERROR = 0xFFFFFFFF
LIBRARY_MISSING = -1
"""Ours: there is no module `amdsmi`, or no library that it could load."""

_SESSION_ENDED = frozenset({NOT_INIT, DRIVER_NOT_LOADED, NO_DRV})
_REFUSED = frozenset({INVAL, NOT_SUPPORTED, NOT_YET_IMPLEMENTED, FAIL_LOAD_SYMBOL, NO_PERM})

LIBRARY: Final = "libamd_smi.so"
LARGEST_WATTS: Final = 20_000
"""No power limit has more watts: what is larger is in microwatts, as most versions tell it."""

_NO_VALUE: Final = 0xFFFF
"""What versions before 6.2 hand on for a power or activity that the driver does not tell."""

JUDGED_AFTER_S: Final = 0.5
CREDIBLE: Final = 4.0
"""A counter is believed if it grows by at least a quarter of the power told at both ends, and at most
four times the most of power and limit: on some parts its unit is wrong by far."""


class AmdCallError(GpuCallError):
    """A call of AMD SMI failed; `code` is its amdsmi_status_t."""

    def __init__(self, function: str, code: int, words: str) -> None:
        super().__init__(f"{function}: {' '.join(words.split())} (AMD SMI status {code})")
        self.code = code

    @property
    def library_missing(self) -> bool:
        """There is no AMD SMI here."""
        return self.code == LIBRARY_MISSING

    @property
    def session_ended(self) -> bool:
        """The driver went away or came back."""
        return self.code in _SESSION_ENDED

    @property
    def board_lost(self) -> bool:
        """The GPU asked is not there any more."""
        return self.code == NOT_FOUND

    @property
    def refused(self) -> bool:
        """The GPU, driver or permission does not offer the call."""
        return self.code in _REFUSED


@dataclass(frozen=True, slots=True)
class _FirstLook:
    energy_mj: int
    time_s: float
    power_w: float


class AmdLibrary:
    """An opened AMD SMI. Close it when done."""

    def __init__(self, binding: ModuleType | None = None) -> None:
        """Load and initialise.

        Raises:
            AmdCallError: LIBRARY_MISSING without AMD SMI, else what amdsmi_init said.

        """
        self._binding = binding if binding is not None else _import_binding()
        self._boards: list[BoardHandle] = []
        self._first_looks: dict[str, _FirstLook] = {}
        self._judged: set[str] = set()
        self._ask("amdsmi_init")

    def close(self) -> None:
        """Shut down."""
        self._ask("amdsmi_shut_down")

    def boards(self) -> int:
        """How many GPUs this process may see.

        In a partitioned mode each partition is a processor of its own, but power and energy are
        those of the whole module: the first processor of each PCI device stands for it.
        """
        first: dict[str, BoardHandle] = {}
        for index, handle in enumerate(self._ask("amdsmi_get_processor_handles")):
            first.setdefault(self._pci_device(handle) or str(index), BoardHandle(handle))
        self._boards = list(first.values())
        return len(self._boards)

    def board(self, index: int) -> BoardHandle:
        """Return the GPU at an index."""
        if index >= len(self._boards):
            raise AmdCallError("amdsmi_get_processor_handles", NOT_FOUND, f"no GPU {index}")
        return self._boards[index]

    def uuid_of_mig_board(self, mig_uuid: str) -> str | None:  # noqa: ARG002 - as the protocol
        """Return None: AMD has no MIG devices."""
        return None

    def uuid(self, board: BoardHandle) -> str:
        """Return what names the GPU for ever."""
        return str(self._ask("amdsmi_get_gpu_device_uuid", board))

    def model(self, board: BoardHandle) -> str:
        """Return the name of the product, without the form of the module."""
        name = str(self._ask("amdsmi_get_gpu_asic_info", board)["market_name"]).strip()
        return name.removesuffix(" VF").removesuffix(" OAM")

    def energy_mj(self, board: BoardHandle) -> int:
        """Millijoules of the accumulator, in steps of its resolution; refused if not credible."""
        answer = self._ask("amdsmi_get_energy_count", board)
        steps = answer.get("energy_accumulator", answer.get("power"))  # `power` before 6.2.1
        microjoules = _number(steps) * _number(answer["counter_resolution"])
        energy_mj = int(microjoules / 1000)
        self._judge(board, energy_mj, _number(answer["timestamp"]) * 1e-9)
        return energy_mj

    def power_w(self, board: BoardHandle) -> float:
        """Power of the whole module: of now, else the mean of the last moments."""
        answer = self._ask("amdsmi_get_power_info", board)
        for key in ("current_socket_power", "socket_power", "average_socket_power"):
            watts = answer.get(key)
            if _is_number(watts) and 0 < watts != _NO_VALUE:
                return float(watts)
        raise AmdCallError("amdsmi_get_power_info", NOT_SUPPORTED, "it tells no power")

    def utilization(self, board: BoardHandle) -> float:
        """Part (0..1) of the last sample period in which the graphics engine was busy."""
        percent = self._ask("amdsmi_get_gpu_activity", board).get("gfx_activity")
        if not _is_number(percent) or percent == _NO_VALUE:
            raise AmdCallError("amdsmi_get_gpu_activity", NOT_SUPPORTED, "it tells no activity")
        return min(max(float(percent) / 100, 0.0), 1.0)

    def enforced_power_limit_w(self, board: BoardHandle) -> float:
        """Return the power limit that holds now."""
        return self._limit_w(board, "power_cap")

    def managed_power_limit_w(self, board: BoardHandle) -> float:
        """Return the power limit that the GPU came with."""
        return self._limit_w(board, "default_power_cap")

    def is_mig(self, board: BoardHandle) -> bool:  # noqa: ARG002 - as the protocol
        """Return False: AMD has no MIG devices."""
        return False

    def is_virtual(self, board: BoardHandle) -> bool:  # noqa: ARG002 - as the protocol
        """Return False: on Azure a virtual function is a whole MI300X."""
        return False

    def _limit_w(self, board: BoardHandle, key: str) -> float:
        limit = _number(self._ask("amdsmi_get_power_cap_info", board)[key])
        watts = limit * 1e-6 if limit > LARGEST_WATTS else limit
        if watts <= 0:
            raise AmdCallError("amdsmi_get_power_cap_info", NOT_SUPPORTED, "it tells no limit")
        return watts

    def _pci_device(self, handle: object) -> str | None:
        """Return domain, bus and device of a processor, without the function."""
        try:
            return str(self._ask("amdsmi_get_gpu_device_bdf", handle)).rpartition(".")[0]
        except AmdCallError as error:
            if error.session_ended:
                raise
            return None

    def _judge(self, board: BoardHandle, energy_mj: int, time_s: float) -> None:
        """Compare the counter once with the power told meanwhile; raises if they differ by far."""
        uuid = self.uuid(board)
        if uuid in self._judged:
            return
        power_w = self._power_or_none(board)
        if power_w is None:
            return
        first = self._first_looks.setdefault(uuid, _FirstLook(energy_mj, time_s, power_w))
        if time_s - first.time_s < JUDGED_AFTER_S:
            return
        counted_w = (energy_mj - first.energy_mj) / 1000 / (time_s - first.time_s)
        least_w = min(first.power_w, power_w) / CREDIBLE
        most_w = max(first.power_w, power_w, self._limit_or_0(board)) * CREDIBLE
        if not least_w <= counted_w <= most_w:
            words = f"the counter tells {counted_w:.4g} W, the sensor {power_w:.4g} W"
            raise AmdCallError("amdsmi_get_energy_count", NOT_SUPPORTED, words)
        self._judged.add(uuid)

    def _power_or_none(self, board: BoardHandle) -> float | None:
        try:
            return self.power_w(board)
        except AmdCallError as error:
            if error.session_ended or error.board_lost:
                raise
            return None

    def _limit_or_0(self, board: BoardHandle) -> float:
        try:
            return self.enforced_power_limit_w(board)
        except AmdCallError as error:
            if error.session_ended or error.board_lost:
                raise
            return 0.0

    def _ask(self, function: str, *arguments: object) -> Any:  # noqa: ANN401 - as the module
        call = getattr(self._binding, function, None)
        if call is None:
            raise AmdCallError(function, FAIL_LOAD_SYMBOL, "this amdsmi has no such call")
        try:
            return _checked(function, call(*arguments))
        except self._binding.AmdSmiException as error:
            code = getattr(error, "err_code", UNKNOWN_ERROR)
            raise AmdCallError(function, int(code), str(error)) from error
        except (ValueError, TypeError, KeyError) as error:  # its own conversions of odd answers
            raise AmdCallError(function, UNKNOWN_ERROR, str(error)) from error


class _Fields(dict[str, Any]):
    """An answer; a field that is not there is an AmdCallError as any other fault."""

    def __init__(self, function: str, fields: Mapping[str, Any]) -> None:
        super().__init__(fields)
        self._function = function

    def __missing__(self, key: str) -> Any:  # noqa: ANN401 - never returns
        raise AmdCallError(self._function, NOT_SUPPORTED, f"its answer has no {key}")


def _checked(function: str, answer: object) -> object:
    return _Fields(function, answer) if isinstance(answer, dict) else answer


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value) and value >= 0


def _number(value: Any) -> float:  # noqa: ANN401 - as the module
    """Return a number of zero or more; what else is told (`N/A`) is not offered."""
    if not _is_number(value):
        raise AmdCallError("amdsmi", NOT_SUPPORTED, f"{value!a:.40} is no number of zero or more")
    return float(value)


def _import_binding() -> ModuleType:
    """Import `amdsmi` only where its library can be loaded: else it prints, and raises KeyError."""
    spec = importlib.util.find_spec("amdsmi")
    if spec is None:
        raise AmdCallError("amdsmi_init", LIBRARY_MISSING, "no Python module amdsmi")
    if not any(_loads(location) for location in _locations(spec.origin)):
        raise AmdCallError("amdsmi_init", LIBRARY_MISSING, f"{LIBRARY} cannot be loaded")
    try:
        return importlib.import_module("amdsmi")
    except (ImportError, AttributeError, KeyError, OSError) as error:
        words = f"module and {LIBRARY} do not fit: {type(error).__name__} {error}"
        raise AmdCallError("amdsmi_init", LIBRARY_MISSING, words) from error


def _locations(origin: str | None) -> Iterator[str]:
    """Return where the module looks for its library, in its order."""
    rocm = os.environ.get("ROCM_HOME") or os.environ.get("ROCM_PATH")
    if rocm:
        yield str(Path(rocm) / "lib" / LIBRARY)
    yield LIBRARY
    if origin:
        yield str(Path(origin).parent / LIBRARY)
    yield str(Path("/opt/rocm/lib") / LIBRARY)


def _loads(location: str) -> bool:
    try:
        ctypes.CDLL(location)
    except OSError:
        return False
    return True
