"""A bad setting is one line on standard error that names it, and exit code 2; nothing is begun."""

import json
import logging
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from sidecar.cli.main import main
from sidecar.settings import declared_settings, environment_name, flag_name
from tests.e2e.commands import environment, records, sidecar, windows

ABSURD = ("-1", "nan", "inf", "-inf", "1e99", "", "nonsense", "1,5", "0x10", "1 2")
WORDS = ("", "nonsense", "auto,none", "x" * 10_000)
NAMES = ("", " ", "two\nlines", "\x1b[31m", "x" * 10_000)

BAD: dict[str, tuple[str, ...]] = {
    "config": ("", "/there/is/no/such/file.toml", "/dev/null", "/"),
    "export": ("", "nonsense", "mlflow;comet"),
    "export_deadline": ("", "soon", "11m", "-1s", "nan"),
    "volume": (),
    "project": ("two\nlines", "x" * 10_000, "\u202egnol"),
    "experiment": NAMES,
    "run_id": NAMES,
    "cluster": NAMES,
    "interval": (*ABSURD, "0", "999ms", "2h", "-5s", "15 parsecs", "1e1"),
    "region": NAMES,
    "vm_size": NAMES,
    "country": NAMES,
    "pue": (*ABSURD, "0", "0.99", "5.1"),
    "wue": (*ABSURD, "51"),
    "carbon_intensity": (*ABSURD, "5001"),
    "energy_mix": ("", "nonsense", "coal", "coal=-1", "coal=nan", "coal=x", "unicorn=100"),
    "intensity_table": WORDS,
    "power_model": WORDS,
    "cpu_power": (*ABSURD, "20001"),
    "ram_power": (*ABSURD, "20001"),
    "attribution": (*WORDS, "process-tree"),
    "gpu_replicas": (*ABSURD, "0", "1.5"),
    "dcgm_url": ("", "nonsense", "ftp://x"),
    "node_meter_url": ("", "nonsense", "ftp://x"),
    "cgroup_root": (),
    "kubelet_url": ("", "nonsense", "ftp://x"),
    "kubernetes_url": ("", "nonsense", "ftp://x"),
    "kubernetes_token_file": (),
    "kubernetes_ca_file": (),
    "requests_cpu": ("", "nonsense", "-1", "nan", "inf"),
    "requests_memory": ("", "nonsense", "-1", "nan", "inf", "16 Gigabytes"),
    "requests_gpu": ("", "nonsense", "-1", "nan"),
    "gpu_source": WORDS,
    "gpus": (),
    "vm_sizes_file": ("/there/is/no/such/file.csv", "/dev/null", "/"),
    "imds_endpoint": ("", "two\nlines"),
    "proc_root": (),
    "sys_root": (),
    "podinfo": (),
    "listen": ("", "nonsense", "9877", "host:", "127.0.0.1:65536", "127.0.0.1:-1"),
    "transport": (*WORDS, "blob", "directory", "collector"),
    "flush_interval": ("", "soon", "0s", "25h", "-1s", "nan"),
    "ship_deadline": ("", "soon", "11m", "-1s", "nan"),
    "volume_share": (*ABSURD, "0", "1.01"),
    "volume_limit": ("", "-1", "nan", "much", "48 Mebibytes"),
    "termination_log": (),
    "transport_directory": (),
    "collector_url": ("", "nonsense", "ftp://host", "http://", "collector:8080"),
    "collector_token_file": (),
    "collector_ca_file": (),
    "blob_account_url": ("", "nonsense", "https://", "account"),
    "blob_container": ("", "ab", "Upper", "two--dashes", "-a-", "x" * 64, "a/b"),
    "blob_credential": (*WORDS, "default"),
    "log_format": WORDS,
    "log_level": WORDS,
}
"""Values each setting refuses. Any path is accepted as a path, and any list of GPUs: what is not
there is told when it is looked for, and does not end the metering."""


@pytest.fixture(autouse=True)
def log_as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


def test_every_setting_has_its_bad_values_here():
    declared = declared_settings("meter", "track", "ship", "blob")
    assert set(BAD) == {item.name for item in declared if not item.metadata["secret"]}


CASES = [(name, value) for name, values in BAD.items() for value in values]


def assert_is_refused(code: int, stderr: str, name: str, value: str) -> None:
    assert code == 2
    assert stderr.count("\n") == 1, stderr
    assert stderr.startswith("emissions-sidecar run: ")
    assert len(stderr) < 600
    word, _, _ = name.partition("_")
    assert word in stderr.lower(), stderr
    assert value.strip() == "" or repr(value)[1:30].rstrip("'\"").lower() in stderr.lower()


