"""Runs from CSV: CodeCarbon's columns of every version, ours, and what is none."""

import io
import math
from dataclasses import dataclass
from datetime import UTC
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.report.imports import (
    ALIEN,
    FILE_BYTES_MAX,
    NEGATIVE,
    NO_RUN,
    SUPERSEDED,
    TORN,
    over_hours,
    runs,
)
from sidecar.report.read import UNREADABLE, VANISHED, ReadReport

OLDEST = (
    "timestamp,project_name,duration,emissions,energy_consumed,country_name,country_iso_code,region,"
    "on_cloud,cloud_provider,cloud_region"
)
NEWEST = (
    "timestamp,project_name,run_id,experiment_id,duration,emissions,emissions_rate,cpu_power,"
    "gpu_power,ram_power,cpu_energy,gpu_energy,ram_energy,energy_consumed,water_consumed,"
    "country_name,country_iso_code,region,cloud_provider,cloud_region,os,python_version,"
    "codecarbon_version,cpu_count,cpu_model,gpu_count,gpu_model,longitude,latitude,ram_total_size,"
    "tracking_mode,cpu_utilization_percent,gpu_utilization_percent,ram_utilization_percent,"
    "ram_used_gb,on_cloud,pue,wue"
)
RUN = {
    "timestamp": "2026-11-22T09:00:00",
    "project_name": "demo",
    "run_id": "run-1",
    "duration": "3600",
    "emissions": "0.3",
    "cpu_energy": "0.6",
    "gpu_energy": "0.36",
    "ram_energy": "0.24",
    "energy_consumed": "1.2",
    "country_iso_code": "NLD",
    "gpu_count": "2",
    "gpu_model": "2 x NVIDIA A100",
    "codecarbon_version": "3.3.2",
    "cpu_utilization_percent": "50",
    "pue": "1.2",
}


@dataclass
class File:
    content: bytes
    name: str = "emissions.csv"

    def open(self):
        return io.BytesIO(self.content)


@dataclass
class Broken:
    error: OSError
    name: str = "emissions.csv"

    def open(self):
        raise self.error


def table(*rows, header=NEWEST, tail=""):
    names = header.split(",")
    lines = [header, *(",".join(str(row.get(name, "")) for name in names) for row in rows)]
    return File(("\n".join(lines) + "\n" + tail).encode())


def read(*files, zone=UTC):
    seen = ReadReport()
    return runs(files, seen, zone), dict(seen.left_out)


def test_a_run_is_a_record_in_kwh_without_pue_and_grams():
    ((found,), left_out) = read(table(RUN))
    assert (found.energy_kwh, found.facility_energy_kwh, found.pue) == (1.0, 1.2, 1.2)
    assert (found.cpu_energy_kwh, found.ram_energy_kwh) == pytest.approx((0.5, 0.2))
    assert found.gpu_energy_kwh == pytest.approx(0.3)
    assert found.emissions_g == 300.0
    assert found.carbon_intensity_g_per_kwh == 250.0
    assert (found.pod_method, found.quality) == ("codecarbon", "estimated")
    assert (found.project, found.run_id, found.country_iso3) == ("demo", "run-1", "NLD")
    assert len(found.gpus) == 2
    assert found.cpu_utilization == 0.5
    assert left_out == {}


def test_the_oldest_columns_are_enough():
    ((found,), _) = read(table(RUN, header=OLDEST))
    assert (found.energy_kwh, found.facility_energy_kwh, found.pue) == (1.2, 1.2, None)
    assert found.run_id is None
    assert found.cpu_energy_kwh is None


def test_columns_in_another_order_and_unknown_ones_are_read():
    header = ",".join(reversed([*NEWEST.split(","), "something_new"]))
    assert read(table(RUN, header=header))[0] == read(table(RUN))[0]


def test_the_latest_of_cumulative_rows_is_the_run():
    rows = [RUN | {"duration": str(n), "energy_consumed": str(n)} for n in (1, 3, 2)]
    ((found,), left_out) = read(table(*rows))
    assert found.facility_energy_kwh == 3.0
    assert left_out == {SUPERSEDED: 2}


def test_tasks_count_where_their_run_has_no_row():
    header = "task_name," + NEWEST
    tasks = [RUN | {"task_name": name, "energy_consumed": "0.5"} for name in ("load", "train")]
    found, _ = read(table(*tasks, header=header))
    assert [item.facility_energy_kwh for item in found] == [0.5, 0.5]
    assert found[0].cpu_utilization is None
    ((found,), _) = read(table(*tasks, header=header), table(RUN))
    assert found.facility_energy_kwh == 1.2


def test_local_times_are_those_of_the_zone_and_ours_are_utc():
    amsterdam = ZoneInfo("Europe/Amsterdam")
    ((found,), _) = read(table(RUN), zone=amsterdam)
    assert found.window_end == "2026-11-22T08:00:00.000Z"
    ((found,), _) = read(
        table(RUN | {"codecarbon_version": "emissions-sidecar 0.1.0"}), zone=amsterdam
    )
    assert found.window_end == "2026-11-22T09:00:00.000Z"


