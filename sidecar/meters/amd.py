"""Energy and utilisation of AMD GPUs through AMD SMI, where its Python module and library are."""

from types import ModuleType

from sidecar.meters.amd_library import AmdLibrary
from sidecar.meters.board_meter import BoardMeter, Vendor


class AmdMeter(BoardMeter):
    """Meters the GPUs that are selected (None = all that are visible) since it was opened.

    `amdsmi` is the module of that name, imported only where its library can be loaded. It must fit the
    driver (ROCm), and needs /dev/kfd and /dev/dri: a sidecar that no GPU is given to has neither.
    """

    def __init__(
        self,
        amdsmi: ModuleType | None = None,
        selected: tuple[str, ...] | None = None,
        *,
        lazy: bool = False,
    ) -> None:
        vendor = Vendor(
            name="amd",
            title="AMD SMI",
            listing="amd-smi list",
            absent="not found: no module amdsmi with its libamd_smi.so, so no AMD GPUs metered here",
            open_library=lambda: AmdLibrary(amdsmi),
        )
        super().__init__(vendor, selected, lazy=lazy)
