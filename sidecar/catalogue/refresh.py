"""VM sizes as Azure offers them now: the Resource SKUs API, completed from the shipped table.

The API (`Microsoft.Compute/skus/read` on the subscription) tells vCPUs, memory and GPUs, but names
neither CPU nor GPU models, and rounds fractions of a GPU up to 1 or leaves them out: what the
shipped table says of a size, or of its series, goes before it there.
Needs the extra `azure`.
"""

import csv
import io
import logging
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sidecar.catalogue.decode import VM_SIZE_COLUMNS, vm_size_row
from sidecar.catalogue.lookup import Catalogue
from sidecar.catalogue.names import region_key, vm_family_key, vm_size_key
from sidecar.catalogue.rows import VmSize
from sidecar.durable_file import replace_file

if TYPE_CHECKING:
    from azure.core.credentials import TokenCredential

AZURE_RESOURCE_MANAGER: Final = "https://management.azure.com"

_LOCATION: Final = re.compile(r"[a-z0-9]+")
_log = logging.getLogger(__name__)


class RefreshError(RuntimeError):
    """Azure could not be asked, or said no; the text says what it said and what to do."""


@dataclass(frozen=True, slots=True)
class _Sku:
    """What the API says of one size."""

    name: str
    capabilities: Mapping[str, str]

    def number(self, capability: str) -> float | None:
        try:
            return float(self.capabilities[capability])
        except (KeyError, ValueError):
            return None

    def integer(self, capability: str) -> int | None:
        value = self.number(capability)
        return int(value) if value is not None and value.is_integer() else None


class _Shipped:
    """The sizes of the shipped table by name and by series."""

    def __init__(self, sizes: Iterable[VmSize]) -> None:
        self._by_name: dict[str, VmSize] = {}
        self._by_family: defaultdict[str | None, list[VmSize]] = defaultdict(list)
        for size in sizes:
            self._by_name[vm_size_key(size.name)] = size
            self._by_family[vm_family_key(size.name)].append(size)

    def size(self, name: str) -> VmSize | None:
        return self._by_name.get(vm_size_key(name))

    def family(self, name: str) -> tuple[VmSize, ...]:
        key = vm_family_key(name)
        return tuple(self._by_family.get(key, ())) if key else ()


def refresh_vm_sizes(
    credential: "TokenCredential",
    subscription_id: str,
    location: str,
    base_url: str = AZURE_RESOURCE_MANAGER,
) -> tuple[VmSize, ...]:
    """Ask Azure for the VM sizes of a location, sorted by name.

    `base_url` is the resource manager of the cloud (sovereign clouds have their own).
    Raises ValueError on a malformed location, `RefreshError` where Azure cannot be asked, refuses
    or offers no size there.
    """
    place = region_key(location)
    if not _LOCATION.fullmatch(place):
        raise ValueError(f"{location!r} is no Azure location; write it like westeurope")
    shipped = _Shipped(Catalogue().vm_sizes())
    today = datetime.now(UTC).date()
    sizes: dict[str, VmSize] = {}
    for sku in _skus(credential, subscription_id, place, base_url):
        size = _vm_size(sku, shipped, today)
        if size is None:
            _log.warning("Azure tells no vCPU count of %s: left out", sku.name)
        else:
            sizes[vm_size_key(size.name)] = size
    if not sizes:
        raise RefreshError(
            f"Azure offers no VM size in {place!r} to subscription {subscription_id}; check the "
            "location and that the subscription may deploy there"
        )
    return tuple(sorted(sizes.values(), key=lambda size: size.name))


def vm_sizes_csv(sizes: Iterable[VmSize]) -> str:
    """Spell VM sizes out as the CSV that `Catalogue(extra_vm_sizes=…)` reads."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, VM_SIZE_COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(vm_size_row(size) for size in sizes)
    return text.getvalue()


def write_vm_sizes(sizes: Iterable[VmSize], path: Path) -> None:
    """Write VM sizes to a file, replacing it in one step. Raises OSError."""
    replace_file(path, vm_sizes_csv(sizes).encode())


def _skus(
    credential: "TokenCredential", subscription_id: str, location: str, base_url: str
) -> Iterator[_Sku]:
    try:
        # Only who refreshes pays for these imports (0.4 s, 36 MiB), never a sidecar.
        from azure.core.exceptions import AzureError  # noqa: PLC0415
        from azure.mgmt.compute import ComputeManagementClient  # noqa: PLC0415
    except ImportError as error:
        raise RefreshError(
            f"{error}; install the extra 'azure', from a clone: pip install '.[azure]'"
        ) from error
    client = ComputeManagementClient(
        credential,
        subscription_id,
        base_url=base_url,
        credential_scopes=[f"{base_url.rstrip('/')}/.default"],
    )
    try:
        with client:
            for sku in client.resource_skus.list(filter=f"location eq '{location}'"):
                if sku.resource_type == "virtualMachines" and sku.name:
                    pairs = ((item.name, item.value) for item in sku.capabilities or ())
                    yield _Sku(sku.name, {name: value for name, value in pairs if name and value})
    except AzureError as error:
        raise RefreshError(
            f"cannot list VM sizes of {location!r} at {base_url}: {error.message.strip()}; "
            "the credential needs Microsoft.Compute/skus/read on the subscription"
        ) from error


def _vm_size(sku: _Sku, shipped: _Shipped, today: date) -> VmSize | None:
    vcpus_full = sku.integer("vCPUs")
    if not vcpus_full:
        return None
    own, family = shipped.size(sku.name), shipped.family(sku.name)
    cpu_models, evidence, origin = _cpus(own, family)
    gpu_model, gpu_count = _gpus(sku.number("GPUs") or 0.0, own, family)
    return VmSize(
        name=sku.name,
        vcpus=min(sku.integer("vCPUsAvailable") or vcpus_full, vcpus_full),
        vcpus_full=vcpus_full,
        memory_gib=sku.number("MemoryGB"),
        cpu_models=cpu_models,
        cpu_evidence=evidence,
        threads_per_core=sku.integer("vCPUsPerCore"),
        gpu_model=gpu_model,
        gpu_count=gpu_count,
        source=f"Azure Resource SKUs API, {today.isoformat()}; CPU and GPU models: {origin}",
        year=today.year,
    )


def _cpus(own: VmSize | None, family: tuple[VmSize, ...]) -> tuple[tuple[str, ...], str, str]:
    """CPU models, their evidence and origin."""
    if own is not None and own.cpu_models:
        return own.cpu_models, own.cpu_evidence, own.source
    models = tuple(dict.fromkeys(model for size in family for model in size.cpu_models))
    if models:
        return models, "family", f"series of {family[0].name}"
    return (), "unknown", "none"


def _gpus(
    told: float, own: VmSize | None, family: tuple[VmSize, ...]
) -> tuple[str | None, float | None]:
    """GPU model and count; the shipped count of a size goes before the API's, which rounds."""
    if own is not None and own.gpu_model is not None:
        return own.gpu_model, own.gpu_count
    relatives = [size for size in family if size.gpu_model is not None]
    models = {size.gpu_model for size in relatives}
    if len(models) != 1:
        return None, told
    whole = all(size.gpu_count and size.gpu_count.is_integer() for size in relatives)
    return models.pop(), told if whole and told > 0 else None
