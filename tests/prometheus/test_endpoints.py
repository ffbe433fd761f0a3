"""What each process tells at /metrics: what is declared, clean, and labelled as its monitor says."""

import importlib.util
import subprocess
from types import ModuleType

import pytest
import requests
from prometheus_client.parser import text_string_to_metric_families

from sidecar import outbox
from sidecar.exporters.prometheus import BUILD
from tests.e2e.commands import PATIENCE_S, until
from tests.helm.tools import ROOT
from tests.prometheus.cluster import PODS, SERVICES, Cluster

pytestmark = pytest.mark.needs("helm", "promtool", "gcc")

JOBS = {
    "Sidecar": "emissions/es-emissions-sidecar-sidecars",
    "Node meter": "es-emissions-sidecar-node-meter",
    "Collector": "es-emissions-sidecar-collector",
    "Webhook": "es-emissions-sidecar-webhook",
}


def load_writer() -> ModuleType:
    path = ROOT / "scripts" / "write_reference.py"
    spec = importlib.util.spec_from_file_location("write_reference", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


DECLARED = load_writer().ENDPOINT_METRICS


def wait_for_targets(cluster: Cluster) -> None:
    def are_up() -> bool:
        health = [one["health"] for one in cluster.prometheus.targets()]
        return health == ["up"] * (len(PODS) + len(SERVICES))

    until(are_up)


def text_of(cluster: Cluster, job: str) -> str:
    """What one target of a job tells now; the first pod's sidecar, which has GPUs."""
    wait_for_targets(cluster)
    url = next(
        one["scrapeUrl"]
        for one in cluster.prometheus.targets()
        if one["labels"]["job"] == job and one["labels"]["pod"] != PODS[1].name
    )
    response = requests.get(url, timeout=PATIENCE_S, verify=str(cluster.certificate.cert_file))
    assert response.headers["Content-Type"].startswith("text/plain; version=1.0.0")
    return response.text


@pytest.mark.parametrize("endpoint", JOBS)
def test_promtool_finds_nothing_wrong(cluster: Cluster, endpoint: str) -> None:
    text = text_of(cluster, JOBS[endpoint])
    run = subprocess.run(
        ["promtool", "check", "metrics"], input=text, capture_output=True, text=True
    )
    assert (run.returncode, run.stdout + run.stderr) == (0, "")


@pytest.mark.parametrize("endpoint", JOBS)
def test_the_endpoint_tells_what_the_reference_says_and_no_more(
    cluster: Cluster, endpoint: str
) -> None:
    declared = {one.name: one for one in (*DECLARED[endpoint], BUILD)}
    if endpoint == "Node meter":
        declared |= {one.name: one for one in outbox.METRICS}

    def told() -> dict[str, object]:
        families = text_string_to_metric_families(text_of(cluster, JOBS[endpoint]))
        return {f"{one.name}_total" if one.type == "counter" else one.name: one for one in families}

    cluster.admit()
    until(lambda: declared.keys() <= told().keys())
    for name, family in told().items():
        if name.startswith("process_"):
            continue
        metric = declared[name]
        kind = "gauge" if metric.kind == "info" else metric.kind
        assert (family.type, family.documentation) == (kind, metric.help)
        labels = {key for sample in family.samples for key in sample.labels} - {"le"}
        assert not family.samples or labels == {*metric.label_names}


def test_prometheus_scrapes_the_tracked_pods_and_the_services_and_no_other_container(
    cluster: Cluster,
) -> None:
    wait_for_targets(cluster)
    found = {
        (one["labels"]["job"], one["labels"]["namespace"], one["labels"]["pod"])
        for one in cluster.prometheus.targets()
    }
    sidecars = {(JOBS["Sidecar"], pod.namespace, pod.name) for pod in PODS}
    services = {(f"es-emissions-sidecar-{name}", "emissions", f"{name}-x") for name in SERVICES}
    assert found == sidecars | services


def test_who_a_pod_is_stands_in_the_labels_of_its_target(cluster: Cluster) -> None:
    until(lambda: len(cluster.prometheus.ask("emissions_info")) == len(PODS))
    for metric, _ in cluster.prometheus.ask("emissions_info"):
        assert not [label for label in metric if label.startswith("exported_")]
        (pod,) = (one for one in PODS if one.name == metric["pod"])
        assert (metric["namespace"], metric["project"]) == (pod.namespace, pod.project)
        assert metric["instance"] == f"{pod.address}:9877"
        assert (metric["workload"], metric["region"]) == (pod.name[:-2], "westeurope")


def test_a_sidecar_has_few_series_and_far_less_than_its_monitor_takes(cluster: Cluster) -> None:
    until(lambda: len(cluster.prometheus.ask("emissions_method_info")) == len(PODS))
    for _, count in cluster.prometheus.ask(f'scrape_samples_scraped{{job="{JOBS["Sidecar"]}"}}'):
        assert 40 < count < 80
