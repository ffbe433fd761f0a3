"""The chart's rules as Prometheus takes them: each alert fires where it must, and only there."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.helm.tools import render

pytestmark = pytest.mark.needs("helm", "promtool")

ALERTS = Path(__file__).parent / "alerts.yaml"
OPTIONS = (
    "--set=metrics.rules.budgetKg.vision=259.2",
    "--set=metrics.rules.alertLabels.team=platform",
)


@pytest.fixture
def rules(tmp_path: Path) -> Path:
    """The rules in a file as Prometheus reads them, beside the tests of them."""
    spec = render("cert-manager", *OPTIONS).one("PrometheusRule")["spec"]
    path = tmp_path / "rules.yml"
    path.write_text(yaml.safe_dump(spec))
    shutil.copy(ALERTS, tmp_path)
    return path


def promtool(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["promtool", *map(str, arguments)], capture_output=True, text=True, timeout=300
    )


def alerts_of(rules: Path) -> list[dict[str, Any]]:
    groups = yaml.safe_load(rules.read_text())["groups"]
    return [rule for group in groups for rule in group["rules"] if "alert" in rule]


def test_promtool_finds_nothing_wrong_with_the_rules(rules: Path) -> None:
    run = promtool("check", "rules", "--lint-fatal", rules)
    assert run.returncode == 0, run.stdout + run.stderr


def test_each_alert_fires_where_it_must_and_only_there(rules: Path) -> None:
    run = promtool("test", "rules", rules.parent / ALERTS.name)
    assert run.returncode == 0, run.stdout + run.stderr


def test_each_alert_is_tested_both_ways(rules: Path) -> None:
    fired, quiet = set(), set()
    for test in yaml.safe_load(ALERTS.read_text())["tests"]:
        for case in test.get("alert_rule_test", ()):
            (fired if case.get("exp_alerts") else quiet).add(case["alertname"])
    names = {rule["alert"] for rule in alerts_of(rules)}
    assert len(names) > 10
    assert (fired, quiet) == (names, names)


def test_each_alert_says_what_happened_and_what_to_do(rules: Path) -> None:
    for rule in alerts_of(rules):
        assert set(rule["annotations"]) == {"summary", "description"}, rule["alert"]
        assert rule["labels"]["severity"] in ("critical", "warning", "info")
        assert rule["labels"]["team"] == "platform"


def test_without_budgets_there_is_nothing_about_budgets() -> None:
    text = yaml.safe_dump(render("cert-manager").one("PrometheusRule"))
    assert "budget" not in text.lower()


def test_the_rules_name_the_jobs_that_the_monitors_make(rules: Path) -> None:
    """The operator names a job after the Service, and after namespace and name of a PodMonitor."""
    rendered = render("cert-manager", "--set=nodeMeter.enabled=true")
    (pods,) = rendered.of_kind("PodMonitor")
    jobs = {f"{pods['metadata']['namespace']}/{pods['metadata']['name']}"}
    for monitor in rendered.of_kind("ServiceMonitor"):
        wanted = monitor["spec"]["selector"]["matchLabels"].items()
        (service,) = (
            one["metadata"]["name"]
            for one in rendered.of_kind("Service")
            if wanted <= one["metadata"]["labels"].items()
        )
        jobs.add(service)
    named = set()
    for rule in alerts_of(rules):
        for operator, job in re.findall(r'\bjob(=~?)"([^"]+)"', rule["expr"]):
            if operator == "=":
                assert job in jobs
            named |= {one for one in jobs if re.fullmatch(job, one)}
    assert named == jobs


def test_the_rules_name_the_webhooks_that_there_are(rules: Path) -> None:
    (alert,) = (one for one in alerts_of(rules) if one["alert"] == "EmissionsWebhookNotAsked")
    pattern = re.search(r'name=~"([^"]+)"', alert["expr"])[1]
    names = [
        one["name"] for one in render("default").one("MutatingWebhookConfiguration")["webhooks"]
    ]
    assert len(names) == 2
    assert all(re.fullmatch(pattern, name) for name in names)


def test_the_monitors_may_be_those_of_azures_managed_prometheus_which_knows_no_rules() -> None:
    option = "--set=metrics.apiVersion=azmonitoring.coreos.com/v1"
    rendered = render("cert-manager", option, "--set=metrics.rules.enabled=false")
    monitors = rendered.of_kind("PodMonitor") + rendered.of_kind("ServiceMonitor")
    assert {one["apiVersion"] for one in monitors} == {"azmonitoring.coreos.com/v1"}
    error = render("cert-manager", option, fails=True).error
    assert "metrics.rules.enabled needs the Prometheus operator" in error
