"""`when`: the cleanest start in a forecast, and what is said where there is none."""

import json
from datetime import datetime

import pytest

from sidecar.cli import when
from sidecar.cli.main import main as command_line
from sidecar.settings import SettingsError
from tests.fakes.collector import Caller, FakeCollector, respond
from tests.fakes.intensity import EM_TOKEN, FakeIntensity

NOW_S = 1_800_000_900.0  # 2027-01-15T08:15:00Z
HOUR_S = NOW_S // 3600 * 3600


def noon_is_clean(at_s):
    """300 g/kWh, and 100 from 12 to 15 UTC."""
    return 100 if 12 <= at_s // 3600 % 24 < 15 else 300


@pytest.fixture
def fake():
    with FakeIntensity(lambda: NOW_S, noon_is_clean) as fake:
        yield fake


@pytest.fixture
def em(fake, tmp_path, monkeypatch):
    """Flags for Electricity Maps, in a directory of the test's."""
    monkeypatch.chdir(tmp_path)
    token_file = tmp_path / "token"
    token_file.write_text(EM_TOKEN)
    service = ("--intensity-source", "electricity-maps", "--intensity-url", fake.url)
    return (*service, "--intensity-token-file", str(token_file), "--region", "westeurope")


def said(capsys, *argv):
    assert when.main(argv, lambda: NOW_S) == 0
    return capsys.readouterr().out


def row(capsys, *argv):
    return json.loads(said(capsys, *argv, "--json"))


def test_the_cleanest_start_is_named_with_what_it_saves(em, capsys):
    told = row(capsys, "--hours", "2", *em)
    assert told["cleanest"]["start"] == "2027-01-15T12:00:00Z"
    assert told["cleanest"]["g_per_kwh"] == pytest.approx(100)
    assert (told["now"]["start"], told["now"]["g_per_kwh"]) == ("2027-01-15T08:15:00Z", 300)
    assert told["saving_percent"] == pytest.approx(200 / 3)
    assert (told["zone"], told["region"]) == ("NL", "westeurope")
    assert told["foreseen_until"] == "2027-01-16T08:00:00Z"
    assert (told["now"]["kind"], told["cleanest"]["kind"]) == ("forecast", "forecast")


def test_the_bounds_are_those_of_the_hours_it_runs_in(em, capsys):
    told = row(capsys, "--hours", "4", *em)
    assert (told["cleanest"]["low_g_per_kwh"], told["cleanest"]["high_g_per_kwh"]) == (100, 300)
    # At worst all of the power is drawn in the cleanest hour of now, and in the dirtiest of then.
    assert told["saving_low_percent"] == pytest.approx(100 * (1 - 300 / 100))
    assert told["saving_high_percent"] == pytest.approx(100 * (1 - 100 / 300))


def test_a_person_reads_it_in_a_few_lines(em, capsys):
    assert said(capsys, "--hours", "2", *em).splitlines() == [
        "cleanest start for 2 h (westeurope, zone NL)",
        "  now       2027-01-15T08:15:00Z  300 g/kWh (300 to 300), forecast",
        "  cleanest  2027-01-15T12:00:00Z  100 g/kWh (100 to 100), forecast",
        "  saves     67 % (67 to 67 % where the power is not constant)",
        "  foreseen  until 2027-01-16T08:00:00Z",
        "  source    Electricity Maps API v3, zone NL, hourly, life cycle",
    ]


def test_where_no_later_start_is_cleaner_it_says_so(em, fake, capsys):
    fake.value = lambda _: 250
    text = said(capsys, "--hours", "1", *em)
    assert "nothing: no later start is cleaner" in text


def test_a_run_that_starts_now_saves_nothing_over_itself(em, capsys):
    told = row(capsys, "--hours", "6", "--within", "6h", *em)
    assert told["now"] == told["cleanest"]
    assert told["now"]["low_g_per_kwh"] < told["now"]["high_g_per_kwh"]
    savings = {told[f"saving_{name}percent"] for name in ("", "low_", "high_")}
    assert savings == {0.0}


def test_a_run_has_to_end_within_the_time_given(em, capsys):
    told = row(capsys, "--hours", "2", "--within", "5h", *em)
    assert told["cleanest"]["end"] == "2027-01-15T13:15:00Z"


def test_a_forecast_alone_is_asked_for_where_it_has_the_present_hour(em, fake, capsys):
    said(capsys, "--hours", "2", *em)
    assert [path.partition("?")[0] for path in fake.asked()] == ["/carbon-intensity/forecast"]


def test_where_a_forecast_begins_later_the_present_hour_is_asked_for(em, fake, capsys):
    fake.forecast_from_h = 1
    told = row(capsys, "--hours", "2", *em)
    assert told["now"]["start"] == "2027-01-15T08:15:00Z"
    paths = [path.partition("?")[0] for path in fake.asked()]
    assert paths == ["/carbon-intensity/forecast", "/carbon-intensity/history"]


