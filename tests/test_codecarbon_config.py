"""CodeCarbon's configuration: every key has an answer, values arrive as ours, secrets stay behind."""

import inspect
import tomllib

import pytest
from codecarbon import EmissionsTracker, OfflineEmissionsTracker
from hypothesis import given
from hypothesis import strategies as st

from sidecar.codecarbon_config import (
    RULES,
    converted,
    environment_keys,
    read_section,
    toml_lines,
    toml_text,
)
from sidecar.settings import declared_settings
from sidecar.settings_file import file_layers


def imported(tmp_path, **keys):
    """The settings that an imported configuration gives."""
    text = "\n".join(toml_lines(converted(keys)))
    (tmp_path / "emissions.toml").write_text(text, encoding="utf-8")
    layers = file_layers(None, {}, tmp_path)
    return layers[0].values if layers else {}


def test_every_parameter_of_codecarbon_has_an_answer():
    parameters = {
        name
        for tracker in (EmissionsTracker, OfflineEmissionsTracker)
        for name in inspect.signature(tracker.__init__).parameters
    } - {"self", "args", "kwargs"}
    assert parameters <= set(RULES)
    assert set(RULES) - parameters == {"organization_id", "project_id"}


def test_every_counterpart_is_a_setting_that_a_project_file_may_have_and_no_two_keys_share_one():
    settings = {item.name: item for item in declared_settings()}
    counterparts = [rule.setting for rule in RULES.values() if rule.setting]
    assert len(counterparts) == len(set(counterparts))
    for name in counterparts:
        assert settings[name].metadata["in_project_file"]


def test_what_differs_or_is_not_offered_says_why():
    for key, rule in RULES.items():
        assert rule.note or rule.verdict == "same", key
        assert (rule.setting is None) == (rule.verdict == "not offered"), key


@pytest.mark.parametrize(
    ("key", "text", "setting", "value"),
    [
        ("project_name", "my project", "project", "my project"),
        ("experiment_name", "base", "experiment", "base"),
        ("measure_power_secs", "30", "interval", "30s"),
        ("measure_power_secs", " 1.5 ", "interval", "1.5s"),
        ("output_dir", "./out", "volume", "./out"),
        ("country_iso_code", "FRA", "country", "FRA"),
        ("pue", "1.2", "pue", "1.2"),
        ("wue", "1.8", "wue", "1.8"),
        ("force_carbon_intensity_g_co2e_kwh", "56", "carbon_intensity", "56"),
        ("force_cpu_power", "85", "cpu_power", "85"),
        ("force_ram_power", "10", "ram_power", "10"),
        ("gpu_ids", "0,1", "gpus", "0,1"),
        ("tracking_mode", "machine", "attribution", "whole-node"),
        ("tracking_mode", "Process", "attribution", "process-tree"),
        ("log_level", "CRITICAL", "log_level", "error"),
        ("log_level", "warning", "log_level", "warning"),
    ],
)
def test_a_value_arrives_as_the_setting_takes_it(tmp_path, key, text, setting, value):
    assert imported(tmp_path, **{key: text}) == {setting: value}


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("measure_power_secs", "0.1"),
        ("measure_power_secs", "soon"),
        ("pue", "9"),
        ("tracking_mode", "both"),
        ("force_cpu_power", "many"),
        ("project_name", ""),
        ("experiment_name", "two\nlines"),
        ("project_name", "%(api_key)s"),
    ],
)
def test_a_value_that_no_setting_takes_is_left_out_and_told(tmp_path, key, text):
    (outcome,) = converted({key: text})
    assert outcome.text is None
    assert outcome.verdict == "not offered"
    assert imported(tmp_path, **{key: text}) == {}


def test_a_cloud_region_is_one_of_azure_or_none(tmp_path):
    azure = {"cloud_provider": "azure", "cloud_region": "westeurope"}
    assert imported(tmp_path, **azure) == {"region": "westeurope"}
    assert imported(tmp_path, cloud_provider="gcp", cloud_region="europe-west4") == {}
    assert imported(tmp_path, cloud_region="westeurope") == {}


def test_a_key_that_codecarbon_does_not_know_is_told():
    (outcome,) = converted({"projcet_name": "x"})
    assert outcome.verdict == "not offered"


SECRET_KEYS = [key for key in RULES if "key" in key or "token" in key]


@pytest.mark.parametrize("key", SECRET_KEYS)
def test_a_secret_is_nowhere_in_what_comes_out(key):
    outcomes = converted({key: "precious", "project_name": "p"})
    assert "precious" not in repr(outcomes)
    assert "precious" not in "\n".join(toml_lines(outcomes))


def test_a_file_that_cannot_be_read_is_told_without_its_lines():
    with pytest.raises(ValueError, match="MissingSectionHeaderError") as error:
        read_section("api_key = precious")
    assert "precious" not in str(error.value)


def test_sections_of_others_are_left_alone():
    assert read_section("[other]\napi_key = x\n[codecarbon]\nproject_name = 100%\n") == {
        "project_name": "100%"
    }
    assert read_section("[other]\na = 1\n") == {}


def test_the_environment_is_read_as_codecarbon_reads_it():
    environ = {"CODECARBON_PROJECT_NAME": "a", "codecarbon_pue": "1.1", "PROJECT_NAME": "b"}
    assert environment_keys(environ) == {"project_name": "a", "pue": "1.1"}


def test_a_percent_sign_that_is_doubled_for_codecarbon_is_one(tmp_path):
    assert imported(tmp_path, project_name="100%%") == {"project": "100%"}


@given(text=st.text(st.characters(exclude_categories=["Cs"])))
def test_any_text_is_spelled_so_that_toml_reads_it_back(text):
    assert tomllib.loads(f"a = {toml_text(text)}") == {"a": text}


@given(text=st.text(max_size=50))
def test_no_value_does_anything_but_arrive_or_be_left_out(text):
    for key in RULES:
        for outcome in converted({key: text, "cloud_provider": "azure"}):
            if outcome.text is not None:
                (line,) = [line for line in toml_lines([outcome]) if not line.startswith("#")]
                assert set(tomllib.loads(line)) == {outcome.setting}
