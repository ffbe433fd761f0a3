"""Every query of the dashboard is answered by a real Prometheus that scrapes real processes."""

import importlib.util
import json
import math
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from tests.e2e.commands import until
from tests.helm.tools import ROOT, render
from tests.prometheus.cluster import BUDGET_KG, CLUSTER, NODE, PODS, Cluster

pytestmark = pytest.mark.needs("helm", "promtool", "gcc")

VARIABLES = {
    "$__rate_interval": "10s",
    "$__range": "10m",
    "$cluster": CLUSTER,
    "$namespace": "team-a|team-b",
    "$project": ".*",
}
EMPTY_WHERE_ALL_IS_WELL = {"with more than 3 segments"}


def load_writer() -> ModuleType:
    path = ROOT / "scripts" / "write_dashboard.py"
    spec = importlib.util.spec_from_file_location("write_dashboard", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def shipped() -> dict[str, Any]:
    """The dashboard, as the chart puts it before Grafana."""
    config_map = render("cert-manager").one("ConfigMap", "-dashboard")
    return json.loads(config_map["data"]["emissions-sidecar.json"])


def queries() -> Iterator[tuple[str, str, str]]:
    """Panel, legend and PromQL of every query, with the variables filled in."""
    for panel in shipped()["panels"]:
        for target in panel.get("targets", ()):
            expr = target["expr"]
            for name, value in VARIABLES.items():
                expr = expr.replace(name, value)
            yield panel["title"], target["legendFormat"], expr


# -- without anything that runs ----------------------------------------------------------------------


def test_the_dashboard_is_what_the_script_writes() -> None:
    assert shipped() == load_writer().dashboard(), "run `make docs`"


def test_promtool_can_read_every_query(tmp_path: Path) -> None:
    rules = [{"record": f"q{n}", "expr": expr} for n, (*_, expr) in enumerate(queries())]
    assert len(rules) > 40
    path = tmp_path / "rules.yml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    run = subprocess.run(["promtool", "check", "rules", path], capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr


def test_no_variable_is_left_and_each_has_its_choice() -> None:
    assert not [expr for *_, expr in queries() if "$" in expr]
    names = {one["name"] for one in shipped()["templating"]["list"]}
    assert names == {"datasource", "cluster", "namespace", "project"}


def test_panels_stand_beside_and_below_one_another_each_with_a_unit_and_an_id() -> None:
    panels = shipped()["panels"]
    assert len({one["id"] for one in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {
            (place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])
        }
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells
        assert panel["type"] == "row" or panel["fieldConfig"]["defaults"]["unit"]


# -- with everything that runs -----------------------------------------------------------------------


def unanswered(cluster: Cluster) -> list[str]:
    """The queries that have no answer, or none that is a number (a quantile of nothing is none)."""
    missing = []
    for title, legend, expr in queries():
        answer = cluster.prometheus.ask(expr)
        if legend in EMPTY_WHERE_ALL_IS_WELL:
            if answer:  # on a slow machine segments may wait at first
                missing.append(f"{title} [{legend}]: {answer}, where all is well")
        elif not any(math.isfinite(value) for _, value in answer):
            missing.append(f"{title} [{legend}]: {answer} to {expr}")
    return missing


def all_answered(cluster: Cluster) -> bool:
    cluster.admit()
    cluster.assert_all_run()
    return not unanswered(cluster)


def test_every_panel_has_data(cluster: Cluster) -> None:
    try:
        until(lambda: all_answered(cluster))
    except AssertionError as error:
        raise AssertionError("\n".join(unanswered(cluster))) from error


def test_series_are_told_apart_by_what_the_panels_say(cluster: Cluster) -> None:
    until(lambda: all_answered(cluster))
    by_panel: dict[str, set[tuple[str, ...]]] = {}
    for title, legend, expr in queries():
        labels = re.findall(r"\{\{(\w+)\}\}", legend)
        found = {
            tuple(metric.get(label, "") for label in labels)
            for metric, _ in cluster.prometheus.ask(expr)
        }
        by_panel.setdefault(title, set()).update(found)
    assert by_panel["Emissions by project"] == {("vision",), ("speech",)}
    assert by_panel["Emissions by namespace"] == {("team-a",), ("team-b",)}
    assert ("vision", "team-a", "train") in by_panel["Emissions of workloads"]
    assert by_panel["Power by component"] == {("cpu",), ("ram",), ("gpu",)}
    assert by_panel["Used by no pod, by node"] == {(NODE,)}
    assert by_panel["Carbon intensity by region (g/kWh)"] == {("westeurope",)}
    assert by_panel["Pace, as a multiple of the budget"] == {("vision",)}
    assert ("answered",) in by_panel["Answers of the node meters to pods"]
    assert ("created",) in by_panel["Segments at the collector"]
    assert ("injected", "injected") in by_panel["Pods by what became of them"]


def test_a_project_that_is_chosen_is_alone_in_the_totals(cluster: Cluster) -> None:
    until(lambda: all_answered(cluster))
    energy = "sum(increase(emissions_energy_joules_total[10m]))"
    whole = cluster.prometheus.value(energy)
    parts = []
    for pod in PODS:
        (expr,) = (
            target["expr"] for one in shipped()["panels"] if one["title"] == "Energy"
            for target in one["targets"]
        )  # fmt: skip
        for name, value in {**VARIABLES, "$project": pod.project}.items():
            expr = expr.replace(name, value)
        parts.append(cluster.prometheus.value(expr) * 3.6e6)
    assert min(parts) > 0
    assert sum(parts) == pytest.approx(
        whole, rel=0.2
    )  # the second question is asked a little later


def test_the_budgets_pace_is_the_recorded_rate_over_the_budget(cluster: Cluster) -> None:
    until(lambda: cluster.prometheus.value("project:emissions_budget_burn:ratio6h"))
    budget = cluster.prometheus.value("project:emissions_budget_co2e_grams:per_second")
    assert budget == pytest.approx(BUDGET_KG * 1000 / (30 * 86400))
