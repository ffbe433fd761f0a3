"""A schedule file: its shapes, its hours by the clock of a place, and what is wrong with one."""

import json
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.carbon.api import NoIntensityError
from sidecar.carbon.schedule import HourTable, ScheduleService, TimedValues, joined
from sidecar.carbon.schedule_file import read_schedule
from sidecar.carbon.series import matched

DAYS = "mon,tue,wed,thu,fri,sat,sun"
MONTHS = "jan,feb,mar,apr,may,jun,jul,aug,sep,oct,nov,dec"
BY_HOUR = "hour,g_per_kwh\n" + "".join(f"{hour},{100 + hour}\n" for hour in range(24))


@pytest.fixture
def read(tmp_path):
    def written(text):
        path = tmp_path / "my.csv"
        path.write_text(text, encoding="utf-8")
        return read_schedule(path)

    return written


def at(text):
    return datetime.fromisoformat(text).timestamp()


def value(schedule, text):
    found = matched(schedule, at(text), at(text))
    return None if found is None else found.g_per_kwh


def by_days(zone="UTC"):
    rows = [
        ",".join(map(str, [hour, *(100 * (day + 1) + hour for day in range(7))]))
        for hour in range(24)
    ]
    return "\n".join([f"# timezone: {zone}", "# source: a tariff", f"hour,{DAYS}", *rows])


def test_hours_alone_hold_on_every_day(read):
    schedule = read(BY_HOUR)
    assert value(schedule, "2026-11-22T07:30:00Z") == 107
    assert value(schedule, "2031-01-01T23:59:59Z") == 123


def test_hours_and_weekdays(read):
    schedule = read(by_days())
    assert value(schedule, "2026-11-22T07:30:00Z") == 707  # a Sunday
    assert value(schedule, "2026-11-23T00:00:00Z") == 100
    assert schedule.source == "schedule: a tariff"


def test_weekdays_may_be_rows(read):
    hours = ",".join(map(str, range(24)))
    rows = [
        f"{day},{','.join(str(number) for _ in range(24))}"
        for number, day in enumerate(DAYS.split(","))
    ]
    schedule = read("\n".join([f"weekday,{hours}", *reversed(rows)]))
    assert value(schedule, "2026-11-22T07:30:00Z") == 6


def test_hours_and_months(read):
    rows = [",".join(map(str, [f"{hour:02}:00", *range(12)])) for hour in range(24)]
    schedule = read("\n".join([f"hour,{MONTHS}", *rows]))
    assert value(schedule, "2026-11-22T07:30:00Z") == 10


def test_hours_of_a_place_move_with_its_summer_time(read):
    schedule = read("# timezone: Europe/Amsterdam\n" + BY_HOUR)
    assert value(schedule, "2026-01-10T11:30:00Z") == 112
    assert value(schedule, "2026-07-10T11:30:00Z") == 113


def test_the_hour_that_summer_times_end_repeats_holds_twice(read):
    schedule = read("# timezone: Europe/Amsterdam\n" + BY_HOUR)
    values = [value(schedule, f"2026-10-25T0{hour}:30:00Z") for hour in range(3)]
    assert values == [102, 102, 103]


def test_the_hour_that_its_beginning_leaves_out_is_not_used(read):
    schedule = read("# timezone: Europe/Amsterdam\n" + BY_HOUR)
    values = [value(schedule, f"2026-03-29T0{hour}:30:00Z") for hour in range(3)]
    assert values == [101, 103, 104]


def test_weekdays_are_those_of_the_place(read):
    schedule = read(by_days("Asia/Tokyo"))
    assert value(schedule, "2026-11-22T15:30:00Z") == 100  # Monday there


def test_hours_may_begin_at_half_past_in_utc(read):
    schedule = read("# timezone: Asia/Kolkata\n" + BY_HOUR)
    found = matched(schedule, at("2026-11-22T06:00:00Z"), at("2026-11-22T07:00:00Z"))
    assert (found.g_per_kwh, found.low, found.high) == (111.5, 111, 112)
    assert found.at_s == at("2026-11-22T05:30:00Z")


