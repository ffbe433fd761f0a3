"""The calls of NVML used here, typed, over the unmodified binding `nvidia-ml-py` (`pynvml`).

Facts about the calls are from nvml.h (API 13). Every failure is one `NvmlCallError`.
"""

import ctypes
import importlib
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from sidecar.meters.gpu_library import BoardHandle, GpuCallError

# nvmlReturn_t
UNINITIALIZED = 1
INVALID_ARGUMENT = 2
NOT_SUPPORTED = 3
NO_PERMISSION = 4
NOT_FOUND = 6
DRIVER_NOT_LOADED = 9
LIBRARY_NOT_FOUND = 12
FUNCTION_NOT_FOUND = 13
GPU_IS_LOST = 15
RESET_REQUIRED = 16
LIB_RM_VERSION_MISMATCH = 18
ARGUMENT_VERSION_MISMATCH = 25
GPU_NOT_FOUND = 28
UNKNOWN = 999

VIRTUALIZATION_MODE_VGPU = 2  # NVML_GPU_VIRTUALIZATION_MODE_VGPU; pass-through (1) is a whole board

_SESSION_ENDED = frozenset({UNINITIALIZED, DRIVER_NOT_LOADED, LIB_RM_VERSION_MISMATCH})
_BOARD_LOST = frozenset({GPU_IS_LOST, RESET_REQUIRED, GPU_NOT_FOUND})
_REFUSED = frozenset(
    {
        INVALID_ARGUMENT,
        NOT_SUPPORTED,
        NO_PERMISSION,
        FUNCTION_NOT_FOUND,
        ARGUMENT_VERSION_MISMATCH,
    }
)


@dataclass(frozen=True, slots=True)
class MigDevice:
    """One MIG device: the board it is a part of, its compute slices, and how many the board has.

    `board_slices` is None where NVML does not tell.
    """

    board_uuid: str
    slices: int
    board_slices: int | None


class NvmlCallError(GpuCallError):
    """A call of NVML failed; `code` is its nvmlReturn_t."""

    def __init__(self, function: str, code: int, words: str) -> None:
        super().__init__(f"{function}: {words} (NVML error {code})")
        self.code = code

    @property
    def library_missing(self) -> bool:
        """There is no driver in reach of this process."""
        return self.code == LIBRARY_NOT_FOUND

    @property
    def session_ended(self) -> bool:
        """The driver went away or came back: everything must be opened anew."""
        return self.code in _SESSION_ENDED

    @property
    def board_lost(self) -> bool:
        """The GPU fell off the bus or waits for a reset; others are not touched."""
        return self.code in _BOARD_LOST

    @property
    def refused(self) -> bool:
        """The GPU, driver or permission does not offer the call; asking again is no use."""
        return self.code in _REFUSED


