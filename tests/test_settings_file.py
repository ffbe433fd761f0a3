"""Configuration files: where they are looked for, what they may say, and who goes before whom."""

import os
import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.settings import SettingsError, declared_settings, load_settings
from sidecar.settings_file import FILE_BYTES_MAX, file_layers


@pytest.fixture
def home(tmp_path):
    """A user's configuration directory and a working directory, both empty."""
    (tmp_path / "config" / "emissions-sidecar").mkdir(parents=True)
    (tmp_path / "work").mkdir()
    return tmp_path


def loaded(home, flags=(), *, named=None, finds=True, **variables):
    environ = {"XDG_CONFIG_HOME": str(home / "config"), **variables}
    own = {name: text for name, text in environ.items() if name.startswith("EMISSIONS_")}
    files = file_layers(named, environ, home / "work", finds=finds)
    return load_settings(dict(flags), own, files)


def write(home, text, name="work/emissions.toml"):
    (home / name).write_text(text, encoding="utf-8")


def refused(home, text, **options):
    write(home, text)
    with pytest.raises(SettingsError) as error:
        loaded(home, **options)
    message = str(error.value)
    assert "\n" not in message
    assert "emissions.toml" in message
    return message


# -- who speaks ------------------------------------------------------------------------------------


def test_flags_go_before_the_environment_before_the_file_before_the_default(home):
    write(home, 'project = "file"\nregion = "file"\ncluster = "file"\n')
    settings = loaded(
        home, {"project": "flag"}, EMISSIONS_PROJECT="variable", EMISSIONS_REGION="variable"
    )
    assert (settings.project, settings.region, settings.cluster) == ("flag", "variable", "file")
    assert settings.interval == 15
    assert settings.origins["project"] == "flag --project"
    assert settings.origins["region"] == "environment EMISSIONS_REGION"
    assert settings.origins["cluster"] == "file emissions.toml"
    assert settings.origins["interval"] == "default"


def test_the_working_directory_goes_before_pyproject_before_the_users_own(home):
    write(home, 'project = "work"\n')
    write(home, '[tool.emissions]\nproject = "py"\nregion = "py"\n', "work/pyproject.toml")
    own = "config/emissions-sidecar/emissions.toml"
    write(home, 'project = "own"\nregion = "own"\ncluster = "own"\n', own)
    settings = loaded(home)
    assert (settings.project, settings.region, settings.cluster) == ("work", "py", "own")
    assert settings.origins["region"] == "file pyproject.toml"
    assert settings.origins["cluster"] == f"file {home / own}"


def test_a_named_file_is_the_only_one_by_flag_or_environment(home):
    write(home, 'project = "work"\nregion = "work"\n')
    write(home, 'project = "named"\n', "named.toml")
    name = str(home / "named.toml")
    for settings in (loaded(home, named=name), loaded(home, EMISSIONS_CONFIG=name)):
        assert (settings.project, settings.region) == ("named", None)
    assert loaded(home, named="none").project is None


def test_a_pyproject_can_be_named_too(home):
    write(home, '[project]\nname = "x"\n[tool.emissions]\ncluster = "c"\n', "pyproject.toml")
    assert loaded(home, named=str(home / "pyproject.toml")).cluster == "c"


def test_the_sidecar_reads_only_a_file_that_was_named(home):
    write(home, 'project = "training"\n')
    assert loaded(home, finds=False).project is None
    name = str(home / "work" / "emissions.toml")
    assert loaded(home, finds=False, named=name).project == "training"


@pytest.mark.parametrize(
    ("variables", "is_read"),
    [
        ({"XDG_CONFIG_HOME": "config"}, False),
        ({"XDG_CONFIG_HOME": "", "HOME": "{home}"}, True),
        ({"HOME": "{home}"}, True),
        ({"HOME": ""}, False),
        ({}, False),
    ],
)
def test_the_users_directory_is_where_xdg_says(home, monkeypatch, variables, is_read):
    monkeypatch.chdir(home)
    (home / ".config" / "emissions-sidecar").mkdir(parents=True)
    write(home, 'project = "own"\n', ".config/emissions-sidecar/emissions.toml")
    write(home, 'project = "relative"\n', "config/emissions-sidecar/emissions.toml")
    environ = {name: text.format(home=home) for name, text in variables.items()}
    layers = file_layers(None, environ, home / "work")
    assert [layer.values for layer in layers] == ([{"project": "own"}] if is_read else [])


# -- what a value may be ---------------------------------------------------------------------------


def test_values_are_what_is_natural_in_toml(home):
    write(
        home,
        'interval = "1m"\nflush_interval = 60\npue = 1.25\ngpus = [0, "GPU-1"]\n'
        'export = ["mlflow", "otlp"]\nenergy_mix = { coal = 20, wind = 80.5 }\nvolume_limit = "1Mi"\n',
        "named.toml",
    )
    settings = loaded(home, named=str(home / "named.toml"))
    assert (settings.interval, settings.flush_interval, settings.pue) == (60, 60, 1.25)
    assert (settings.gpus, settings.export) == ("0,GPU-1", ("mlflow", "otlp"))
    assert (settings.energy_mix, settings.volume_limit) == ("coal=20,wind=80.5", 2**20)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("pue = true", "not a bool"),
        ("pue = 7", "outside 1 to 5"),
        ("pue = nan", "outside 1 to 5"),
        ("pue = [1.2]", "not a list"),
        ("project = 2026-01-01", "not a date"),
        ("project = {a = 1}", "not a dict"),
        ("gpus = [[0]]", "not a list"),
        ("interval = 15m", "no TOML"),
        ('interval = "15 parsecs"', "is not a duration"),
        ("pue = 1.2\npue = 1.3", "no TOML"),
        ("[meter]\npue = 1.2", "no such setting"),
        ("regoin = 'x'", "did you mean region?"),
        ("vm-size = 'x'", "did you mean vm_size?"),
        ("EMISSIONS_PUE = 1.2", "no such setting"),
        ('config = "other.toml"', "cannot name another"),
        ("pue = " + "[" * 5_000, "no TOML"),
        ("project = '''two\nlines'''", "project"),
    ],
)
def test_a_wrong_line_is_told_in_one_line_with_file_and_key(home, text, told):
    if text.startswith("project = '''"):  # what a project may be called is asked with the identity
        text = text.replace("project", "experiment")
        told = "experiment"
    assert told in refused(home, text)


