"""`estimate`: what-if figures with their factors and sources."""

import json

import pytest

from sidecar.cli.main import main
from sidecar.record import EmissionRecord

A100 = (
    "estimate", "--vm-size", "Standard_NC24ads_A100_v4", "--region", "westeurope",
    "--hours", "1", "--cpu-util", "50", "--gpu-util", "90", "--json",
)  # fmt: skip


def estimated(capsys, *argv):
    assert main(argv) == 0
    return json.loads(capsys.readouterr().out)


def test_the_a100_hour_has_energy_emissions_and_the_source_of_every_factor(capsys):
    row = estimated(capsys, *A100)
    # A100 PCIe: idle 52.7 W, limit 300 W; 90 % of the way between
    assert row["gpu_energy_kwh"] == pytest.approx((52.7 + 247.3 * 0.9) / 1000)
    assert row["energy_kwh"] == pytest.approx(
        row["cpu_energy_kwh"] + row["ram_energy_kwh"] + row["gpu_energy_kwh"]
    )
    assert row["emissions_g"] == pytest.approx(row["energy_kwh"] * 1.14 * 253)
    assert row["carbon_intensity_level"] == "zone"
    for name in ("carbon_intensity_source", "cpu_power_source"):
        assert row[name]
    for name in ("pue", "vm_size", "gpu_energy_kwh", "water_l", "embodied_g", "ram_energy_kwh"):
        assert row["identity_source"][name]


def test_the_keys_are_the_records_field_names(capsys):
    assert set(estimated(capsys, *A100)) <= set(EmissionRecord.__dataclass_fields__)


def test_twice_the_hours_is_twice_the_energy(capsys):
    one = estimated(capsys, *A100)
    two = estimated(capsys, *(word if word != "1" else "2" for word in A100))
    assert two["energy_kwh"] == pytest.approx(2 * one["energy_kwh"])


def test_a_gpu_load_left_open_gives_wide_bounds(capsys):
    stated = estimated(capsys, *A100)
    left_open = estimated(capsys, *A100[:-3], "--json")
    assert left_open["gpu_utilization"] is None
    stated_span = stated["emissions_high_g"] - stated["emissions_low_g"]
    assert left_open["emissions_high_g"] - left_open["emissions_low_g"] > 1.4 * stated_span


def test_the_text_names_value_and_source(capsys):
    assert main(A100[:-1]) == 0
    text = capsys.readouterr().out
    assert "Standard_NC24ads_A100_v4 in westeurope for 1 h" in text
    assert "Electricity Maps" in text


def test_names_are_taken_in_any_case(capsys):
    row = estimated(
        capsys, "estimate", "--vm-size", "standard_d4s_V5", "--region", "West Europe",
        "--hours", "1", "--json",
    )  # fmt: skip
    assert (row["vm_size"], row["region"]) == ("Standard_D4s_v5", "westeurope")


def test_an_unknown_region_with_a_country_is_marked(capsys):
    row = estimated(
        capsys, "estimate", "--vm-size", "Standard_D4s_v5", "--region", "atlantis",
        "--country", "NLD", "--hours", "1", "--json",
    )  # fmt: skip
    assert row["carbon_intensity_level"] == "country"
    assert "atlantis" in row["carbon_intensity_source"]


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"--vm-size": "Standard_NC24ads_A100_v5"}, "did you mean Standard_NC24ads_A100_v4"),
        ({"--region": "westeurop"}, "did you mean westeurope"),
        ({"--region": "atlantis"}, "add --country"),
        ({"--hours": "-1"}, "flag --hours: '-1' is outside 0"),
        ({"--hours": "long"}, "flag --hours: 'long' is not a number"),
        ({"--cpu-util": "101"}, "flag --cpu-util: '101' is outside 0 to 100 %"),
        ({"--gpu-util": "nan"}, "flag --gpu-util"),
    ],
)
def test_bad_input_is_one_clear_line_and_exit_2(capsys, changed, told):
    flags = {
        "--vm-size": "Standard_NC24ads_A100_v4", "--region": "westeurope", "--hours": "1",
        **changed,
    }  # fmt: skip
    assert main(["estimate", *(f"{flag}={value}" for flag, value in flags.items())]) == 2
    error = capsys.readouterr().err
    assert told in error
    assert error.count("\n") == 1


def test_size_and_region_are_needed(capsys):
    assert main(["estimate", "--hours", "1"]) == 2
    assert "--vm-size, and --region or --country" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flag", "value", "told"),
    [
        ("--energy-mix", "coal=-3", "no amount of coal"),
        ("--energy-mix", "unobtainium=1", "unknown source"),
        ("--country", "Atlantis", "no country of the catalogue"),
        ("--vm-sizes-file", "/nonexistent.csv", "/nonexistent.csv"),
    ],
)
def test_settings_that_cannot_be_used_are_one_clear_line(capsys, flag, value, told):
    argv = ("estimate", "--vm-size=Standard_D4s_v5", "--region=westeurope", "--hours=1")
    assert main([*argv, f"{flag}={value}"]) == 2
    error = capsys.readouterr().err
    assert told in error
    assert error.count("\n") == 1


def test_settings_without_a_flag_here_do_not_speak_from_the_environment(capsys, monkeypatch):
    monkeypatch.setenv("EMISSIONS_POWER_MODEL", "codecarbon")
    monkeypatch.setenv("EMISSIONS_CPU_POWER", "9999")
    assert estimated(capsys, *A100)["cpu_power_method"] == "vm-share"


def test_a_gpu_without_a_figure_is_told_not_left_out(capsys):
    argv = (
        "estimate",
        "--vm-size",
        "Standard_NC8lds_xl_RTXPRO6000BSE_v6",
        "--region",
        "westeurope",
    )
    assert main([*argv, "--hours", "1"]) == 0
    text = capsys.readouterr().out
    assert "how many is not published" in text
