"""The size of MIG devices, asked of NVML once for each."""

import contextlib
from types import ModuleType
from typing import Final

from sidecar.meters.gpu_library import GpuCallError
from sidecar.meters.mig import board_slices
from sidecar.meters.nvml_library import NvmlLibrary
from sidecar.node_meter.holdings import MigPart

KNOWN_MAX: Final = 1024
"""A board has 7 MIG devices at most; their UUIDs change when it is divided anew."""


class MigParts:
    """Looks MIG devices up. NVML counts how often it was opened, so this opens its own."""

    def __init__(self, nvml: ModuleType | None = None) -> None:
        self._binding = nvml
        self._library: NvmlLibrary | None = None
        self._known: dict[str, MigPart] = {}

    def part(self, uuid: str, model_of: dict[str, str]) -> MigPart | None:
        """Return board and part of a MIG device; None where NVML does not know it now.

        `model_of` names the products of the boards, for those whose slices NVML does not count.
        """
        if uuid not in self._known:
            found = self._asked(uuid, model_of)
            if found is None:
                return None
            if len(self._known) >= KNOWN_MAX:
                self._known.clear()
            self._known[uuid] = found
        return self._known[uuid]

    def close(self) -> None:
        """Let NVML go."""
        library, self._library = self._library, None
        if library is not None:
            with contextlib.suppress(GpuCallError):  # the session may have ended by itself
                library.close()

    def _asked(self, uuid: str, model_of: dict[str, str]) -> MigPart | None:
        try:
            self._library = self._library or NvmlLibrary(self._binding)
            device = self._library.mig_device(uuid)
        except GpuCallError:  # the meter of the boards says what is wrong with NVML
            self.close()
            return None
        if device is None:
            return None
        slices = device.board_slices or board_slices(model_of.get(device.board_uuid, ""))
        return MigPart(device.board_uuid, min(1.0, device.slices / slices))
