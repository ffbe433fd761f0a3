"""The decision page's arithmetic is what the commands compute, of the example it names."""

import json
import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from sidecar.cli.main import main
from sidecar.report.making import Asked, make_report
from sidecar.report.places import DirectoryPlace

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
    night_kg = idle["emissions_g"] / 1000 * 16 / 24
    rest_kwh = busy["cpu_energy_kwh"] + busy["ram_energy_kwh"]
    for text in (
        f"{idle['emissions_g'] / 1000:.1f} kg · 16/24 = {night_kg:.1f} kg a month",
        f"are {rest_kwh:.1f} kWh of {busy['energy_kwh']:.1f}",
        f"({busy['embodied_g'] / 1000:.1f} kg for these 720 h)",
    ):
        assert text in PAGE


# -- the fictitious lab ------------------------------------------------------------------------------

ROOT = Path(__file__).parents[2]
UNTIL = "2026-11-29"


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """The document of the example's report, as of the end of its last day."""
    assert f"lab --until {UNTIL}" in PAGE
    directory = tmp_path_factory.mktemp("lab")
    command = [sys.executable, ROOT / "examples/fictitious_lab.py", directory, "--until", UNTIL]
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    now = datetime(2026, 11, 30, tzinfo=UTC)
    return make_report([DirectoryPlace(directory)], Asked(now)).model


def kg(grams, digits=1):
    return f"{grams / 1000:,.{digits}f}"


def plain(text):
    return " ".join(text.split())


def says(*texts):
    page = plain(PAGE)
    for text in texts:
        assert plain(text) in page, text


def project(lab, name):
    return next(row for row in lab["projects"] if row["project"] == name)


def test_the_headline_of_the_lab_is_the_reports(lab):
    total = lab["total"]
    first = sum(row["emissions_g"] for row in lab["projects"][:3]) / total["emissions_g"]
    largest, smallest = lab["projects"][0], lab["projects"][-4:]
    assert largest["emissions_g"] / 10 > sum(row["emissions_g"] for row in smallest)
    says(
        f"comes to {kg(total['emissions_g'], 0)} kg CO2e, between "
        f"{kg(total['emissions_low_g'], 0)} and {kg(total['emissions_high_g'], 0)} kg",
        f"Three of ten projects make {first:.0%} here".replace("%", " %"),
    )


def test_what_would_save_what_is_what_the_report_says(lab):
    total, within = lab["total"], lab["what_if_regions"]["within_geographies"]
    (hours,) = lab["what_if_hours"]["regions"]
    share = [f"{saved / total['emissions_g']:.0%}".replace("%", " %") for saved in (
        -within["difference_g"], -hours["difference_at_best_g"], total["idle"]["emissions_g"]
    )]  # fmt: skip
    says(
        f"| {kg(-within['difference_g'], 0)} kg | {share[0]} |",
        f"| {kg(lab['balance']['unallocated_emissions_g'])} kg | beside it |",
        f"| {kg(-hours['difference_at_best_g'])} kg | {share[1]} |",
        f"| {kg(total['idle']['emissions_g'])} kg | {share[2]} |",
    )


def test_the_idle_notebooks_are_computed(lab):
    row = project(lab, "shared-notebooks")
    idle = row["idle"]
    work_h = row["gpu_hours"] * row["gpu_utilization"]
    share = f"{idle['share'] * 100:.1f} %"
    assert lab["projects"].index(row) == 3
    assert max(lab["projects"], key=lambda item: item["idle"]["share"] or 0) is row
    says(
        f"= {idle['energy_kwh']:.1f} kWh / {row['energy_kwh']:.1f} kWh = {share}",
        f"= {kg(row['emissions_g'])} kg · {share} = {kg(idle['emissions_g'])} kg CO2e in 75 days",
        f"= {row['gpu_hours']:,.0f}, of which busy {row['gpu_utilization'] * 100:.1f} % "
        f"= {work_h:.0f} GPU-hours of work",
        f"{row['gpu_hours'] - work_h:,.0f} GPU-hours of rent",
    )


def test_the_unallocated_energy_is_computed(lab):
    balance = lab["balance"]
    says(
        f"{balance['unallocated_energy_kwh']:.0f} kWh of the "
        f"{balance['node_energy_kwh'] / 1000:.2f} MWh of the nodes, "
        f"{balance['unallocated_share'] * 100:.1f} %, "
        f"{kg(balance['unallocated_emissions_g'])} kg CO2e",
        f"({balance['unallocated_ram_energy_kwh']:.0f} kWh)",
    )


def test_the_move_of_a_project_is_computed(lab):
    row = project(lab, "protein-folding")
    best, names = row["best_region"]["anywhere"], {item["region"]: item for item in lab["map"]}
    there, here = names["swedencentral"], names["westeurope"]
    assert best["region"] == "swedencentral"
    for place, grams, gap in ((here, row["emissions_g"], ""), (there, best["emissions_g"], " ")):
        says(
            f"{row['energy_kwh']:.1f} kWh · {place['pue']:.2f} · {gap}"
            f"{place['carbon_intensity_g_per_kwh']:.0f} g/kWh = {kg(grams)} kg"
        )
    saved = -best["difference_g"]
    says(f"−{kg(saved)} kg, −{saved / row['emissions_g'] * 100:.0f} %")


def test_the_hours_are_computed(lab):
    (region,) = lab["what_if_hours"]["regions"]
    by_hour = {hour["hour"]: hour["carbon_intensity_g_per_kwh"] for hour in region["hours"]}
    facility = region["facility_energy_kwh"]
    best = by_hour[region["best_hour"]]
    morning = sum(by_hour[hour] for hour in range(8, 16)) / 8
    evening = sum(by_hour[hour] for hour in range(16, 24)) / 8
    assert region["best_hour"] == 12
    says(
        f"{facility:.1f} kWh · {region['carbon_intensity_g_per_kwh']:.1f} g/kWh = "
        f"{kg(region['emissions_g'])} kg",
        f"{facility:.1f} kWh · {best:.1f} g/kWh = {kg(facility * best)} kg "
        f"−{kg(-region['difference_at_best_g'])} kg",
        f"I_15 = {morning:.1f} g/kWh",
        f"I_23 = {evening:.1f} g/kWh a morning start saves {(1 - morning / evening) * 100:.0f} %",
    )


def test_the_budget_is_computed(lab):
    budget = project(lab, "protein-folding")["budget"]
    says(
        f"= {kg(budget['used_g'])} kg + {kg(budget['burn_rate_g_per_day'], 2)} kg · "
        f"{budget['days_left']:.0f} = {kg(budget['forecast_g'])} kg {budget['status']}: "
        f"{budget['used_share']:.0%}".replace("%", " % are used"),
    )