def test_a_number_too_long_for_python_is_refused_not_a_crash(home):
    refused(home, f"pue = {'9' * 5_000}")


def test_bytes_that_are_no_text_are_refused(home):
    (home / "work" / "emissions.toml").write_bytes(b'project = "caf\xe9"\n')
    with pytest.raises(SettingsError, match=r"emissions\.toml: is no TOML"):
        loaded(home)


SECRETS = [item.name for item in declared_settings() if item.metadata["secret"]]


@pytest.mark.parametrize("name", SECRETS)
@pytest.mark.parametrize("named", [None, "work/emissions.toml"])
def test_a_secret_is_refused_in_every_file_and_not_repeated(home, name, named):
    named = named and str(home / named)
    message = refused(home, f'{name} = "precious"', named=named)
    assert "precious" not in message
    assert f"EMISSIONS_{name.upper()}" in message


# -- whose file it is ------------------------------------------------------------------------------

OUTWARD = [
    "imds_endpoint", "kubernetes_url", "kubernetes_token_file", "kubelet_url", "node_meter_url",
    "dcgm_url", "listen", "termination_log", "transport", "transport_directory", "collector_url",
    "collector_token_file", "blob_account_url", "blob_credential", "tls_key",
]  # fmt: skip


@pytest.mark.parametrize("name", OUTWARD)
def test_a_file_that_was_found_does_not_say_where_data_or_credentials_go(home, name):
    """Who clones a repository and meters in it must not send a token to whoever wrote its file."""
    message = refused(home, f'{name} = "http://evil.example"')
    assert "--config" in message
    assert "evil" not in message


def test_every_setting_with_an_address_a_file_or_a_secret_is_kept_from_files_that_are_found():
    for item in declared_settings():
        if item.metadata["in_project_file"]:
            assert item.metadata["metavar"] not in ("URL", "HOST:PORT"), item.name
            assert item.metadata["metavar"] != "FILE" or item.name == "intensity_file", item.name
            assert item.metadata["group"] in ("meter", "intensity", "track"), item.name
            assert not item.metadata["secret"], item.name


@pytest.mark.parametrize("is_named", [True, False])
def test_the_users_own_and_a_named_file_may_say_where_data_goes(home, is_named):
    own = "config/emissions-sidecar/emissions.toml"
    write(home, 'transport = "collector"\ncollector_url = "http://collector"\n', own)
    settings = loaded(home, named=str(home / own) if is_named else None)
    assert settings.collector_url == "http://collector"


# -- files that are none ---------------------------------------------------------------------------


def test_a_pyproject_that_does_not_name_us_is_not_our_concern(home):
    write(home, "this is = = no TOML", "work/pyproject.toml")
    assert loaded(home).project is None


def test_a_pyproject_that_names_us_elsewhere_is_read_and_says_nothing(home):
    write(home, '[project]\ndependencies = ["emissions-sidecar"]\n', "work/pyproject.toml")
    assert loaded(home).project is None


@pytest.mark.parametrize("text", ["tool = 1\n#emissions", "[tool]\nemissions = 1"])
def test_a_pyproject_without_a_table_of_ours_sets_nothing(home, text):
    write(home, text, "work/pyproject.toml")
    if "= 1\n#" in text:
        assert loaded(home).project is None
        return
    with pytest.raises(SettingsError, match=r"pyproject\.toml: tool\.emissions"):
        loaded(home)


def test_a_pipe_is_not_waited_on(home):
    os.mkfifo(home / "work" / "emissions.toml")
    with pytest.raises(SettingsError, match="no regular file"):
        loaded(home)


def test_a_huge_file_is_not_read(home):
    write(home, "#" * (FILE_BYTES_MAX + 1))
    with pytest.raises(SettingsError, match="larger than"):
        loaded(home)


def test_a_named_file_that_is_not_there_is_told(home):
    with pytest.raises(SettingsError, match=r"nowhere\.toml' cannot be read: No such file"):
        loaded(home, named="nowhere.toml")


def test_a_home_that_is_none_is_no_error(home):
    write(home, "", "file")
    environ = {"XDG_CONFIG_HOME": str(home / "file")}
    assert file_layers(None, environ, home / "work") == ()


@given(content=st.binary(max_size=200))
def test_no_content_does_anything_but_set_or_explain(tmp_path_factory, content):
    directory = tmp_path_factory.getbasetemp()
    (directory / "emissions.toml").write_bytes(content)
    try:
        layers = file_layers(None, {}, directory)
    except SettingsError as error:
        assert "emissions.toml" in str(error)
    else:
        for layer in layers:
            assert set(layer.values) <= set(tomllib.loads(content.decode("utf-8-sig")))
