"""From the run as an agent has it to results under CodeCarbon's names."""

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

from sidecar.agent import RunSoFar
from sidecar.exporters.codecarbon_csv import row_cells
from sidecar.exporters.codecarbon_row import codecarbon_row
from sidecar.exporters.summary import Totals
from sidecar.record import AVERAGED, SUMMED, EmissionRecord
from sidecar.tracking.results import EmissionsData


def emissions_data(run: RunSoFar, before: Totals | None = None) -> EmissionsData:
    """Return the results of a run, or of what came after `before`."""
    record = run.totals.merged if before is None else record_since(before, run.totals)
    cells = dict(row_cells(codecarbon_row(record, run.hardware, run.country_name)))
    if not record.gpus:  # there is none: that is known
        cells |= {"gpu_energy": 0.0, "gpu_power": 0.0}
    if record.facility_energy_kwh is None:
        cells |= dict.fromkeys(("energy_consumed", "emissions", "emissions_rate"))
    return EmissionsData(**{item.name: cells[item.name] for item in fields(EmissionsData)})  # type: ignore[arg-type]


def record_since(before: Totals, now: Totals) -> EmissionRecord:
    """Return the totals of a run without those of its beginning: sums less sums, means apart again.

    Nothing is less than 0: where factors became known in between, what came before was counted anew.
    """
    first, whole = before.merged, now.merged
    changes: dict[str, Any] = {
        name: _less(getattr(whole, name), getattr(first, name)) for name in SUMMED
    }
    for name in AVERAGED:
        changes[name] = _mean_since(
            (getattr(first, name), first.duration_s), (getattr(whole, name), whole.duration_s)
        )
    return replace(
        whole,
        window_start=first.window_end or whole.window_start,
        phases=_phases_since(first.phases, whole.phases),
        **changes,
    )


def _less(whole: float | None, part: float | None) -> float | None:
    return None if whole is None else max(0.0, whole - (part or 0.0))


def _mean_since(
    first: tuple[float | None, float], whole: tuple[float | None, float]
) -> float | None:
    mean, duration_s = whole
    before, before_s = first
    if mean is None or before is None or duration_s <= before_s:
        return mean
    return max(0.0, (mean * duration_s - before * before_s) / (duration_s - before_s))


def _phases_since(
    first: Mapping[str, float] | None, whole: Mapping[str, float] | None
) -> Mapping[str, float] | None:
    if whole is None:
        return None
    left = {name: _less(part, (first or {}).get(name)) or 0.0 for name, part in whole.items()}
    return {name: part for name, part in left.items() if part > 0} or None
