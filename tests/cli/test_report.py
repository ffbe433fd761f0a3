"""`report`: totals per project on the terminal, as JSON and as files."""

import json
import re

import pytest

from sidecar.cli.main import main
from tests.report.records import record, write
from tests.report.test_tracked_pods import WORDS, Api, ended, pod


@pytest.fixture
def volume(tmp_path):
    write(tmp_path / "v" / "records" / "a.ndjson", record("a.1"), record("a.2"))
    write(tmp_path / "v" / "records" / "b.ndjson.gz", record("b.1", project="other"))
    return tmp_path / "v"


def test_the_table_names_each_project_and_the_files(volume, capsys):
    assert main(["report", str(volume)]) == 0
    text = capsys.readouterr().out
    assert "demo" in text
    assert "other" in text
    assert "3 records in 2 files" in text
    assert f"open {volume / 'reports' / 'v1' / 'index.html'}" in text
    assert (volume / "reports" / "v1" / "projects.csv").is_file()


def test_json_goes_to_standard_output_and_to_the_file(volume, capsys):
    assert main(["report", str(volume), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    written = json.loads((volume / "reports" / "v1" / "summary.json").read_text())
    assert printed == written
    assert [row["project"] for row in printed["projects"]] == ["demo", "other"]


def test_a_report_can_be_written_elsewhere(volume, tmp_path):
    assert main(["report", str(volume), "--out", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out" / "summary.json").is_file()
    assert not (volume / "reports").exists()


def test_a_report_twice_is_the_same_report(volume, capsys):
    documents = []
    for _ in range(2):
        main(["report", str(volume), "--json"])
        documents.append(json.loads(capsys.readouterr().out))
        del documents[-1]["generated_at"], documents[-1]["coverage"]["last_record_age_days"]
    assert documents[0] == documents[1]


def test_only_one_project_is_asked_for(volume, capsys):
    main(["report", str(volume), "--project", "other", "--json"])
    assert len(json.loads(capsys.readouterr().out)["projects"]) == 1


def test_dates_select_windows(volume, capsys):
    assert main(["report", str(volume), "--since", "2026-11-23", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["projects"] == []
    main(["report", str(volume), "--until", "2026-11-22T09:00:01+01:00", "--json"])
    assert json.loads(capsys.readouterr().out)["projects"][0]["records"] == 2


def test_torn_lines_are_told(volume, capsys):
    write(volume / "records" / "c.ndjson", tail='{"schema":1,"rec')
    main(["report", str(volume)])
    assert "left out: 1 × torn line" in capsys.readouterr().out


def test_a_name_from_a_pod_is_no_markup_and_no_control_sequence(tmp_path, capsys):
    name = "[red]x[/red]\x1b[2J"
    write(tmp_path / "a.ndjson", record("a.1", project=name))
    main(["report", str(tmp_path)])
    text = capsys.readouterr().out
    assert "[red]x" in text
    assert "\x1b[2J" not in text


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["/nonexistent"], "there is no such directory"),
        (["az://container"], "set EMISSIONS_BLOB_ACCOUNT_URL"),
        (["az://No"], "'No' is no container name"),
        (["az://container?sv=1&sig=secret"], "a SAS is given in EMISSIONS_BLOB_SAS"),
        (["{volume}", "--since", "yesterday"], "--since: 'yesterday' is not a date"),
    ],
)
def test_bad_input_is_one_clear_line_and_exit_2(volume, capsys, argv, told):
    assert main(["report", *(word.format(volume=volume) for word in argv)]) == 2
    error = capsys.readouterr().err
    assert told in error
    assert "secret" not in error
    assert error.count("\n") == 1


def test_a_place_that_cannot_be_written_still_prints_the_totals(volume, tmp_path, capsys):
    blocker = tmp_path / "blocker"
    blocker.write_text("a file")
    assert main(["report", str(volume), "--out", str(blocker / "out")]) == 1
    printed = capsys.readouterr()
    assert "demo" in printed.out
    assert "give another directory with --out" in printed.err


def test_a_time_before_all_times_is_told(volume, capsys):
    assert main(["report", str(volume), "--since", "0001-01-01T00:00+14:00"]) == 2
    assert "is not a date or time" in capsys.readouterr().err


def test_a_directory_without_records_is_told_and_nothing_is_written(tmp_path, capsys):
    assert main(["report", str(tmp_path)]) == 1
    assert "no records under" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_selection_does_not_replace_the_report_of_the_whole(volume, capsys):
    main(["report", str(volume)])
    whole = (volume / "reports" / "v1" / "projects.csv").read_bytes()
    assert main(["report", str(volume), "--project", "demo"]) == 0
    assert "not written: this is a selection" in capsys.readouterr().out
    assert (volume / "reports" / "v1" / "projects.csv").read_bytes() == whole


def test_a_selection_is_written_where_it_is_asked_for(volume, tmp_path):
    out = tmp_path / "out"
    assert main(["report", str(volume), "--project", "demo", "--out", str(out)]) == 0
    assert (out / "projects.csv").read_text().count("\n") == 2


def test_a_selection_of_nothing_is_told(volume, capsys):
    assert main(["report", str(volume), "--project", "dmeo"]) == 1
    assert "none of 3 records" in capsys.readouterr().err


def test_the_factors_are_named_with_their_sources(tmp_path, capsys):
    factors = {
        "region": "westeurope",
        "carbon_intensity_g_per_kwh": 253.0,
        "carbon_intensity_source": "Electricity Maps",
        "carbon_intensity_year": 2025,
        "pue": 1.14,
        "identity_source": {"pue": "Microsoft"},
    }
    write(tmp_path / "a.ndjson", record("a.1", **factors), record("a.2", **factors))
    main(["report", str(tmp_path)])
    text = capsys.readouterr().out
    assert text.count("westeurope: 253 g/kWh, Electricity Maps (2025); PUE 1.14, Microsoft") == 1
    main(["report", str(tmp_path), "--json"])
    (used,) = json.loads(capsys.readouterr().out)["projects"][0]["factors"]
    assert (used["region"], used["pue_source"], used["energy_kwh"]) == (
        "westeurope",
        "Microsoft",
        2.0,
    )
    assert "Electricity Maps" in (tmp_path / "reports" / "v1" / "projects.csv").read_text()


def test_a_terminal_that_is_too_narrow_gets_a_list_with_whole_numbers(volume, capsys, monkeypatch):
    monkeypatch.setattr("sidecar.cli.tables.WIDTH_OF_FILES", 60)
    main(["report", str(volume)])
    text = capsys.readouterr().out
    assert "…" not in text
    assert re.search(r"energy Wh +2,000 *\n", text)


def test_settings_of_other_commands_are_not_obeyed(volume, monkeypatch):
    monkeypatch.setenv("EMISSIONS_INTERVAL", "never")
    monkeypatch.setenv("EMISSIONS_BLOB_CONNECTION_STRING", "nonsense")
    assert main(["report", str(volume)]) == 0


def test_a_schedule_may_find_no_records_yet(tmp_path, capsys):
    assert main(["report", str(tmp_path)]) == 1
    assert main(["report", str(tmp_path), "--allow-empty"]) == 0
    assert "yet" in capsys.readouterr().out


def test_files_that_are_no_records_are_still_told(tmp_path):
    (tmp_path / "x.ndjson").write_text("no record\n")
    assert main(["report", str(tmp_path), "--allow-empty"]) == 1


def test_a_budget_of_the_command_line_comes_before_the_annotation(tmp_path, capsys):
    write(tmp_path / "a.ndjson", record("a.1", annotations={"emissions/budget": "1kg"}))
    for flags, source in ((), "annotation"), (("--budget", "demo=2t"), "setting"):
        main(["report", str(tmp_path), *flags, "--json"])
        (project,) = json.loads(capsys.readouterr().out)["projects"]
        assert project["budget"]["source"] == source


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--budget", "demo"], "names no project"),
        (["--azure-export", "/nonexistent"], "cannot be read"),
        (["--memory", "much"], "is not a size"),
    ],
)
def test_a_bad_flag_is_one_line_and_exit_2(volume, capsys, flags, told):
    assert main(["report", str(volume), *flags]) == 2
    assert told in capsys.readouterr().err


def test_several_places_are_one_dataset(volume, tmp_path, capsys):
    write(tmp_path / "w" / "c.ndjson", record("c.1", project="third"), record("a.1"))
    main(["report", str(volume), str(tmp_path / "w"), "--json"])
    model = json.loads(capsys.readouterr().out)
    assert {row["project"] for row in model["projects"]} == {"demo", "other", "third"}
    assert (model["records"], model["duplicates"]) == (4, 1)


def test_closed_days_are_compacted_and_the_report_stays_the_same(tmp_path, capsys):
    volume = tmp_path / "v"
    day = {"window_start": "2026-11-02T08:00:00.000Z", "window_end": "2026-11-02T08:00:15.000Z"}
    write(volume / "a.ndjson", *(record(f"a.{n}", **day) for n in (1, 2, 3)))
    main(["report", str(volume), "--json"])
    before = json.loads(capsys.readouterr().out)["total"]
    assert main(["report", "compact", str(volume), "--older-than", "0"]) == 0
    assert "3 records of 1 day in 1 part" in capsys.readouterr().out
    main(["report", str(volume), "--json"])
    after = json.loads(capsys.readouterr().out)["total"]
    assert after["energy_kwh"] == pytest.approx(before["energy_kwh"])
    assert after["records"] == before["records"] == 3


def test_serving_what_is_no_report_is_told(tmp_path, capsys):
    assert main(["report", "serve", str(tmp_path)]) == 2
    assert "write a report there first" in capsys.readouterr().err


def test_many_projects_are_cut_and_the_rest_is_counted(tmp_path, capsys):
    rows = [record(f"p{n}.1", project=f"p{n}", emissions_g=1000.0 - n) for n in range(60)]
    write(tmp_path / "a.ndjson", *rows)
    main(["report", str(tmp_path)])
    text = capsys.readouterr().out
    assert "… and 35 more in projects.csv" in text
    assert "p24" in text
    assert "p25" not in text


def test_amounts_come_in_the_unit_that_suits_the_largest(tmp_path, capsys):
    write(
        tmp_path / "a.ndjson",
        record("a.1", energy_kwh=17937.98, emissions_g=5e5),
        record("b.1", project="small", energy_kwh=0.5, emissions_g=100.0),
    )
    main(["report", str(tmp_path)])
    text = capsys.readouterr().out
    assert "energy MWh" in text
    assert "kg CO2e" in text
    assert "17.9" in text


def test_what_is_not_known_of_the_factors_is_said_in_words(volume, capsys):
    main(["report", str(volume)])
    text = capsys.readouterr().out
    assert "region unknown: 250 g/kWh, source not named; no PUE applied" in text
    assert "None" not in text


CODECARBON = """timestamp,project_name,run_id,duration,emissions,energy_consumed,codecarbon_version
2026-07-01T00:30:00,demo,r1,600,0.1,0.5,3.2.0
"""


@pytest.mark.parametrize(("zone", "day"), [("UTC", "2026-07-01"), ("Europe/Berlin", "2026-06-30")])
def test_csv_files_that_name_no_time_zone_are_read_in_the_one_that_is_given(
    tmp_path, capsys, zone, day
):
    (tmp_path / "emissions.csv").write_text(CODECARBON)
    assert main(["report", str(tmp_path), "--csv-timezone", zone, "--json"]) == 0
    assert [row["day"] for row in json.loads(capsys.readouterr().out)["days"]] == [day]


@pytest.mark.parametrize("zone", ["Mars/Olympus", "", "../etc/passwd", "x" * 5000])
def test_a_time_zone_that_is_none_is_told(volume, capsys, zone):
    assert main(["report", str(volume), "--csv-timezone", zone]) == 2
    assert "is no time zone known here" in capsys.readouterr().err


@pytest.fixture
def api():
    made = Api()
    yield made
    made.close()


@pytest.fixture
def kubernetes(api, tmp_path):
    (tmp_path / "token").write_text("a.b.c")
    url = f"http://127.0.0.1:{api.server.server_port}"
    return [
        "--tracked-pods",
        f"--kubernetes-url={url}",
        f"--kubernetes-token-file={tmp_path}/token",
    ]


def test_pods_without_records_are_listed_with_what_they_told(volume, api, kubernetes, capsys):
    words = json.dumps(WORDS)
    api.pods = [pod("uid-1"), pod("b", **ended(words)), pod("c", "skipped: no room")]
    main(["report", str(volume), *kubernetes])
    text = capsys.readouterr().out
    assert "2 pods asked to be tracked and left no records:" in text
    assert "vision/train-c: skipped: no room" in text
    assert "not arrived, as their sidecars told at their end: 250 Wh, 63 g CO2e" in text
    main(["report", str(volume), *kubernetes, "--json"])
    coverage = json.loads(capsys.readouterr().out)["coverage"]
    assert (coverage["pods_asked"], coverage["pods_without_records_count"]) == (3, 2)
    assert coverage["pods_not_arrived"]["emissions_g"] == 63.0


@pytest.mark.parametrize("selection", [["--project", "other"], ["--until", "2020-01-01"]])
def test_a_selection_makes_no_pod_one_without_records(volume, api, kubernetes, selection, capsys):
    api.pods = [pod("uid-1")]
    main(["report", str(volume), *kubernetes, *selection, "--json"])
    coverage = json.loads(capsys.readouterr().out)["coverage"]
    assert coverage["pods_without_records_count"] == 0


def test_an_api_that_refuses_ends_no_report_and_is_told(volume, api, kubernetes, capsys):
    api.statuses["pods"] = 403
    assert main(["report", str(volume), *kubernetes]) == 0
    text = capsys.readouterr().out
    assert "pods that asked to be tracked were not looked up" in text
    assert "list on pods" in text
    assert (volume / "reports" / "v1" / "index.html").is_file()


def test_an_intensity_that_varies_is_named_once_with_its_range(tmp_path, capsys):
    rows = [
        record(f"p{n}.1", project=f"p{n}", region="westeurope", carbon_intensity_source="by the hour",
               carbon_intensity_g_per_kwh=100.0 + n)
        for n in range(3)
    ]  # fmt: skip
    write(tmp_path / "a.ndjson", *rows)
    main(["report", str(tmp_path)])
    assert "westeurope: 100 to 102 g/kWh, by the hour" in " ".join(capsys.readouterr().out.split())


def test_a_report_has_the_name_and_the_note_that_are_given(volume):
    main(["report", str(volume), "--title", "Lab <X>", "--note", "Only a test."])
    for path in (volume / "reports" / "v1").rglob("*.html"):
        page = path.read_text()
        assert "Lab &lt;X&gt;" in page
        assert "Only a test." in page