def test_a_series_holds_from_each_time_to_the_next_and_nowhere_else(read):
    schedule = read("start,g_per_kwh\n2026-11-22T00:00:00Z,310\n2026-11-22T01:00:00Z,290\n")
    assert value(schedule, "2026-11-22T00:59:59Z") == 310
    assert value(schedule, "2026-11-22T01:59:59Z") == 290
    assert value(schedule, "2026-11-22T02:00:00Z") is None
    assert value(schedule, "2026-11-21T23:59:59Z") is None


def test_a_series_may_have_ends_and_gaps(read):
    day = "2026-11-22T"
    rows = (f"{day}00:00Z,{day}00:30Z,310", f"{day}01:00Z,{day}02:00Z,1")
    schedule = read("\n".join(("start,end,g_per_kwh", *rows)))
    assert value(schedule, "2026-11-22T00:45:00Z") is None
    assert value(schedule, "2026-11-22T01:45:00Z") == 1


def test_local_times_that_come_twice_are_told_apart_by_their_order(read):
    times = ["01:00", "02:00", "02:00", "03:00"]
    rows = "".join(f"2026-10-25T{time}:00,{number}\n" for number, time in enumerate(times))
    schedule = read("# timezone: Europe/Amsterdam\nstart,g_per_kwh\n" + rows)
    starts = [datetime.fromtimestamp(span.start_s, UTC).hour for span in schedule.spans]
    assert starts == [23, 0, 1, 2]


def test_a_local_time_that_does_not_exist_is_refused(read):
    with pytest.raises(ValueError, match="does not exist in Europe/Amsterdam"):
        read("# timezone: Europe/Amsterdam\nstart,g_per_kwh\n2026-03-29T02:30:00,1\n")


def test_json_says_the_same(read):
    assert (
        read(json.dumps({"hours": [100 + hour for hour in range(24)]})).columns
        == read(BY_HOUR).columns
    )
    days = {
        day: [100 * (n + 1) + hour for hour in range(24)] for n, day in enumerate(DAYS.split(","))
    }
    named = read(json.dumps({"timezone": "UTC", "source": "a tariff", "hours": days}))
    assert named == read(by_days())
    series = [
        {"start": "2026-11-22T00:00:00+01:00", "end": "2026-11-22T01:00:00+01:00", "g_per_kwh": 3}
    ]
    assert value(read(json.dumps({"series": series})), "2026-11-21T23:30:00Z") == 3


def test_a_schedule_that_names_no_source_is_called_by_its_file(read):
    assert read(BY_HOUR).source == "schedule: my.csv"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "header begins with ''"),
        ("time,value\n1,2\n", "header begins with 'time'"),
        ("hour,g_per_kwh\n0,1\n", "1 rows are not the hours 0 to 23"),
        (BY_HOUR.replace("23,123", "22,123"), "not the hours 0 to 23, each once"),
        (BY_HOUR.replace("23,123", "24,123"), "'24' is no hour"),
        (BY_HOUR.replace("123", "-1"), "hour 23: '-1' is no carbon intensity"),
        (BY_HOUR.replace("123", "nan"), "'nan' is no carbon intensity"),
        (BY_HOUR.replace("123", "1e9"), "'1e9' is no carbon intensity"),
        (BY_HOUR.replace("123", ""), "'' is no carbon intensity"),
        (BY_HOUR.replace("23,123", "23"), "row 24 has 1 cells, its header 2"),
        (by_days().replace("sun", "mon"), "named twice"),
        (by_days().replace("sun", "holiday"), "neither the seven weekdays"),
        (by_days("Mars/Olympus"), "time zone 'Mars/Olympus' is not known here"),
        (by_days("../../etc/passwd"), "is not known here"),
        ("start,g_per_kwh\n", "no values"),
        ("start,g_per_kwh\nyesterday,1\n", "'yesterday' is no time"),
        ("start,g_per_kwh\n2026-11-22T00:00:00Z,1\n", "a single value needs an end"),
        ("start,g_per_kwh\n2026-11-22T01:00Z,1\n2026-11-22T00:00Z,1\n", "not after the time before"),
        ("start,end,g_per_kwh\n2026-11-22T00:00:00Z,2026-11-22T00:00:00Z,1\n", "not after"),
        ("start,limit\n2026-11-22T00:00:00Z,1\n", "'limit' is not known"),
        ('{"hours": [1, 2]}', "no list of 24 values"),
        ('{"hours": [' + "true," * 23 + "true]}", "True is no carbon intensity"),
        ('{"series": [3]}', "no list of objects"),
        ("{}", "neither or both"),
        ('{"minutes": []}', "'minutes' is not known"),
        ("{", "Expecting"),
        ('{"hours": ' + "[" * 100_000, "nested too deeply"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_with_its_place(read, text, told):
    with pytest.raises(ValueError, match=r"my\.csv") as caught:
        read(text)
    assert told in str(caught.value)


def test_a_file_that_cannot_be_read_is_told(tmp_path):
    with pytest.raises(ValueError, match="cannot be read: No such file"):
        read_schedule(tmp_path / "none.csv")
    with pytest.raises(ValueError, match=r"no regular file|cannot be read"):
        read_schedule(tmp_path)
    (tmp_path / "large.csv").write_bytes(b"#" * (5 * 1024**2))
    with pytest.raises(ValueError, match="longer than"):
        read_schedule(tmp_path / "large.csv")
    (tmp_path / "bytes.csv").write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match="decode"):
        read_schedule(tmp_path / "bytes.csv")


