"""Record files as runs leave them."""

import gzip
from dataclasses import replace

from sidecar.record import EmissionRecord, to_ndjson


def record(record_id="u.b.1", **changes):
    base = EmissionRecord(
        record_id=record_id,
        tool_version="0.1.0",
        project="demo",
        run_id="run-1",
        pod_uid="uid-1",
        window_start="2026-11-22T08:00:00.000Z",
        window_end="2026-11-22T08:00:15.000Z",
        duration_s=15.0,
        cpu_energy_kwh=0.6,
        ram_energy_kwh=0.4,
        energy_kwh=1.0,
        facility_energy_kwh=1.2,
        emissions_g=300.0,
        emissions_low_g=200.0,
        emissions_high_g=400.0,
        carbon_intensity_level="zone",
        quality="estimated",
    )
    return replace(base, **changes)


def write(path, *records, tail=""):
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(map(to_ndjson, records)) + tail
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text)
    return path