@pytest.mark.parametrize(("name", "value"), CASES)
def test_a_bad_flag_is_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    name: str, value: str,
):  # fmt: skip
    monkeypatch.chdir(tmp_path)
    code = main(["run", "--for", "1ms", f"{flag_name(name)}={value}"])
    assert_is_refused(code, capsys.readouterr().err, name, value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("name", "value"), [case for case in CASES if case[1]])
def test_a_bad_variable_is_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    name: str, value: str,
):  # fmt: skip
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(environment_name(name), value)
    code = main(["run", "--for", "1ms"])
    assert_is_refused(code, capsys.readouterr().err, name, value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("command", [["run"], ["exec", "--", "true"], ["detect"]])
@pytest.mark.parametrize(("name", "value"), [("interval", "0"), ("pue", "nan")])
def test_the_process_refuses_a_bad_setting(
    tmp_path: Path, command: list[str], name: str, value: str
):
    flagged = sidecar(command[0], f"--{name}", value, *command[1:], cwd=tmp_path)
    variable = {environment_name(name): value}
    set_by_variable = sidecar(*command, env=environment(**variable), cwd=tmp_path)
    for outcome, origin in ((flagged, f"flag --{name}"), (set_by_variable, *variable)):
        assert outcome.code == 2
        assert outcome.stderr.startswith(f"emissions-sidecar {command[0]}: ")
        assert outcome.stderr.count("\n") == 1
        assert origin in outcome.stderr
        assert repr(value) in outcome.stderr
    assert not list(tmp_path.iterdir())


def test_an_unknown_variable_is_refused_with_a_hint(tmp_path: Path):
    outcome = sidecar("run", env=environment(EMISSIONS_INTERVALL="5s"), cwd=tmp_path)
    assert outcome.code == 2
    assert outcome.stderr.count("\n") == 1
    assert "EMISSIONS_INTERVALL" in outcome.stderr
    assert "did you mean EMISSIONS_INTERVAL?" in outcome.stderr
    outcome = sidecar("exec", "--", "true", env=environment(EMISSIONS_FOO="1"), cwd=tmp_path)
    assert outcome.code == 2
    assert "EMISSIONS_FOO: there is no such setting" in outcome.stderr


SERVICE_LINKS = {
    "EMISSIONS_COLLECTOR_SERVICE_HOST": "10.0.0.1",
    "EMISSIONS_COLLECTOR_SERVICE_PORT": "443",
    "EMISSIONS_COLLECTOR_SERVICE_PORT_HTTPS": "443",
    "EMISSIONS_COLLECTOR_PORT": "tcp://10.0.0.1:443",
    "EMISSIONS_COLLECTOR_PORT_8080_TCP": "tcp://10.0.0.1:8080",
    "EMISSIONS_COLLECTOR_PORT_8080_TCP_PROTO": "tcp",
    "EMISSIONS_COLLECTOR_PORT_8080_TCP_PORT": "8080",
    "EMISSIONS_COLLECTOR_PORT_8080_TCP_ADDR": "10.0.0.1",
}


def test_the_variables_of_kubernetes_services_are_no_settings(tmp_path: Path):
    outcome = sidecar(
        "run", "--for", "100ms", "--volume", tmp_path, env=environment(**SERVICE_LINKS)
    )
    assert outcome.code == 0
    assert windows(tmp_path)


def test_an_empty_variable_is_as_if_unset(tmp_path: Path):
    outcome = sidecar(
        "run", "--for", "100ms", "--volume", tmp_path, env=environment(EMISSIONS_REGION="")
    )
    assert outcome.code == 0


def test_a_flag_wins_over_a_variable(tmp_path: Path):
    env = environment(EMISSIONS_PROJECT="variable", EMISSIONS_REGION="eastus")
    sidecar("run", "--for", "100ms", "--volume", tmp_path, "--project", "flag", env=env)
    assert {(row["project"], row["region"]) for row in records(tmp_path)} == {("flag", "eastus")}


@pytest.mark.parametrize("duration", ["-1s", "nan", "", "soon"])
def test_a_bad_time_limit_is_refused(tmp_path: Path, duration: str):
    outcome = sidecar("run", f"--for={duration}", cwd=tmp_path)
    assert outcome.code == 2
    assert "--for" in outcome.stderr
    assert outcome.stderr.count("\n") == 1


# -- what is unknown but no error ------------------------------------------------------------------


def test_an_unknown_region_and_size_are_metered_with_a_marked_fallback(tmp_path: Path):
    outcome = sidecar(
        "run", "--for", "300ms", "--volume", tmp_path, "--region", "atlantis",
        "--vm-size", "Standard_Q1_v9",
    )  # fmt: skip
    assert outcome.code == 0
    row = windows(tmp_path)[-1]
    assert (row["region"], row["vm_size"]) == ("atlantis", "Standard_Q1_v9")
    assert row["country_iso3"] is None
    assert row["carbon_intensity_level"] == "world"
    assert "atlantis" in row["carbon_intensity_source"]
    assert row["energy_kwh"] > 0


ODD_PROJECTS = ["../../etc", "a/b", "..", "/etc/passwd", "🌍 climate", "-rf", "=1+1", "a,b;c"]


@pytest.mark.parametrize("project", ODD_PROJECTS)
def test_an_odd_project_name_never_leaves_the_volume(tmp_path: Path, project: str):
    volume = tmp_path / "deep" / "er" / "volume"
    outcome = sidecar("run", "--for", "100ms", "--volume", volume, f"--project={project}")
    assert outcome.code == 0
    assert {row["project"] for row in records(volume)} == {project}
    files = {path.relative_to(tmp_path).parts[:3] for path in tmp_path.rglob("*") if path.is_file()}
    assert files == {("deep", "er", "volume")}


@pytest.mark.parametrize(
    ("annotation", "project"),
    [
        ("../../etc", "../../etc"),
        ("🌍", "🌍"),
        ("two\\nlines", None),
        ("x" * 10_000, None),
        ("", None),
        ("\\u0000", None),
    ],
)
def test_a_bad_project_annotation_is_a_warning_never_an_error(
    tmp_path: Path, annotation: str, project: str | None
):
    podinfo, volume = tmp_path / "podinfo", tmp_path / "deep" / "volume"
    podinfo.mkdir()
    (podinfo / "annotations").write_text(f'emissions/project="{annotation}"\nother="1"\n')
    env = environment(POD_NAME="p", POD_NAMESPACE="team-a", POD_UID="../../../uid")
    outcome = sidecar("run", "--for", "100ms", "--volume", volume, "--podinfo", podinfo, env=env)
    assert outcome.code == 0
    assert {row["project"] for row in records(volume)} == {project or "team-a"}
    assert {path.parent for path in volume.rglob("*.ndjson")} == {volume / "records"}
    assert set(tmp_path.iterdir()) == {podinfo, tmp_path / "deep"}


def test_values_that_are_not_utf8_are_recorded_or_refused_in_words(tmp_path: Path):
    for name in ("--project", "--cluster"):
        outcome = sidecar("run", "--for", "100ms", "--volume", tmp_path, name, b"caf\xe9")
        assert outcome.code == 2
        assert outcome.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "words", [["run", "--help"], ["run", "--pue", "x"], ["webhook", "--nonsense"]]
)
def test_signals_that_were_held_back_for_a_command_are_heard_again_if_it_does_not_begin(words):
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    main(words)
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before


