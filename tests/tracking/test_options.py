"""Parameters: CodeCarbon's signatures, the table of what they mean here, and what is said of them."""

import inspect
import logging
import typing

import pytest
from codecarbon.emissions_tracker import (
    BaseEmissionsTracker,
    OfflineEmissionsTracker,
    track_emissions,
)
from codecarbon.output import OutputMethod as TheirMethod

from sidecar.settings import declared_settings
from sidecar.tracking import options
from sidecar.tracking.options import (
    DECORATOR,
    OFFLINE,
    RULES,
    TRACKER,
    DecoratorOptions,
    OfflineOptions,
    OutputMethod,
    TrackerOptions,
    bound,
    plan_of,
)


@pytest.fixture(autouse=True)
def _nothing_was_said_before():
    options._warn_once.cache_clear()


def parameters(function):
    kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    found = inspect.signature(function).parameters.values()
    return tuple(p.name for p in found if p.kind not in kinds and p.name not in ("self", "fn"))


# -- signatures ------------------------------------------------------------------------------------


def test_the_trackers_take_codecarbons_parameters_in_its_order():
    theirs = parameters(BaseEmissionsTracker.__init__)
    assert theirs == TRACKER == tuple(TrackerOptions.__annotations__)


def test_the_offline_tracker_takes_codecarbons_parameters():
    more = parameters(OfflineEmissionsTracker.__init__)
    assert TRACKER + more == OFFLINE == tuple(OfflineOptions.__annotations__)


def test_the_decorator_takes_codecarbons_parameters_in_its_order():
    assert parameters(track_emissions) == DECORATOR
    assert set(DECORATOR) <= set(DecoratorOptions.__annotations__)


def test_the_table_has_every_parameter_of_codecarbon_and_no_other():
    theirs = {
        *parameters(BaseEmissionsTracker.__init__),
        *parameters(OfflineEmissionsTracker.__init__),
        *parameters(track_emissions),
    }
    assert set(RULES) == theirs


def test_the_methods_of_output_are_codecarbons():
    assert [(one.name, one.value) for one in OutputMethod] == [
        (one.name, one.value) for one in TheirMethod
    ]


def test_every_verdict_that_is_not_same_says_why():
    for name, rule in RULES.items():
        assert rule.verdict in typing.get_args(options.Verdict)
        assert rule.note or rule.verdict == "same", name
        assert (rule.setting is None) or rule.verdict != "not offered", name


def test_the_settings_of_the_table_are_settings():
    names = {item.name for item in declared_settings()}
    assert {rule.setting for rule in RULES.values() if rule.setting} <= names


# -- binding ---------------------------------------------------------------------------------------


def test_values_without_names_get_them_in_order_and_none_is_no_value():
    given = bound("f", TRACKER, ("p", 10), {"pue": None, "wue": 1.0})
    assert given == {"project_name": "p", "measure_power_secs": 10, "wue": 1.0}


# -- what they become ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "flags"),
    [
        ({"project_name": "p"}, {"project": "p"}),
        ({"measure_power_secs": 30}, {"interval": "30.0s"}),
        ({"measure_power_secs": 0.1}, {"interval": "1.0s"}),
        ({"output_dir": "out"}, {"volume": "out"}),
        ({"gpu_ids": [0, 2]}, {"gpus": "0,2"}),
        ({"gpu_ids": "GPU-1,GPU-2"}, {"gpus": "GPU-1,GPU-2"}),
        ({"experiment_id": "id"}, {"experiment": "id"}),
        ({"experiment_name": "name", "experiment_id": "id"}, {"experiment": "name"}),
        ({"tracking_mode": "machine"}, {"attribution": "whole-node"}),
        ({"tracking_mode": "process"}, {"attribution": "process-tree"}),
        ({"force_cpu_power": 100, "force_ram_power": 9}, {"cpu_power": "100", "ram_power": "9"}),
        ({"pue": 1.2, "wue": 0.5}, {"pue": "1.2", "wue": "0.5"}),
        ({"country_iso_code": "fra"}, {"country": "FRA"}),
        ({"country_2letter_iso_code": "FR"}, {"country": "FRA"}),
        (
            {"country_iso_code": "NLD", "country_2letter_iso_code": "FR"},
            {"country": "NLD"},
        ),
        ({"cloud_provider": "azure", "cloud_region": "westeurope"}, {"region": "westeurope"}),
        ({"cloud_provider": "gcp", "cloud_region": "europe-west4"}, {}),
        ({"api_key": "secret"}, {}),
    ],
)
def test_parameters_become_the_settings_that_mean_the_same(given, flags):
    assert plan_of(given).flags == flags


