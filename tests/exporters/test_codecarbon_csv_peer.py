"""emissions.csv in the hands of CodeCarbon itself: its columns, its writer, its carbonboard."""

import dataclasses
import json
import warnings
from pathlib import Path
from typing import Any

import pytest

from sidecar.exporters.codecarbon_csv import COLUMNS, CodeCarbonRow, write_row
from tests.exporters.codecarbon_rows import a_row

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import codecarbon
    import pandas as pd
    from codecarbon.output_methods.emissions_data import EmissionsData
    from codecarbon.output_methods.file import FileOutput
    from codecarbon.viz.carbonboard import render_app

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture
def table(tmp_path: Path) -> Path:
    return tmp_path / "emissions.csv"


class Board:
    """A browser's part of carbonboard: asks for every callback in turn, over its HTTP interface."""

    def __init__(self, table: Path) -> None:
        app = render_app(pd.read_csv(table))
        app.server.testing = True  # a callback that fails raises here
        self._client = app.server.test_client()
        self._layout = self._get("/_dash-layout")
        self._callbacks = self._get("/_dash-dependencies")
        self._values = {"energy_type.value": "fossil"}

    def projects(self) -> list[Any]:
        dropdown = next(p for p in _properties(self._layout) if p.get("id") == "project_name")
        return [option["value"] for option in dropdown["options"]]

    def show(self, project: str) -> dict[str, Any]:
        """Select a project; every callback's answer, by `component.property`."""
        self._values["project_name.value"] = project
        for callback in self._callbacks:
            self._update(callback)
        return self._values

    def _get(self, address: str) -> Any:
        response = self._client.get(address)
        assert response.status_code == 200
        return response.get_json()

    def _update(self, callback: dict[str, Any]) -> None:
        names = callback["output"].strip(".").split("...")
        outputs = [dict(zip(("id", "property"), name.split("."), strict=True)) for name in names]
        inputs = [
            {**wanted, "value": self._values[f"{wanted['id']}.{wanted['property']}"]}
            for wanted in callback["inputs"]
        ]
        response = self._client.post(
            "/_dash-update-component",
            json={
                "output": callback["output"],
                "outputs": outputs if len(outputs) > 1 else outputs[0],
                "inputs": inputs,
                "changedPropIds": [],
            },
        )
        assert response.status_code == 200, f"{callback['output']}: {response.text[-500:]}"
        for component, properties in json.loads(response.text)["response"].items():
            for name, value in properties.items():
                self._values[f"{component}.{name}"] = value


def _properties(node: Any) -> Any:
    if isinstance(node, list):
        for child in node:
            yield from _properties(child)
    elif isinstance(node, dict) and "props" in node:
        yield node["props"]
        yield from _properties(node["props"].get("children"))


def in_france(**changes: Any) -> CodeCarbonRow:
    france = {
        "country_name": "France",
        "country_iso3": "FRA",
        "cloud_region": "francecentral",
        "project": "speech",
        "emissions_g": 53.8,
    }
    return a_row(**(france | changes))


def test_the_columns_are_codecarbons_in_its_order() -> None:
    assert tuple(field.name for field in dataclasses.fields(EmissionsData)) == COLUMNS


def test_codecarbon_appends_to_our_file_and_we_keep_its_row(table: Path) -> None:
    write_row(table, a_row())
    theirs = EmissionsData(
        **dict.fromkeys(COLUMNS, 1.0) | {"run_id": "theirs", "project_name": 'a, "b"\n c'}
    )

    FileOutput("emissions.csv", str(table.parent)).out(theirs, None)
    their_line = table.read_bytes().split(b"\n", 2)[2]
    write_row(table, a_row(facility_energy_kwh=1.5))

    assert table.read_bytes().endswith(their_line)
    assert pd.read_csv(table)["run_id"].tolist() == ["run-1", "theirs"]
    assert pd.read_csv(table)["energy_consumed"].tolist() == [1.5, 1.0]
    assert not list(table.parent.glob("*.bak"))


