"""Files that somebody wrote so that reading them does not end: each is read or refused in a moment."""

import contextlib
import math
import time
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.carbon.feed import intensity_during
from sidecar.carbon.intensity import forced_intensity
from sidecar.carbon.schedule_file import FILE_BYTES_MAX, read_schedule
from sidecar.carbon.series import matched
from sidecar.codecarbon_config import read_section
from sidecar.settings import SettingsError
from sidecar.settings_file import file_layers
from tests.hostile.budget import cpu_budget
from tests.hostile.test_told import TOLD_MAX

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
    otherwise = forced_intensity(5.0)
    for now_s in (
        time.time(),
        datetime(2100, 1, 1, tzinfo=UTC).timestamp(),
        schedule.spans[0].start_s,
    ):
        found = intensity_during(schedule, (now_s, now_s + 15), otherwise)
        assert found.figure.value in (5.0, 300.0)
        assert matched(schedule, now_s, now_s + 15) is None or math.isfinite(found.figure.value)


# -- configuration: a file in the working directory may be anybody's ---------------------------------


@pytest.mark.parametrize("name", ["emissions.toml", "pyproject.toml"])
@pytest.mark.parametrize(
    "text",
    [
        ".".join(["a"] * 500_000) + "=1",
        ". ".join(['"a"'] * 200_000) + "=1",
        "a={" + ".".join(["b"] * 500_000) + "=1}",
        "[" + ".".join(["a"] * 500_000) + "]",
        "a=" + "[" * NEVER,
        "a=" + "{b=" * (NEVER // 4),
        'a="' + "\\u0041" * (NEVER // 7),
        "a=" + "1" * NEVER,
        "a='''" + "'" * NEVER,
    ],
    ids=["dots", "quotes", "inline", "table", "arrays", "tables", "escapes", "number", "string"],
)
def test_a_configuration_made_to_take_for_ever_is_refused_in_a_moment(tmp_path, name, text):
    written(tmp_path / name, f"# emissions\n{text}\n")
    with cpu_budget(), pytest.raises(SettingsError, match=name) as refused:
        file_layers(None, {}, tmp_path)
    assert len(str(refused.value)) < TOLD_MAX


def test_a_project_with_many_dependencies_on_one_line_is_read(tmp_path):
    listed = ", ".join(f'"package-{number}==1.2.{number}"' for number in range(200))
    text = f"[project]\ndependencies = [{listed}]\n[tool.emissions]\nproject = 'vision'\n"
    (layer,) = file_layers(None, {}, tmp_path) if written(tmp_path / "pyproject.toml", text) else ()
    assert layer.values == {"project": "vision"}


@pytest.mark.parametrize(
    "text",
    [
        "a" + " " * NEVER + "b",
        "a" + "\t=" * (NEVER // 2),
        "[" * NEVER,
        "a=1\n" + " b\n" * (NEVER // 3),
    ],
    ids=["blanks", "signs", "sections", "lines"],
)
def test_a_configuration_of_codecarbon_made_to_take_for_ever_is_read_or_refused(text):
    with cpu_budget(), contextlib.suppress(ValueError):
        read_section(f"[codecarbon]\n{text}\n")
