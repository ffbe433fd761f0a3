"""A catalogue that remembers: for a program that begins many runs, each of which asks the same again."""

import functools
from collections.abc import Iterator

from sidecar.catalogue.lookup import Catalogue
from sidecar.catalogue.rows import Country, Cpu, FleetEfficiency, Gpu, Region, VmSize

_MOST = 256
"""Answers kept of each look-up: more than a machine ever needs, and a bound for whoever asks for all."""


class RememberingCatalogue(Catalogue):
    """Answers as `Catalogue` does, and reads a table only for what was not asked before."""

    __slots__ = ()

    @functools.lru_cache(_MOST)  # noqa: B019 - one is made for a process, and lasts as long
    def region(self, name: str) -> Region | None:
        """Region by its name."""
        return Catalogue.region(self, name)

    def regions(self) -> Iterator[Region]:
        """All regions."""
        return iter(self._regions())

    @functools.lru_cache(1)  # noqa: B019
    def _regions(self) -> tuple[Region, ...]:
        return tuple(Catalogue.regions(self))

    @functools.lru_cache(_MOST)  # noqa: B019
    def country(self, iso: str) -> Country | None:
        """Country by its code."""
        return Catalogue.country(self, iso)

    @functools.lru_cache(1)  # noqa: B019
    def world(self) -> Country:
        """World average."""
        return Catalogue.world(self)

    @functools.lru_cache(1)  # noqa: B019
    def fleet_efficiency(self) -> FleetEfficiency:
        """Microsoft's global PUE and WUE."""
        return Catalogue.fleet_efficiency(self)

    @functools.lru_cache(_MOST)  # noqa: B019
    def vm_size(self, name: str) -> VmSize | None:
        """VM size by its name."""
        return Catalogue.vm_size(self, name)

    @functools.lru_cache(_MOST)  # noqa: B019
    def vm_family(self, name: str) -> tuple[VmSize, ...]:
        """VM sizes of a family."""
        return Catalogue.vm_family(self, name)

    @functools.lru_cache(_MOST)  # noqa: B019
    def cpu(self, model: str) -> Cpu | None:
        """CPU by its model."""
        return Catalogue.cpu(self, model)

    @functools.lru_cache(_MOST)  # noqa: B019
    def cpu_named(self, cpuinfo_model_name: str) -> Cpu | None:
        """CPU by the name that the kernel gives it."""
        return Catalogue.cpu_named(self, cpuinfo_model_name)

    @functools.lru_cache(_MOST)  # noqa: B019
    def cpu_of_generation(self, vendor_id: str, cpu_family: int, model_number: int) -> Cpu | None:
        """CPU generation by the numbers that the kernel tells."""
        return Catalogue.cpu_of_generation(self, vendor_id, cpu_family, model_number)

    @functools.lru_cache(_MOST)  # noqa: B019
    def gpu(self, nvml_name: str) -> Gpu | None:
        """GPU by the name that NVML gives it."""
        return Catalogue.gpu(self, nvml_name)
