"""Settings: precedence, origins, and one clear line for what is wrong."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.settings import (
    Settings,
    SettingsError,
    declared_settings,
    environment_name,
    flag_name,
    load_settings,
    parse_duration_s,
)


def test_defaults_hold_where_nothing_is_given():
    settings = load_settings({}, {})
    assert settings.volume == Path("emissions")
    assert settings.interval == 15.0
    assert set(settings.origins.values()) == {"default"}


def test_a_flag_wins_over_the_environment():
    settings = load_settings({"interval": "5s"}, {"EMISSIONS_INTERVAL": "7s"})
    assert settings.interval == 5.0
    assert settings.origins["interval"] == "flag --interval"


def test_the_environment_wins_over_the_default_and_is_remembered():
    settings = load_settings({}, {"EMISSIONS_VM_SIZE": "Standard_D4s_v5"})
    assert settings.vm_size == "Standard_D4s_v5"
    assert settings.origins["vm_size"] == "environment EMISSIONS_VM_SIZE"


def test_an_empty_variable_is_unset():
    assert load_settings({}, {"EMISSIONS_REGION": ""}).region is None


def test_every_setting_has_a_flag_a_variable_and_a_help_text():
    declared = declared_settings()
    assert len(declared) >= 25
    for item in declared:
        assert flag_name(item.name).startswith("--")
        assert environment_name(item.name).startswith("EMISSIONS_")
        assert item.metadata["help"]
        assert item.metadata["metavar"]


@pytest.mark.parametrize("text", ["https://a:secret@host", "https://host/?sig=secret"])
def test_an_address_with_a_secret_in_it_is_refused_and_not_repeated(text):
    with pytest.raises(SettingsError) as refused:
        load_settings({"blob_account_url": text}, {})
    assert "secret" not in str(refused.value)
    assert "EMISSIONS_BLOB_SAS" in str(refused.value)


def test_a_secret_is_not_shown_with_the_settings():
    settings = load_settings({}, {"EMISSIONS_BLOB_SAS": "sig=precious"})
    assert settings.blob_sas == "sig=precious"
    assert "precious" not in repr(settings)


@pytest.mark.parametrize(
    ("text", "size"),
    [("65536", 65536), ("48Mi", 48 * 2**20), ("1G", 10**9), ("1.5Ki", 1536), (" 2 k ", 2000)],
)
def test_sizes_are_read_with_their_unit(text, size):
    assert load_settings({"volume_limit": text}, {}).volume_limit == size


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("0.0.0.0:9877", ("0.0.0.0", 9877)),
        ("[::]:80", ("::", 80)),
        ("localhost:0", ("localhost", 0)),
    ],
)
def test_an_address_to_listen_on_has_host_and_port(text, address):
    assert load_settings({"listen": text}, {}).listen == address


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("15s", 15), ("1m", 60), ("500ms", 0.5), ("2h", 7200), ("90", 90), (" 1.5 m ", 90)],
)
def test_durations_are_read_with_their_unit(text, seconds):
    assert parse_duration_s(text) == seconds


@pytest.mark.parametrize("text", ["", "s", "-5s", "5 parsecs", "nan", "inf", "1e3s", "5s5s"])
def test_a_text_that_is_no_duration_is_refused(text):
    with pytest.raises(ValueError, match="not a duration"):
        parse_duration_s(text)


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("interval", "0s", "outside 1s to 3600s"),
        ("pue", "0.5", "outside 1 to 5"),
        ("pue", "nan", "outside 1 to 5"),
        ("carbon_intensity", "-1", "outside 0 to 5000"),
        ("carbon_intensity", "inf", "outside 0 to 5000"),
        ("cpu_power", "lots", "not a number"),
        ("attribution", "fair", "not one of"),
        ("transport", "pigeon", "not one of"),
        ("region", "west\neurope", "printable"),
        ("region", "x" * 10_000, "10000 characters"),
    ],
)
def test_a_bad_value_names_setting_value_and_what_is_right(name, text, told):
    with pytest.raises(SettingsError) as flagged:
        load_settings({name: text}, {})
    assert flag_name(name) in str(flagged.value)
    assert told in str(flagged.value)
    assert "\n" not in str(flagged.value)
    assert len(str(flagged.value)) < 300
    with pytest.raises(SettingsError, match=environment_name(name)):
        load_settings({}, {environment_name(name): text})


def test_an_unknown_variable_is_refused_with_a_hint():
    with pytest.raises(SettingsError, match="did you mean EMISSIONS_REGION"):
        load_settings({}, {"EMISSIONS_REGON": "westeurope"})


@pytest.mark.parametrize(
    "name",
    [
        "EMISSIONS_COLLECTOR_SERVICE_HOST",
        "EMISSIONS_COLLECTOR_SERVICE_PORT",
        "EMISSIONS_COLLECTOR_SERVICE_PORT_HTTPS",
        "EMISSIONS_COLLECTOR_PORT",
        "EMISSIONS_COLLECTOR_PORT_8443_TCP",
        "EMISSIONS_COLLECTOR_PORT_8443_TCP_ADDR",
        "EMISSIONS_SERVICE_HOST",
    ],
)
def test_what_kubernetes_says_of_services_is_no_setting(name):
    assert isinstance(load_settings({}, {name: "tcp://10.0.0.1:8443"}), Settings)


def test_two_settings_that_each_decide_the_intensity_contradict():
    with pytest.raises(SettingsError, match="keep one"):
        load_settings({"carbon_intensity": "100", "energy_mix": "coal=1"}, {})


@given(text=st.text(max_size=50))
def test_no_text_for_a_number_does_anything_but_parse_or_explain(text):
    try:
        settings = load_settings({"pue": text}, {})
    except SettingsError as error:
        assert "--pue" in str(error)
    else:
        assert settings.pue is None or 1 <= settings.pue <= 5