# -- configuration files -----------------------------------------------------------------------------


def test_a_command_takes_the_file_it_finds_and_the_sidecar_only_the_one_it_is_given(tmp_path: Path):
    (tmp_path / "emissions.toml").write_text('project = "file"\nvolume = "here"\n')
    sidecar("exec", "--", "true", cwd=tmp_path)
    assert {row["project"] for row in records(tmp_path / "here")} == {"file"}
    sidecar("run", "--for", "100ms", "--project", "p", cwd=tmp_path)
    assert {row["project"] for row in records(tmp_path / "emissions")} == {"p"}
    config = ("--config", "emissions.toml")
    sidecar("run", "--for", "100ms", "--project", "p", *config, cwd=tmp_path)
    assert {row["project"] for row in records(tmp_path / "here")} == {"file", "p"}


def test_a_bad_file_is_one_line_and_nothing_is_begun(tmp_path: Path):
    (tmp_path / "emissions.toml").write_text("pue = 7\n")
    for command in (["exec", "--", "touch", "begun"], ["detect"]):
        outcome = sidecar(*command, cwd=tmp_path)
        assert outcome.code == 2
        assert outcome.stderr.count("\n") == 1
        assert "file emissions.toml, pue: '7' is outside 1 to 5" in outcome.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["emissions.toml"]


def test_detect_says_which_file_a_value_is_from(tmp_path: Path):
    (tmp_path / "pyproject.toml").write_text('[tool.emissions]\nregion = "swedencentral"\n')
    outcome = sidecar("detect", "--json", cwd=tmp_path)
    shown = json.loads(outcome.stdout)["settings"]["region"]
    assert shown == {"value": "swedencentral", "source": "file pyproject.toml"}
