"""`catalogue`: rows with their sources."""

import json

import pytest

from sidecar.cli.catalogue import TABLES
from sidecar.cli.main import main


def shown(capsys, *argv):
    assert main(["catalogue", *argv]) == 0
    return capsys.readouterr().out


def test_one_region_shows_value_bounds_year_and_source(capsys):
    text = shown(capsys, "regions", "westeurope")
    assert "253 gCO2e/kWh (251 to 283.17)" in text
    assert "Electricity Maps" in text
    assert "2025" in text


@pytest.mark.parametrize("table", TABLES)
def test_every_table_is_listed_with_its_columns(capsys, table):
    header, *rows = shown(capsys, table).splitlines()
    assert header.split() == list(TABLES[table].columns)
    assert len(rows) > 20


def test_json_keeps_figures_whole(capsys):
    row = json.loads(shown(capsys, "vm-sizes", "Standard_NC24ads_A100_v4", "--json"))
    assert (row["vcpus"], row["gpu_count"]) == (24, 1.0)
    region = json.loads(shown(capsys, "regions", "westeurope", "--json"))
    assert region["carbon_intensity"]["year"] == 2025


def test_a_cpu_is_found_by_what_cpuinfo_calls_it(capsys):
    assert "AMD EPYC 7763" in shown(capsys, "cpus", "AMD EPYC 7763 64-Core Processor")


@pytest.mark.parametrize(
    ("table", "name", "told"),
    [
        ("regions", "westeurop", "did you mean westeurope"),
        ("regions", "atlantis", "'catalogue regions' lists all"),
        ("vm-sizes", "Standard_NC24ads_A100_v5", "did you mean"),
        ("countries", "Nederland", "not in the catalogue of countries"),
    ],
)
def test_an_unknown_name_is_answered_with_what_is_near(capsys, table, name, told):
    assert main(["catalogue", table, name]) == 2
    assert told in capsys.readouterr().err


def test_sizes_from_a_refreshed_file_come_first(capsys, monkeypatch, tmp_path):
    from sidecar.catalogue.lookup import Catalogue
    from sidecar.catalogue.refresh import write_vm_sizes

    size = Catalogue().vm_size("Standard_D4s_v5")
    file = tmp_path / "sizes.csv"
    from dataclasses import replace

    write_vm_sizes([replace(size, name="Standard_New4_v9")], file)
    monkeypatch.setenv("EMISSIONS_VM_SIZES_FILE", str(file))
    assert "Standard_New4_v9" in shown(capsys, "vm-sizes", "standard_new4_v9")


def test_refresh_without_azure_says_what_is_missing(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))  # no `az` to sign in with
    out = tmp_path / "sizes.csv"
    code = main(
        ["catalogue", "refresh", "--subscription", "s", "--location", "westeurope",
         "--out", str(out)]
    )  # fmt: skip
    assert code == 1
    assert "Azure CLI" in capsys.readouterr().err
    assert not out.exists()


def test_a_file_of_sizes_that_is_missing_is_one_clear_line(capsys, monkeypatch):
    monkeypatch.setenv("EMISSIONS_VM_SIZES_FILE", "/nonexistent/sizes.csv")
    assert main(["catalogue", "vm-sizes"]) == 2
    error = capsys.readouterr().err
    assert "/nonexistent/sizes.csv" in error
    assert error.count("\n") == 1