def test_a_run_over_the_end_of_summer_time_starts_as_long_before_as_it_took():
    row = RUN | {"timestamp": "2026-10-25T04:00:00", "duration": "10800"}
    ((found,), _) = read(table(row), zone=ZoneInfo("Europe/Amsterdam"))
    assert (found.window_start, found.window_end) == (
        "2026-10-25T00:00:00.000Z",
        "2026-10-25T03:00:00.000Z",
    )


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        ({"energy_consumed": "-1"}, NEGATIVE),
        ({"energy_consumed": "1e400"}, NEGATIVE),
        ({"energy_consumed": "1e300"}, NEGATIVE),
        ({"energy_consumed": "lots"}, NO_RUN),
        ({"energy_consumed": ""}, NO_RUN),
        ({"duration": "nan"}, NO_RUN),
        ({"timestamp": "yesterday"}, NO_RUN),
        ({"timestamp": "0001-01-01T00:00:00"}, NO_RUN),
        ({"duration": "1e14"}, NO_RUN),
        ({"project_name": "x" * 5000}, NO_RUN),
    ],
)
def test_a_lying_row_is_left_out_and_told(change, kind):
    found, left_out = read(table(RUN | change, RUN | {"run_id": "other"}))
    assert [item.run_id for item in found] == ["other"]
    assert left_out == {kind: 1}


def test_a_torn_row_does_not_take_the_next_with_it():
    content = table(RUN, tail="2026-11-22T09:00:00,dem\n").content
    found, left_out = read(File(content + table(RUN | {"run_id": "next"}).content.split(b"\n")[1]))
    assert [item.run_id for item in found] == ["run-1", "next"]
    assert left_out == {TORN: 1}


@pytest.mark.parametrize("content", [b"", b"a,b\n1,2\n", b"\xff\xfe\x00", b"\x00" * 100])
def test_another_csv_is_told(content):
    assert read(File(content)) == ([], {ALIEN: 1})


def test_what_cannot_be_opened_is_told():
    found, left_out = read(Broken(FileNotFoundError()), Broken(PermissionError()), table(RUN))
    assert len(found) == 1
    assert left_out == {VANISHED: 1, UNREADABLE: 1}


def test_a_line_without_end_is_not_read_whole():
    class Endless(io.RawIOBase):
        given = 0

        def readable(self):
            return True

        def readinto(self, buffer):
            self.given += len(buffer)
            buffer[:] = b"x" * len(buffer)
            return len(buffer)

    endless = Endless()

    class Opened:
        name = "emissions.csv"

        def open(self):
            return io.BufferedReader(endless)

    found, left_out = read(Opened())
    assert (found, left_out) == ([], {ALIEN: 1}) or left_out == {UNREADABLE: 1}
    assert endless.given < FILE_BYTES_MAX / 100


def test_codecarbons_own_default_experiment_is_none():
    ((found,), _) = read(table(RUN | {"experiment_id": "5b0fa12a-3dd7-45bb-9766-cc326314d9f1"}))
    assert found.experiment is None


# -- long runs over the hours they took ----------------------------------------------------------------


def parts(**changes):
    ((found,), _) = read(table(RUN | changes))
    return list(over_hours(found))


def test_a_long_run_is_spread_evenly_over_the_hours_it_took():
    found = parts(timestamp="2026-11-22T02:30:00", duration="10800")  # from 23:30 the day before
    assert [(item.window_start[:16], item.duration_s) for item in found] == [
        ("2026-11-21T23:30", 1800.0),
        ("2026-11-22T00:00", 3600.0),
        ("2026-11-22T01:00", 3600.0),
        ("2026-11-22T02:00", 1800.0),
    ]
    assert [item.energy_kwh for item in found] == pytest.approx([1 / 6, 1 / 3, 1 / 3, 1 / 6])
    assert found[0].window_end == found[1].window_start
    assert len({item.record_id for item in found}) == 4
    assert {item.carbon_intensity_g_per_kwh for item in found} == {250.0}


def test_a_run_within_an_hour_stays_as_it_is():
    ((found,), _) = read(table(RUN | {"duration": "600"}))
    assert list(over_hours(found)) == [found]


def test_a_run_of_months_is_spread_over_days():
    found = parts(timestamp="2026-11-22T12:00:00", duration=str(100 * 86_400))
    assert len(found) == 101
    assert {item.window_start[11:16] for item in found[1:]} == {"00:00"}


@given(st.floats(0, 8e8), st.integers(0, 86_399))
def test_nothing_is_lost_where_a_run_is_spread(duration_s, second):
    end = f"2026-11-22T{second // 3600:02}:{second // 60 % 60:02}:{second % 60:02}"
    found = parts(timestamp=end, duration=str(duration_s))
    for name in (
        "duration_s",
        "energy_kwh",
        "facility_energy_kwh",
        "emissions_g",
        "gpu_energy_kwh",
    ):
        whole = getattr(
            read(table(RUN | {"timestamp": end, "duration": str(duration_s)}))[0][0], name
        )
        assert math.fsum(getattr(item, name) for item in found) == pytest.approx(whole)
    assert len(found) <= 1001
