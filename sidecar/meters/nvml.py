"""Energy and utilisation of NVIDIA GPUs through NVML, and the pod's part of those under MIG."""

import math
from collections.abc import Callable
from types import ModuleType
from typing import Final

from sidecar.meters.board_meter import BoardMeter, Vendor
from sidecar.meters.mig import board_slices
from sidecar.meters.nvml_library import NvmlLibrary
from sidecar.meters.visible_devices import named_devices

ASK_AGAIN_S: Final = 60.0
"""How often the pod's MIG devices are looked up: containers start late, and boards are divided anew."""


def _untold() -> str | None:
    return None


class NvmlMeter(BoardMeter):
    """Meters the GPUs that are selected (None = all that are visible) since it was opened.

    `nvml` is the module `pynvml`, imported only where a driver is in reach. `pod_devices` tells the
    NVIDIA_VISIBLE_DEVICES of the pod: the share of a MIG board that its `MIG-…` devices are, in
    compute slices, is the pod's. Energy under MIG is that of the whole board (nvml.h).
    """

    def __init__(
        self,
        nvml: ModuleType | None = None,
        selected: tuple[str, ...] | None = None,
        *,
        pod_devices: Callable[[], str | None] = _untold,
        lazy: bool = False,
    ) -> None:
        self._binding = nvml
        self._nvml: NvmlLibrary | None = None
        self._pod_devices = pod_devices
        self._ask_after_s = -math.inf
        vendor = Vendor(
            name="nvml",
            title="NVML",
            listing="nvidia-smi -L",
            absent="not found: no libnvidia-ml.so.1, so no NVIDIA driver here",
            open_library=self._open_nvml,
        )
        super().__init__(vendor, selected, lazy=lazy)

    def _open_nvml(self) -> NvmlLibrary:
        self._nvml = NvmlLibrary(self._binding)
        self._ask_after_s = -math.inf
        return self._nvml

    def _attend(self, now_s: float) -> None:
        boards = [board for board in self._present if board.sliced]
        if self._nvml is None or not boards or now_s < self._ask_after_s:
            return
        self._ask_after_s = now_s + ASK_AGAIN_S
        slices: dict[str, float] = {}
        whole: dict[str, int] = {}
        for name in named_devices(self._pod_devices()):
            device = self._nvml.mig_device(name) if name.startswith("MIG-") else None
            if device is not None:
                slices[device.board_uuid] = slices.get(device.board_uuid, 0) + device.slices
                whole[device.board_uuid] = device.board_slices or 0
        for board in boards:
            if board.uuid in slices:
                total = whole[board.uuid] or board_slices(board.model)
                board.hold(min(1.0, slices[board.uuid] / total))
