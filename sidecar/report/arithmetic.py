"""Checks of one record by itself: energies add up, shares and bounds are where they can be.

Sums hold for merged records too. The products with PUE and carbon intensity do not: there the factors
are those of the last window (see `merge_records`).
"""

import itertools
import math
from collections.abc import Iterable
from typing import Any, Final

from sidecar.record import EmissionRecord
from sidecar.report.findings import EMISSIONS, ENERGY, FACILITY, NODE_ENERGY, SHARES, Findings
from sidecar.report.ledger import Entry

RELATIVE: Final = 1e-9
"""Sums of some thousand floats, taken in another order, differ by far less."""

ABSOLUTE: Final = 1e-15
"""In kWh or g: a few nanojoules, where a difference of large numbers leaves nothing."""

SHARE_TOLERANCE: Final = 1e-6
"""Shares are quotients of counters: they add up to 1 but for rounding."""

COMPONENTS: Final = ("cpu", "ram", "gpu")
SHARE_COLUMNS: Final = ("share_cpu", "share_idle", "share_ram", "share_gpu")


def check_sums(record: EmissionRecord, file: str, found: Findings) -> None:
    """Check what holds for every record, merged or not."""
    about = {"record_id": record.record_id, "file": file}
    _check_parts(record, about, found)
    _check_shares(record, about, found)
    for name in COMPONENTS:
        of_pod, of_node = (
            getattr(record, f"{name}_energy_kwh"),
            getattr(record, f"node_{name}_energy_kwh"),
        )
        if of_pod is not None and of_node is not None and not _at_most(of_pod, of_node):
            column = f"{name}_energy_kwh"
            found.add(NODE_ENERGY, **about, column=column, found=of_pod, at_most=of_node)
    bounds = (record.emissions_low_g, record.emissions_g, record.emissions_high_g)
    known = [bound for bound in bounds if bound is not None]
    if not all(_at_most(low, high) for low, high in itertools.pairwise(known)):
        low_g, found_g, high_g = bounds
        found.add(EMISSIONS, **about, found=found_g, low=low_g, high=high_g)


def check_products(entry: Entry, about: dict[str, Any], found: Findings) -> None:
    """Check the products with the factors, of a record that is not merged."""
    products = (
        (FACILITY, "facility_energy_kwh", entry.energy_kwh * entry.pue),
        (EMISSIONS, "emissions_g", entry.facility_energy_kwh * entry.carbon_intensity_g_per_kwh),
    )
    for kind, column, expected in products:
        amount = getattr(entry, column)
        if not math.isnan(expected) and not _equal(amount, expected):
            found.add(kind, **about, column=column, found=amount, expected=expected)


def _check_parts(record: EmissionRecord, about: dict[str, str], found: Findings) -> None:
    sums: list[tuple[str, Iterable[float | None]]] = [
        (f"{of}energy_kwh", [getattr(record, f"{of}{name}_energy_kwh") for name in COMPONENTS])
        for of in ("", "node_")
    ]
    if record.gpus:
        sums.append(("gpu_energy_kwh", [gpu.energy_kwh for gpu in record.gpus]))
    for column, parts in sums:
        whole = getattr(record, column)
        known = [part for part in parts if part is not None]
        if whole is None and not known:
            continue
        expected = sum(known) if known else None
        if whole is None or expected is None or not _equal(whole, expected):
            found.add(ENERGY, **about, column=column, found=whole, expected=expected)


def _check_shares(record: EmissionRecord, about: dict[str, str], found: Findings) -> None:
    shares = [(name, getattr(record, name)) for name in SHARE_COLUMNS]
    shares += [("gpus.share", gpu.share) for gpu in record.gpus]
    for column, share in shares:
        if share is not None and not 0 <= share <= 1 + SHARE_TOLERANCE:
            found.add(SHARES, **about, column=column, found=share, at_most=1)


def _equal(first: float, second: float) -> bool:
    return math.isclose(first, second, rel_tol=RELATIVE, abs_tol=ABSOLUTE)


def _at_most(first: float, second: float) -> bool:
    return first <= second or _equal(first, second)
