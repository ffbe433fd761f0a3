"""Windows of a run as trackers get them, and records that such a run has."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

from sidecar.exporters.summary import totals_of
from sidecar.exporters.tracked import TrackedWindow
from sidecar.record import EmissionRecord

BEGIN = datetime(2026, 11, 22, 8, 0, tzinfo=UTC)
INTERVAL_S = 15


def moment(number: int) -> str:
    """The end of a window, as a record has it."""
    end = BEGIN + timedelta(seconds=INTERVAL_S * number)
    return end.strftime("%Y-%m-%dT%H:%M:%S.000Z")


def record(number: int = 1, **changes) -> EmissionRecord:
    """One window; 0 is the start record."""
    known = {
        "cpu_energy_kwh": 0.1 / 3 * number,
        "ram_energy_kwh": 0.01 / 7,
        "energy_kwh": 0.1 / 3 * number + 0.01 / 7,
        "facility_energy_kwh": (0.1 / 3 * number + 0.01 / 7) * 1.14,
        "emissions_g": 8.0 / 3 * number,
        "emissions_low_g": 5.0,
        "emissions_high_g": 12.0,
        "carbon_intensity_g_per_kwh": 253.0,
        "cpu_utilization": 0.5,
        "duration_s": float(INTERVAL_S),
    }
    values = {
        "record_id": f"u.b.{number}",
        "tool_version": "0.1.0",
        "project": "demo",
        "run_id": "run-1",
        "pod_uid": "uid-1",
        "region": "westeurope",
        "event": "window" if number else "start",
        "window_start": moment(number - 1 if number else 0),
        "window_end": moment(number),
        "carbon_intensity_level": "zone",
        "quality": "estimated",
        **(known if number else {}),
    }
    return EmissionRecord(**{**values, **changes})


def run(count: int, **changes) -> Iterator[EmissionRecord]:
    """A start record and so many windows."""
    for number in range(count + 1):
        yield record(number, **changes)


def tracked(count: int, **changes) -> list[TrackedWindow]:
    """The windows of such a run with their totals."""
    start, *rest = run(count, **changes)
    totals = totals_of(start)
    windows = []
    for item in rest:
        totals = totals.plus(item)
        windows.append(TrackedWindow(totals.windows, item, totals.merged))
    return windows