class NvmlLibrary:
    """An opened NVML. Close it when done; NVML counts its openings, so others may share it."""

    def __init__(self, binding: ModuleType | None = None) -> None:
        """Load and initialise.

        Raises:
            NvmlCallError: LIBRARY_NOT_FOUND without a driver in reach, else what nvmlInit said.

        """
        self._binding = binding if binding is not None else _import_binding()
        self._ask("nvmlInit")

    def close(self) -> None:
        """Shut down; raises NvmlCallError when the session had ended already."""
        self._ask("nvmlShutdown")

    def boards(self) -> int:
        """How many GPUs this process may see."""
        return int(self._ask("nvmlDeviceGetCount"))

    def board(self, index: int) -> BoardHandle:
        """Return the GPU at an index, in the order of the PCI bus."""
        return BoardHandle(self._ask("nvmlDeviceGetHandleByIndex", index))

    def uuid_of_mig_board(self, mig_uuid: str) -> str | None:
        """UUID of the GPU that a MIG device is a slice of; None where NVML knows no such device."""
        try:
            slice_handle = self._ask("nvmlDeviceGetHandleByUUID", mig_uuid)
            board = self._ask("nvmlDeviceGetDeviceHandleFromMigDeviceHandle", slice_handle)
            return self.uuid(BoardHandle(board))
        except NvmlCallError as error:
            if error.session_ended:
                raise
            return None

    def mig_device(self, mig_uuid: str) -> MigDevice | None:
        """Return a MIG device by its UUID; None where NVML shows this process no such device.

        Slices are those of the compute instance, which may be a part of its GPU instance; the board
        has as many as it can have MIG devices.
        """
        try:
            device = self._ask("nvmlDeviceGetHandleByUUID", mig_uuid)
            board = BoardHandle(self._ask("nvmlDeviceGetDeviceHandleFromMigDeviceHandle", device))
            attributes = self._ask("nvmlDeviceGetAttributes", device)
            slices = int(attributes.computeInstanceSliceCount or attributes.gpuInstanceSliceCount)
            return MigDevice(self.uuid(board), slices, self._most_mig_devices(board))
        except NvmlCallError as error:
            if error.session_ended:
                raise
            return None

    def _most_mig_devices(self, board: BoardHandle) -> int | None:
        try:
            return int(self._ask("nvmlDeviceGetMaxMigDeviceCount", board)) or None
        except NvmlCallError as error:
            if not error.refused:
                raise
            return None

    def uuid(self, board: BoardHandle) -> str:
        """`GPU-…`, the same after a reload of the driver."""
        return _text(self._ask("nvmlDeviceGetUUID", board))

    def model(self, board: BoardHandle) -> str:
        """Return the name of the product."""
        return _text(self._ask("nvmlDeviceGetName", board))

    def energy_mj(self, board: BoardHandle) -> int:
        """Millijoules since the driver was loaded; Volta and newer."""
        return int(self._ask("nvmlDeviceGetTotalEnergyConsumption", board))

    def power_w(self, board: BoardHandle) -> float:
        """Power of the whole board: mean of 1 s on Ampere (but the A100) and newer, else of now."""
        return int(self._ask("nvmlDeviceGetPowerUsage", board)) / 1000

    def utilization(self, board: BoardHandle) -> float:
        """Part (0..1) of the last sample period in which a kernel ran; not offered under MIG."""
        percent = int(self._ask("nvmlDeviceGetUtilizationRates", board).gpu)
        return min(max(percent / 100, 0.0), 1.0)

    def enforced_power_limit_w(self, board: BoardHandle) -> float:
        """Return the lowest of all power limits that hold now."""
        return int(self._ask("nvmlDeviceGetEnforcedPowerLimit", board)) / 1000

    def managed_power_limit_w(self, board: BoardHandle) -> float:
        """Return the power limit that an administrator set."""
        return int(self._ask("nvmlDeviceGetPowerManagementLimit", board)) / 1000

    def is_mig(self, board: BoardHandle) -> bool:
        """Whether the GPU is divided into MIG devices now."""
        return bool(self._ask("nvmlDeviceGetMigMode", board)[0])

    def is_virtual(self, board: BoardHandle) -> bool:
        """Whether this is a vGPU inside a virtual machine."""
        return int(self._ask("nvmlDeviceGetVirtualizationMode", board)) == VIRTUALIZATION_MODE_VGPU

    def _ask(self, function: str, *arguments: object) -> Any:  # noqa: ANN401 - as the binding
        call = getattr(self._binding, function, None)
        if call is None:
            raise NvmlCallError(function, FUNCTION_NOT_FOUND, "this nvidia-ml-py has no such call")
        try:
            return call(*arguments)
        except self._binding.NVMLError as error:
            raise NvmlCallError(function, int(error.value), str(error)) from error
        except UnicodeDecodeError as error:
            raise NvmlCallError(function, UNKNOWN, f"a text that is no UTF-8: {error}") from error


def _import_binding() -> ModuleType:
    """Import `pynvml` (4 MB, 25 ms) only where there is a driver."""
    try:
        ctypes.CDLL("libnvidia-ml.so.1")
    except OSError as error:
        raise NvmlCallError("nvmlInit", LIBRARY_NOT_FOUND, str(error)) from error
    return importlib.import_module("pynvml")


def _text(answer: str | bytes) -> str:
    """Bindings before 11.515 answer bytes."""
    return answer.decode("utf-8", "replace") if isinstance(answer, bytes) else str(answer)