ZONES = ("UTC", "Europe/Amsterdam", "America/New_York", "Asia/Kolkata", "Australia/Lord_Howe")
instants = st.integers(1_735_689_600, 1_798_761_600).map(
    lambda at_s: datetime.fromtimestamp(at_s, UTC)
)


@given(st.sampled_from(ZONES), instants)
def test_every_instant_has_the_value_of_its_local_hour_and_day(zone, instant):
    columns = tuple(tuple(24.0 * day + hour for hour in range(24)) for day in range(7))
    table = HourTable("weekday", columns, ZoneInfo(zone), "s")
    local = instant.astimezone(ZoneInfo(zone))
    expected = 24.0 * local.weekday() + local.hour
    assert value(table, instant.isoformat()) == expected


@given(st.sampled_from(ZONES), instants, st.integers(1, 96))
def test_joined_quarters_cover_the_same_time_with_the_same_values(zone, instant, quarters):
    table = HourTable("hour", (tuple(float(h) for h in range(24)),), ZoneInfo(zone), "s")
    start_s = instant.timestamp()
    parts = list(table.spans_over(start_s, start_s + 900 * quarters))
    whole = list(joined(parts))
    assert whole[0].start_s == start_s
    assert whole[-1].end_s == start_s + 900 * quarters
    assert all(a.end_s == b.start_s for a, b in pairwise(whole))
    assert sum(s.g_per_kwh * (s.end_s - s.start_s) for s in whole) == pytest.approx(
        sum(s.g_per_kwh * (s.end_s - s.start_s) for s in parts)
    )


def test_a_collector_tells_a_schedule_as_hours_around_now(read):
    now_s = at("2026-11-22T07:30:00Z")
    told = ScheduleService(lambda: read(BY_HOUR)).observed("schedule", now_s)
    assert matched(told, now_s, now_s + 15).g_per_kwh == 107
    assert len(told.known) == 24 + 1 + 48
    assert all(span.end_s - span.start_s <= 3600 for span in told.known)
    assert {span.kind for span in told.known} == {"scheduled"}


def test_a_schedule_that_became_wrong_is_no_answer(tmp_path):
    service = ScheduleService(lambda: read_schedule(tmp_path / "gone.csv"))
    with pytest.raises(NoIntensityError, match="cannot be read"):
        service.observed("schedule", 0.0)


def test_timed_values_are_cut_to_what_is_asked(read):
    schedule = read("start,end,g_per_kwh\n2026-11-22T00:00:00Z,2026-11-22T04:00:00Z,5\n")
    assert isinstance(schedule, TimedValues)
    (span,) = schedule.spans_over(at("2026-11-22T01:00:00Z"), at("2026-11-22T02:00:00Z"))
    assert timedelta(seconds=span.end_s - span.start_s) == timedelta(hours=1)
    assert span.published_for_s == at("2026-11-22T00:00:00Z")
