"""GET /v1/node: what a pod may know of its own node."""

import pytest

from sidecar.collector.node_facts import NodeFacts, facts_of
from tests.collector.running import POD
from tests.collector.test_segments import refused
from tests.fakes.kubernetes_api import AKS_LABELS


def test_a_pod_is_told_its_own_nodes_size_region_zone_and_pool(collector, api) -> None:
    response = collector.get("/v1/node", api.token())
    assert response.status_code == 200
    assert response.json() == {
        "node": POD.node,
        "vm_size": "Standard_NC24ads_A100_v4",
        "region": "westeurope",
        "zone": "2",
        "pool": "gpupool",
    }


def test_a_node_is_looked_up_once_for_all_its_pods(collector, api) -> None:
    for pod in ("a", "b", "c"):
        token = api.token(pod=pod, pod_uid=f"uid-{pod}")
        assert collector.get("/v1/node", token).status_code == 200
    assert api.requests.count(f"GET /api/v1/nodes/{POD.node}") == 1


@pytest.mark.parametrize(
    ("node", "told"), [(None, "names no node"), ("aks-gone-1", "no node 'aks-gone-1'")]
)
def test_where_there_is_no_node_the_answer_says_why(collector, api, node, told) -> None:
    assert told in refused(collector.get("/v1/node", api.token(node=node)), 404, "no_node")


def test_nobody_is_told_without_a_token(collector) -> None:
    refused(collector.get("/v1/node"), 401, "no_token")


def test_an_api_server_that_fails_is_worth_another_try(collector, api) -> None:
    api.add_node("slow")
    token = api.token(node="slow")
    refused(collector.get("/v1/node", api.token(node="unknown")), 404, "no_node")
    api.mode = "forbidden"
    response = collector.get("/v1/node", api.token())
    assert "tokenreviews" in refused(response, 503, "kubernetes_api")
    api.mode = "well"
    assert collector.get("/v1/node", token).status_code == 200


@pytest.mark.parametrize(
    ("labels", "zone", "pool"),
    [
        ({"topology.kubernetes.io/zone": "0"}, None, None),
        ({"topology.kubernetes.io/zone": "westeurope-3"}, "3", None),
        ({"topology.kubernetes.io/zone": ""}, None, None),
        ({"agentpool": "old"}, None, "old"),
        ({"agentpool": "old", "kubernetes.azure.com/agentpool": "new"}, None, "new"),
    ],
)
def test_labels_are_read_as_aks_writes_them(labels, zone, pool) -> None:
    assert facts_of("n", labels) == NodeFacts("n", None, None, zone, pool)


def test_a_node_without_labels_is_known_by_name_only() -> None:
    assert facts_of("n", {}) == NodeFacts("n", None, None, None, None)
    assert facts_of("n", AKS_LABELS).zone == "2"
