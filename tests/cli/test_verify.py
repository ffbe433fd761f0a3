"""`verify`: a verdict for people and programs, and an exit code."""

import json
from dataclasses import replace

import pytest

from sidecar.cli import verify
from sidecar.settings import SettingsError
from tests.e2e.commands import sidecar
from tests.report.histories import history
from tests.report.records import write


@pytest.fixture
def volume(tmp_path):
    records = history()
    write(tmp_path / "v" / "records" / "a.ndjson.gz", *records[:3])
    write(tmp_path / "v" / "records" / "b.ndjson", *records[3:])
    return tmp_path / "v"


def said(capsys, *argv):
    code = verify.main([*map(str, argv)])
    return code, capsys.readouterr()


def test_records_in_order_are_clean(volume, capsys):
    code, text = said(capsys, volume)
    assert code == 0
    assert "0 violations, 0 notices" in text.out
    assert "2 files, 6 records, 0 duplicates, 1 pod, 1 boot" in text.out
    assert "Wh" in text.out


def test_a_violation_is_named_with_its_place_and_exit_1(volume, capsys):
    (volume / "records" / "a.ndjson.gz").unlink()
    code, text = said(capsys, volume)
    assert code == 1
    assert "violation: 1 × gap (records are missing" in text.out
    assert "file records/b.ndjson" in text.out
    assert "1 violation, 0 notices" in text.out


def test_a_notice_alone_is_exit_0(tmp_path, capsys):
    write(tmp_path / "a.ndjson", *history()[:-1])
    code, text = said(capsys, tmp_path)
    assert code == 0
    assert "notice: 1 × no end" in text.out


def test_torn_lines_are_shown_with_their_file(volume, capsys):
    write(volume / "records" / "c.ndjson", tail='{"schema":1,"rec\n{"schema":1,"rec')
    code, text = said(capsys, volume)
    assert code == 1
    assert "violation: 2 × torn line" in text.out
    assert "file records/c.ndjson, lines 2" in text.out


def test_examples_that_are_not_shown_are_counted(tmp_path, capsys):
    write(tmp_path / "a.ndjson", *history(20))
    write(tmp_path / "b.ndjson", *history(20))
    _, text = said(capsys, tmp_path)
    assert "violation: 22 × duplicate" in text.out
    assert "… and 12 more" in text.out


def test_json_holds_the_whole_verdict(volume, capsys):
    write(volume / "copy.ndjson", history()[2])
    code, text = said(capsys, volume, "--json")
    verdict = json.loads(text.out)
    assert code == 1
    assert (verdict["source"], verdict["files"], verdict["records"]) == (str(volume), 3, 6)
    (found,) = verdict["violations"]
    assert (found["kind"], found["count"]) == ("duplicate", 1)
    assert found["examples"][0]["files"] == ["copy.ndjson", "records/a.ndjson.gz"]
    assert verdict["notices"] == []
    assert verdict["totals"]["duration_s"] == pytest.approx(64.0)


def test_json_of_absurd_numbers_is_json(volume, capsys):
    tail = '{"schema":1,"record_id":"u.b.0","share_cpu":Infinity,"share_ram":NaN}\n'
    write(volume / "absurd.ndjson", tail=tail)
    _, text = said(capsys, volume, "--json")

    def refuse(name):
        raise AssertionError(name)

    json.loads(text.out, parse_constant=refuse)


def test_no_records_are_told_and_exit_1(tmp_path, capsys):
    code, text = said(capsys, tmp_path)
    assert code == 1
    assert f"nothing to verify under {tmp_path}" in text.err
    assert text.out == ""


def test_only_torn_lines_are_a_violation_and_told(tmp_path, capsys):
    write(tmp_path / "a.ndjson", tail="{\n")
    code, text = said(capsys, tmp_path)
    assert code == 1
    assert "torn line" in text.out


def test_no_such_directory_is_a_usage_error():
    with pytest.raises(SettingsError, match="there is no such directory"):
        verify.main(["/nonexistent"])


def test_a_name_from_a_pod_is_no_markup_and_no_control_sequence(tmp_path, capsys):
    records = [item for n in (0, 1) for item in history(stem=f"pod-{n}.boot", share=0.75)]
    evil = "[red]x\x1b[2J"
    write(tmp_path / "a.ndjson", *[_on(evil, record) for record in records])
    _, text = said(capsys, tmp_path)
    assert "[red]x" in text.out
    assert "\x1b[2J" not in text.out


def _on(node, record):
    return replace(record, node=node)


def test_help_says_what_the_exit_codes_mean(capsys):
    with pytest.raises(SystemExit):
        verify.main(["--help"])
    text = capsys.readouterr().out
    assert "az://CONTAINER" in text
    assert "Exit 0" in text
    assert "EMISSIONS_BLOB_SAS" in text
    assert "--blob-sas" not in text


def test_what_run_leaves_on_its_volume_is_in_order(tmp_path, capsys):
    options = ("--for", "2.5s", "--interval", "1s", "--imds-endpoint", "none")
    assert sidecar("run", "--volume", tmp_path / "v", *options).code == 0
    code, text = said(capsys, tmp_path / "v", "--json")
    verdict = json.loads(text.out)
    assert (code, verdict["violations"], verdict["notices"]) == (0, [], [])
    assert verdict["records"] >= 3
