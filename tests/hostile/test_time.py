"""Files that somebody wrote so that reading them does not end: each is read or refused in a moment."""

import math
import time
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.carbon.feed import intensity_during
from sidecar.carbon.intensity import ForcedIntensity
from sidecar.carbon.schedule_file import FILE_BYTES_MAX, read_schedule
from sidecar.carbon.series import matched
from tests.hostile.budget import cpu_budget

NEVER = 10**6


def written(path, text):
    path.write_text(text, encoding="utf-8", errors="surrogatepass")
    return path


# -- schedules of carbon intensity, which a repository's own emissions.toml may name -------------------


@pytest.mark.parametrize(
    "text",
    [
        "# source: a" + " " * (FILE_BYTES_MAX - 20) + "b\n",
        "#" + " " * (FILE_BYTES_MAX - 20) + "x\n",
        "# timezone :" + "\t" * (FILE_BYTES_MAX - 20) + "x:\n",
        "hour," + "," * (FILE_BYTES_MAX - 20),
        "start,g_per_kwh\n" + '"' + "a" * (FILE_BYTES_MAX - 20),
        '{"hours": ' + "[" * (FILE_BYTES_MAX - 20),
        '{"hours": [' + "1" * (FILE_BYTES_MAX - 20),
        '{"source": "' + "a" * (FILE_BYTES_MAX - 30) + '", "hours": []}',
    ],
    ids=["source", "comment", "timezone", "columns", "cell", "deep", "number", "name"],
)
def test_a_schedule_made_to_take_for_ever_is_refused_in_a_moment(tmp_path, text):
    with cpu_budget(), pytest.raises(ValueError, match="schedule"):
        read_schedule(written(tmp_path / "s", text))


@pytest.mark.parametrize(
    "start", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00", "1066-10-14T00:00:00Z"]
)
def test_a_schedule_of_times_that_nobody_can_reckon_with_is_refused(tmp_path, start):
    """Its value held in the present, and the loop that meters ended at its year."""
    text = f"start,end,g_per_kwh\n{start},2190-01-01T00:00:00Z,300\n"
    with pytest.raises(ValueError, match="2000 to 2199"):
        read_schedule(written(tmp_path / "s.csv", text))


@given(st.datetimes(), st.sampled_from(["", "Z", "+14:00", "-12:00"]), st.datetimes())
def test_what_a_schedule_says_of_a_window_is_a_value_or_nothing(tmp_path_factory, start, zone, end):
    path = tmp_path_factory.mktemp("schedules", numbered=True) / "s.csv"
    text = f"# timezone: Pacific/Kiritimati\nstart,end,g_per_kwh\n{start}{zone},{end}{zone},300\n"
    try:
        schedule = read_schedule(written(path, text))
    except ValueError:
        return
    otherwise = ForcedIntensity(5.0).intensity()
    for now_s in (
        time.time(),
        datetime(2100, 1, 1, tzinfo=UTC).timestamp(),
        schedule.spans[0].start_s,
    ):
        found = intensity_during(schedule, (now_s, now_s + 15), otherwise)
        assert found.figure.value in (5.0, 300.0)
        assert matched(schedule, now_s, now_s + 15) is None or math.isfinite(found.figure.value)