def test_offline_nobody_is_asked():
    for plan in (plan_of({}, offline=True), plan_of({"offline": True})):
        assert plan.flags == {"imds_endpoint": "none", "intensity_source": "catalogue"}


@pytest.mark.parametrize(
    ("given", "keeps"),
    [
        ({}, True),
        ({"save_to_file": True}, True),
        ({"save_to_file": False}, False),
        ({"output_methods": "csv,logger"}, True),
        ({"output_methods": [TheirMethod.CSV]}, True),
        ({"output_methods": ["LOGGER"]}, False),
        ({"output_methods": [], "save_to_file": True}, False),
    ],
)
def test_files_are_kept_unless_a_program_does_without(given, keeps):
    assert plan_of(given).keeps_files is keeps


@pytest.mark.parametrize(
    ("given", "label"),
    [
        ({}, "tracker"),
        ({"project_name": "p"}, "p"),
        ({"project_name": "p", "experiment_name": "e\n1"}, "e 1"),
        ({"project_name": "\n"}, "tracker"),
    ],
)
def test_the_phase_of_a_tracker_has_a_name(given, label):
    assert plan_of(given).label == label


# -- what is said ----------------------------------------------------------------------------------

SAID = {
    "api_call_interval": 2,
    "api_endpoint": "http://other",
    "api_key": "secret-key",
    "save_to_api": True,
    "save_to_prometheus": True,
    "save_to_logfire": True,
    "prometheus_url": "http://other",
    "emissions_endpoint": "http://other",
    "electricitymaps_api_token": "secret-token",
    "co2_signal_api_token": "secret-token",
    "on_csv_write": "append",
    "logger_preamble": "x",
    "force_mode_cpu_load": True,
    "allow_multiple_runs": False,
    "rapl_include_dram": True,
    "rapl_prefer_psys": True,
    "metadata": {"a": 1},
    "region": "quebec",
    "cloud_provider": "gcp",
}


def test_the_cases_are_all_that_is_not_offered():
    assert {name for name, rule in RULES.items() if rule.verdict == "not offered"} == set(SAID) - {
        "cloud_provider"
    }


@pytest.mark.parametrize(("name", "value"), SAID.items())
def test_what_is_not_offered_is_said_once_with_what_to_do_and_without_the_value(
    caplog, name, value
):
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            plan_of({name: value})
    (message,) = caplog.messages
    assert message.startswith(f"{name} has no effect: ")
    assert len(message) > len(name) + 30
    assert "secret" not in message


@pytest.mark.parametrize("name", SAID)
def test_codecarbons_defaults_ask_for_nothing(caplog, name):
    """What it takes where nothing is given is no wish: nothing is said of it."""
    defaults = {
        "api_call_interval": 8,
        "api_endpoint": "https://api.codecarbon.io",
        "api_key": "api_key",
        "prometheus_url": "localhost:9091",
        "on_csv_write": "update",
        "logger_preamble": "",
        "allow_multiple_runs": True,
        "cloud_provider": "azure",
    }
    nothing = name in {
        "emissions_endpoint", "electricitymaps_api_token", "co2_signal_api_token", "metadata", "region",
    }  # fmt: skip
    plan_of({name: defaults.get(name, "" if nothing else False)})
    assert caplog.messages == []


@pytest.mark.parametrize("method", ["api", "prometheus", "logfire", "boamps"])
def test_a_method_of_output_that_is_not_offered_is_said(caplog, method):
    plan_of({"output_methods": ["csv", method]})
    assert "has no effect" in caplog.text


def test_a_level_of_the_log_is_that_of_our_loggers():
    before = logging.getLogger("sidecar").level
    try:
        options.set_log_level("error")
        assert logging.getLogger("sidecar").level == logging.ERROR
        options.set_log_level(logging.DEBUG)
        assert logging.getLogger("sidecar").level == logging.DEBUG
    finally:
        logging.getLogger("sidecar").setLevel(before)