def test_codecarbon_accepts_our_header(table: Path) -> None:
    write_row(table, a_row())
    empty = EmissionsData(**dict.fromkeys(COLUMNS, 0))

    assert FileOutput("emissions.csv", str(table.parent)).has_valid_headers(empty)


def test_carbonboard_lists_every_project(table: Path) -> None:
    write_row(table, a_row(run_id="1", project="vision"))
    write_row(table, in_france(run_id="2"))
    write_row(table, a_row(run_id="3", project=""))

    assert Board(table).projects() == ["speech", "unnamed", "vision"]


@pytest.mark.parametrize(("project", "kg"), [("vision", 0.5138), ("speech", 0.1614)])
def test_carbonboard_sums_what_we_wrote(table: Path, project: str, kg: float) -> None:
    for run in range(2):
        write_row(table, a_row(run_id=f"nl-{run}"))
    for run in range(3):
        for _ in range(2):  # a run is written again and again, and counts once
            write_row(table, in_france(run_id=f"fr-{run}"))

    shown = Board(table).show(project)

    runs = 2 if project == "vision" else 3
    totals = shown["hidden_project_summary.data"]["total"]
    assert totals["energy_consumed"] == pytest.approx(0.96 * runs, rel=1e-12)
    assert totals["emissions"] == pytest.approx(kg, rel=1e-12)
    assert totals["duration"] == 3600.0 * runs
    assert shown["net_power_consumption.children"] == "4.8 kWh"


@pytest.mark.parametrize("row", [a_row(), in_france()], ids=["Netherlands", "France"])
def test_every_part_of_carbonboard_draws_our_file(table: Path, row: CodeCarbonRow) -> None:
    write_row(table, row)

    shown = Board(table).show(row.project)

    for figure in ("global_emissions_choropleth", "global_energy_mix_choropleth"):
        assert len(shown[f"{figure}.figure"]["data"][0]["locations"]) > 200
    assert shown["project_infrastructure_location.children"].endswith(row.country_name or "?")
    assert shown["cloud_emissions_comparison_component.style"] == {"display": "none"}
    assert shown["project_emissions_bar_chart.figure"]["data"]
    assert shown["car_miles.children"] == f"{(row.emissions_g or 0) / 409:.0f} miles"


@pytest.mark.parametrize(
    "row",
    [
        pytest.param(a_row(country_iso3=None, country_name=None), id="no country"),
        pytest.param(a_row(gpu_energy_kwh=None, gpu_model=None), id="no GPU"),
        pytest.param(a_row(project="2024"), id="number as project"),
        pytest.param(a_row(project="None"), id="None as project"),
    ],
)
def test_carbonboard_survives_what_may_be_missing_or_odd(table: Path, row: CodeCarbonRow) -> None:
    write_row(table, row)
    board = Board(table)

    shown = board.show(board.projects()[0])

    assert shown["net_power_consumption.children"] == "1.0 kWh"


def test_carbonboard_draws_the_provinces_of_a_canadian_project(
    table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_row(table, a_row(country_iso3="CAN", country_name="Canada", region="ontario"))
    # The peer opens its map of Canada by a path that only holds beside its package.
    monkeypatch.chdir(Path(codecarbon.__file__).parents[1])

    shown = Board(table).show("vision")

    assert shown["project_infrastructure_location.children"] == "ontario, Canada"
    assert shown["regional_emissions_comparison_choropleth.figure"]["data"]


def test_carbonboard_would_fail_on_azure_as_a_cloud(table: Path) -> None:
    """Why `on_cloud` is always N; when the peer learns Azure's regions this test will say so."""
    write_row(table, a_row())
    table.write_bytes(table.read_bytes().replace(b",N,1.2", b",Y,1.2"))

    with pytest.raises(IndexError):
        Board(table).show("vision")
