"""The decision page's arithmetic is what the command computes."""

import json
import re
from pathlib import Path

import pytest

from sidecar.cli.main import main

PAGE = (Path(__file__).parents[2] / "docs/how-to/act-on-a-report.md").read_text()
VM = "Standard_NC24ads_A100_v4"
HOURS = 720


def estimate(capsys, region, gpu_util):
    flags = ["--vm-size", VM, "--region", region, "--hours", str(HOURS), "--cpu-util", "5"]
    assert main(["estimate", *flags, "--gpu-util", str(gpu_util), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize(
    ("name", "region", "gpu_util"),
    [
        ("West Europe, GPU 90 % busy", "westeurope", 90),
        ("West Europe, GPU idle", "westeurope", 0),
        ("Sweden Central, GPU 90 % busy", "swedencentral", 90),
        ("Poland Central, GPU 90 % busy", "polandcentral", 90),
    ],
)
def test_a_row_of_the_table_is_what_estimate_says(capsys, name, region, gpu_util):
    found = estimate(capsys, region, gpu_util)
    (row,) = re.findall(rf"^\| {re.escape(name)} \| (.*?) kWh \| (.*?) kg \|", PAGE, re.MULTILINE)
    assert row == (f"{found['energy_kwh']:.1f}", f"{found['emissions_g'] / 1000:.1f}")


def test_the_sentences_say_the_same(capsys):
    busy, idle = estimate(capsys, "westeurope", 90), estimate(capsys, "westeurope", 0)
    north = estimate(capsys, "swedencentral", 90)
    night_kg = idle["emissions_g"] / 1000 * 16 / 24
    saved_kg = (busy["emissions_g"] - north["emissions_g"]) / 1000
    rest_kwh = busy["cpu_energy_kwh"] + busy["ram_energy_kwh"]
    for text in (
        f"{night_kg:.1f} kg a month",
        f"−{saved_kg:.1f} kg, −{saved_kg / busy['emissions_g'] * 1e5:.0f} %",
        f"are {rest_kwh:.1f} kWh of {busy['energy_kwh']:.1f}",
        f"({busy['embodied_g'] / 1000:.1f} kg for these 720 h)",
        f"{busy['pue']:.2f} · {busy['carbon_intensity_g_per_kwh']:.0f} g/kWh = 72.4 kg",
    ):
        assert text in PAGE