def test_a_question_leaves_nothing_behind(em, tmp_path, capsys):
    said(capsys, "--hours", "2", *em)
    assert [path.name for path in tmp_path.iterdir()] == ["token"]


def test_an_answer_is_kept_on_a_volume_that_is_there(em, fake, tmp_path, capsys):
    (tmp_path / "emissions").mkdir()
    for _ in range(3):
        said(capsys, "--hours", "2", *em)
    assert len(fake.requests) == 1
    assert (tmp_path / "emissions/intensity/electricity-maps.NL.json").is_file()


def test_half_hours_of_britain(fake, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    flags = ("--intensity-source", "uk", "--intensity-url", fake.url, "--region", "uksouth")
    told = row(capsys, "--hours", "1.5", *flags)
    assert told["cleanest"]["start"] == "2027-01-15T12:00:00Z"
    assert told["foreseen_until"] == "2027-01-17T08:00:00Z"


def test_a_schedule_needs_no_region(tmp_path, capsys):
    file = tmp_path / "hours.csv"
    rows = "".join(f"{hour},{noon_is_clean(hour * 3600)}\n" for hour in range(24))
    file.write_text(f"# timezone: Europe/Amsterdam\n# source: mine\nhour,g_per_kwh\n{rows}")
    told = row(
        capsys, "--hours", "3", "--intensity-source", "schedule", "--intensity-file", str(file)
    )
    assert told["cleanest"]["start"] == "2027-01-15T11:00:00Z"
    assert (told["source"], told["cleanest"]["kind"]) == ("schedule: mine", "scheduled")


def test_in_a_cluster_the_collector_is_asked_with_the_pods_token(em, fake, tmp_path, capsys):
    from sidecar.carbon.electricity_maps import ElectricityMaps
    from sidecar.carbon.encoding import encoded

    token_file = tmp_path / "token"
    series = ElectricityMaps(token_file, fake.url).forecast("NL", NOW_S)
    with FakeCollector() as collector:
        collector.callers = {EM_TOKEN: Caller("uid")}
        collector.always = lambda handler: handler.answer(200, encoded(series))
        flags = ("--collector-url", collector.url, "--collector-token-file", str(token_file))
        told = row(
            capsys, "--hours", "2", "--intensity-source", "electricity-maps", "--region", "westeurope",
            *flags,
        )  # fmt: skip
        assert collector.requests[0].path == "/v1/intensity?zone=NL&forecast=true"
    assert told["cleanest"]["start"] == "2027-01-15T12:00:00Z"


def fails(capsys, *argv):
    assert when.main(argv, lambda: NOW_S) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    return line


def test_a_plan_without_forecasts_is_told_and_exits_1(em, fake, capsys):
    fake.always = respond(403, error="no_access", detail="not in your plan")
    line = fails(capsys, "--hours", "2", *em)
    assert line.startswith("emissions-sidecar when: no forecast of electricity-maps for zone NL: ")
    assert line.endswith("answered 403: no_access")


def test_a_forecast_that_is_too_short_is_told_and_exits_1(em, fake, capsys):
    line = fails(capsys, "--hours", "100", *em)
    assert (
        "has no 100 h without a gap: it ends 2027-01-16T08:00:00Z" in line
    )  # as far as it is foreseen
    assert "give fewer --hours" in line


def test_a_forecast_without_values_to_come_is_told(em, fake, capsys):
    fake.value = lambda at_s: 100 if at_s < HOUR_S else -1
    assert "can be taken" in fails(capsys, "--hours", "2", *em)


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (("--hours", "6"), "averages of a year"),
        (("--hours", "0", "--intensity-source", "uk"), "flag --hours"),
        (("--hours", "six", "--intensity-source", "uk"), "not a number"),
        (("--hours", "200", "--intensity-source", "uk"), "outside"),
        (
            ("--hours", "6", "--intensity-source", "uk", "--within", "3h"),
            "not shorter than --hours",
        ),
        (
            ("--hours", "6", "--intensity-source", "uk"),
            "no zone for an unknown region; give --region",
        ),
        (
            ("--hours", "6", "--intensity-source", "uk", "--region", "westeurope"),
            "no zone for region west",
        ),
        (
            ("--hours", "6", "--intensity-source", "uk", "--region", "uksout"),
            "did you mean uksouth",
        ),
        (
            ("--hours", "6", "--intensity-source", "carbon-aware", "--region", "uksouth"),
            "needs the address",
        ),
    ],
)
def test_a_wrong_question_is_one_line(argv, told):
    with pytest.raises(SettingsError, match=told):
        when.main(argv, lambda: NOW_S)


def test_a_wrong_question_exits_2(capsys):
    assert command_line(["when", "--hours", "6"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_where_power_of_now_is_free_no_saving_is_told(em, fake, capsys):
    fake.value = lambda _: 0
    told = row(capsys, "--hours", "1", *em)
    assert told["saving_percent"] is None
    assert datetime.fromisoformat(told["now"]["start"]).timestamp() == NOW_S
