"""`config`: the files that are looked for, and CodeCarbon's configuration as one of ours."""

import tomllib

import pytest
from codecarbon.core.config import get_hierarchical_config

from sidecar.cli.main import main

LOCAL = """[codecarbon]
project_name = local
pue = 1.2
api_key = precious
electricitymaps_api_token = precious
odd\x1b[31mkey = 1
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A home and a working directory with CodeCarbon's files."""
    (tmp_path / "home").mkdir()
    (tmp_path / "work").mkdir()
    (tmp_path / "home" / ".codecarbon.config").write_text(
        "[codecarbon]\nproject_name = home\nwue = 1.8\n"
    )
    (tmp_path / "work" / ".codecarbon.config").write_text(LOCAL)
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    return tmp_path


def run(capsys, *words):
    code = main(["config", *words])
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def test_both_files_and_the_environment_are_read_as_codecarbon_does(place, monkeypatch, capsys):
    monkeypatch.setenv("CODECARBON_PUE", "1.3")
    theirs = get_hierarchical_config()
    code, text, _ = run(capsys, "import-codecarbon")
    ours = tomllib.loads(text)
    assert code == 0
    assert ours == {"project": "local", "wue": 1.8, "pue": 1.3}
    assert (theirs["project_name"], theirs["wue"], theirs["pue"]) == ("local", "1.8", "1.3")


def test_each_key_is_answered_and_no_secret_is_shown(place, capsys):
    _, text, told = run(capsys, "import-codecarbon")
    assert "precious" not in text + told
    assert "\x1b" not in text + told
    assert "project_name → project: same" in told
    assert "api_key: not offered" in told
    assert len(told.splitlines()) == 6


def test_a_named_file_is_read_alone(place, monkeypatch, capsys):
    monkeypatch.setenv("CODECARBON_PUE", "1.3")
    _, text, _ = run(capsys, "import-codecarbon", "../home/.codecarbon.config")
    assert tomllib.loads(text) == {"project": "home", "wue": 1.8}


def test_what_is_written_is_found_by_the_next_command_and_nothing_is_written_over(place, capsys):
    assert run(capsys, "import-codecarbon", "--out", "emissions.toml")[0] == 0
    code, _, told = run(capsys, "import-codecarbon", "--out", "emissions.toml")
    assert code == 2
    assert "emissions.toml is there already; remove it, or name another" in told
    code, files, _ = run(capsys, "files")
    assert code == 0
    assert files.startswith("emissions.toml: there;")
    assert f"{place}/home/.config/emissions-sidecar/emissions.toml: not there" in files


@pytest.mark.parametrize("content", ["precious", "[codecarbon]\nprecious", "\udcff"])
def test_a_file_that_is_none_is_one_line_without_its_content(place, capsys, content):
    (place / "bad").write_bytes(content.encode(errors="surrogateescape"))
    code, text, told = run(capsys, "import-codecarbon", "../bad")
    assert (code, text) == (2, "")
    assert told.count("\n") == 1
    assert "precious" not in told


def test_where_there_is_nothing_that_is_said(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    code, _, told = run(capsys, "import-codecarbon")
    assert code == 2
    assert ".codecarbon.config" in told


def test_a_file_that_the_environment_names_is_said_to_be_the_only_one(place, monkeypatch, capsys):
    monkeypatch.setenv("EMISSIONS_CONFIG", "own.toml")
    assert run(capsys, "files")[1].startswith("EMISSIONS_CONFIG names own.toml: no other is read")
