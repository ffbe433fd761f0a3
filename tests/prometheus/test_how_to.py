"""The page on Prometheus: its configuration is one, and its questions have answers."""

import math
import re
from pathlib import Path

import pytest
import yaml

from tests.e2e.commands import until
from tests.helm.tools import ROOT, render
from tests.prometheus.cluster import Cluster, own_address
from tests.prometheus.server import Prometheus
from tests.prometheus.test_hostile import telling

PAGE = (ROOT / "docs/how-to/watch-with-prometheus.md").read_text()
QUESTIONS = re.findall(r"```promql\n(.*?)```", PAGE, re.DOTALL)


def blocks(kind: str) -> list[str]:
    return re.findall(rf"```{kind}\n(.*?)```", PAGE, re.DOTALL)


@pytest.mark.needs("promtool")
def test_the_scrape_configuration_finds_the_sidecar_of_a_pod(tmp_path: Path) -> None:
    """Debian's Prometheus cannot ask Kubernetes: what it would be told is given."""
    (config,) = (yaml.safe_load(one) for one in blocks("yaml") if "scrape_configs" in one)
    (job,) = config["scrape_configs"]
    assert job.pop("kubernetes_sd_configs") == [{"role": "pod"}]
    address = own_address(4)
    job["static_configs"] = [
        {
            "targets": ["127.0.0.1:1"],
            "labels": {
                "__meta_kubernetes_namespace": "team-a",
                "__meta_kubernetes_pod_name": "train-0",
                "__meta_kubernetes_pod_ip": address,
                "__meta_kubernetes_pod_host_ip": host,
                "__meta_kubernetes_pod_container_name": container,
            },
        }
        for container, host in (
            ("train", "10.0.0.1"),
            ("emissions-sidecar", "10.0.0.1"),
            ("emissions-sidecar", address),  # on the node's network
        )
    ]
    text = 'emissions_info{namespace="x",project="vision"} 1\n'
    with telling(address, text), Prometheus(tmp_path, [job]) as prometheus:
        until(lambda: prometheus.ask("emissions_info"))
        ((metric, _),) = prometheus.ask("emissions_info")
        assert len(prometheus.targets()) == 1
    assert (metric["namespace"], metric["pod"], metric["project"]) == (
        "team-a",
        "train-0",
        "vision",
    )
    assert "exported_namespace" not in metric


@pytest.mark.needs("helm")
def test_the_scrape_configuration_does_what_the_chart_does() -> None:
    (config,) = (yaml.safe_load(one) for one in blocks("yaml") if "scrape_configs" in one)
    (job,) = config["scrape_configs"]
    options = ("--set=fullnameOverride=emissions-sidecar", "--set=metrics.rules.enabled=true")
    rendered = render("cert-manager", *options)
    monitor = rendered.one("PodMonitor")
    name = f"{monitor['metadata']['namespace']}/{monitor['metadata']['name']}"
    assert job["job_name"] == name
    assert f'up{{job="{name}"}}' in yaml.safe_dump(rendered.one("PrometheusRule"), width=1000)
    assert job["sample_limit"] == monitor["spec"]["sampleLimit"]


@pytest.mark.needs("helm")
def test_the_values_are_the_charts(tmp_path: Path) -> None:
    (values,) = (one for one in blocks("yaml") if "podMonitor" in one)
    path = tmp_path / "values.yaml"
    path.write_text(values)
    kinds = {one["kind"] for one in render("default", f"--values={path}").documents}
    assert {"PodMonitor", "ServiceMonitor", "PrometheusRule"} <= kinds


@pytest.mark.needs("helm")
def test_every_alert_is_on_the_page_and_no_other() -> None:
    rendered = render("cert-manager", "--set=metrics.rules.budgetKg.vision=1")
    groups = rendered.one("PrometheusRule")["spec"]["groups"]
    alerts = {rule["alert"] for group in groups for rule in group["rules"] if "alert" in rule}
    assert set(re.findall(r"^\| `(Emissions\w+)`", PAGE, re.MULTILINE)) == alerts


@pytest.mark.needs("helm", "promtool", "gcc")
@pytest.mark.parametrize("question", QUESTIONS)
def test_a_question_has_an_answer(cluster: Cluster, question: str) -> None:
    def values() -> list[float]:
        answer = cluster.prometheus.ask(question)
        return [value for _, value in answer if math.isfinite(value)]

    assert min(until(values)) >= 0
