"""Policy mode and webhook mode give the same pod for the same input."""

import copy
import functools
import json
from typing import Any

import kubernetes_validate
import pytest
from hypothesis import given

from sidecar.injector.config import InjectConfig
from sidecar.injector.inject import Reason, inject
from sidecar.injector.patch import patched
from tests.helm.cel_policy import MixedListError, Policy, TypeNameError, check_lists, plain
from tests.helm.tools import VALUE_SETS, injector_json, render
from tests.injector.goldens import Case, case, cases
from tests.injector.pods_of_any_kind import NAMESPACES, pods

pytestmark = pytest.mark.needs("helm")

ALL_PODS = "--set=injection.namespaceOptIn=all"
PULLABLE = "--set=image.registry=registry.example.com"
"""Policy mode refuses an image that no node could pull."""


@functools.cache
def policy(value_set: str, *options: str) -> Policy:
    rendered = render(value_set, *options, PULLABLE, "--set=injection.mode=policy")
    return Policy(rendered.one("MutatingAdmissionPolicy"))


@functools.cache
def config(value_set: str) -> InjectConfig:
    return InjectConfig.from_json(json.dumps(injector_json(value_set, PULLABLE)))


def as_api_server_sends(part: Any) -> Any:
    """Decoded and encoded once: nothing is null, lists are absent if empty, quantities are text."""
    if isinstance(part, list):
        return [as_api_server_sends(item) for item in part]
    if not isinstance(part, dict):
        return part
    for amounts in ("requests", "limits"):
        if isinstance(part.get(amounts), dict):
            part = {**part, amounts: {key: str(value) for key, value in part[amounts].items()}}
    omitted = ("initContainers", "volumes", "volumeMounts", "nodeSelector", "annotations", "labels")
    kept = {
        key: as_api_server_sends(value)
        for key, value in part.items()
        if value is not None and not (key in omitted and not value) and key != "fieldToCome"
    }
    return kept | ({"metadata": kept.get("metadata", {})} if "spec" in kept else {})


def by_policy(asked: Policy, pod: dict[str, Any], labels: dict[str, str]) -> dict[str, Any]:
    return patched(pod, asked.operations(pod, labels))  # type: ignore[arg-type]


def by_injector(pod: dict[str, Any], labels: dict[str, str], sidecar: InjectConfig) -> Any:
    return patched(pod, inject(pod, labels, sidecar).operations)


@pytest.mark.parametrize("one", cases(), ids=lambda one: one.name)
def test_the_policy_does_to_each_pod_of_the_corpus_what_the_injector_does(one: Case) -> None:
    pod = as_api_server_sends(one.pod)
    expected = by_injector(pod, one.namespace_labels, config("blob"))
    assert by_policy(policy("blob"), pod, one.namespace_labels) == expected


@pytest.mark.parametrize("value_set", VALUE_SETS)
def test_the_policy_has_the_same_literals_as_injector_json_whatever_the_values(
    value_set: str,
) -> None:
    pod = as_api_server_sends(case("guaranteed-gpu").pod)
    result = by_policy(policy(value_set, ALL_PODS), pod, {})
    added, *_ = result["spec"]["initContainers"]
    requests = [one for one in added["env"] if one["name"].startswith("EMISSIONS_REQUESTS_")]
    written = injector_json(value_set, PULLABLE)
    assert added == {
        **written["container"],
        "env": [*written["container"]["env"], *requests],
    }
    assert [one["name"] for one in requests] == [
        "EMISSIONS_REQUESTS_CPU",
        "EMISSIONS_REQUESTS_MEMORY",
        "EMISSIONS_REQUESTS_GPU",
    ]
    assert result["spec"]["volumes"][-len(written["volumes"]) :] == written["volumes"]


@pytest.mark.parametrize("name", ["plain", "guaranteed-gpu", "host-network"])
def test_gpus_are_shown_to_the_sidecars_of_pods_with_gpus_alone(name: str) -> None:
    """A hardened node refuses a container that wants to see GPUs it was not given."""
    pod = as_api_server_sends(case(name).pod)
    gpus = "nvidia.com/gpu" in json.dumps(pod)
    result = by_policy(policy("direct-blob", ALL_PODS), pod, {})
    assert result == by_injector(pod, {}, config("direct-blob"))
    env = {one["name"]: one.get("value") for one in result["spec"]["initContainers"][0]["env"]}
    seen = (env.get("NVIDIA_VISIBLE_DEVICES"), env.get("NVIDIA_DRIVER_CAPABILITIES"))
    assert seen == (("all", "utility") if gpus else (None, None))


@given(pods(), NAMESPACES)
def test_the_policy_does_to_any_pod_what_the_injector_does(
    pod: dict[str, Any], labels: dict[str, str]
) -> None:
    pod = as_api_server_sends(pod)
    before = copy.deepcopy(pod)
    assert by_policy(policy("blob"), pod, labels) == by_injector(pod, labels, config("blob"))
    assert pod == before


def test_the_policy_leaves_alone_what_it_has_done() -> None:
    asked = policy("blob")
    once = by_policy(asked, as_api_server_sends(case("plain").pod), {})
    assert asked.operations(once, {}) == []


@pytest.mark.parametrize("name", ["plain", "azureml", "guaranteed-gpu", "mount", "host-network"])
def test_kubernetes_knows_every_field_that_the_policy_adds(name: str) -> None:
    one = case(name)
    pod = by_policy(policy("blob"), as_api_server_sends(one.pod), one.namespace_labels)
    assert pod["metadata"]["annotations"]["emissions/status"] == "injected"
    kubernetes_validate.validate(pod, "1.36", strict=True)


def test_the_azureml_opt_in_takes_runs_of_azureml_only() -> None:
    asked, labels = policy("policy"), {"emissions/track": "true"}
    run, other = case("azureml"), case("namespace")
    assert asked.operations(as_api_server_sends(run.pod), labels) != []
    assert asked.operations(as_api_server_sends(other.pod), labels) == []


def test_no_namespace_opts_in_where_that_is_turned_off() -> None:
    asked = policy("blob", "--set=injection.namespaceOptIn=none")
    pod = as_api_server_sends(case("namespace").pod)
    assert asked.operations(pod, {"emissions/track": "true"}) == []


def test_a_pod_whose_annotations_are_full_is_left_alone_and_not_made_too_long() -> None:
    pod = as_api_server_sends(case("plain").pod)
    pod["metadata"]["annotations"]["example.com/notes"] = "x" * 262_140
    assert policy("blob").operations(pod, {}) == []
    assert inject(pod, {}, config("blob")).reason is Reason.ANNOTATIONS_SIZE


def test_direct_blob_lets_azure_give_the_sidecar_the_identity_of_the_pod() -> None:
    pod = as_api_server_sends(case("plain").pod)
    pod["metadata"]["labels"] = {"azure.workload.identity/use": "true"}
    skipped = "azure.workload.identity/skip-containers"
    assert by_policy(policy("blob"), pod, {})["metadata"]["annotations"][skipped] == (
        "emissions-sidecar"
    )
    direct = by_policy(policy("direct-blob"), pod, {})
    assert skipped not in direct["metadata"]["annotations"]


def test_no_operation_has_a_list_of_objects_as_its_value() -> None:
    """Kubernetes 1.36 cannot convert such a list, and breaks off the pod's creation."""
    for one in cases():
        for operation in policy("blob").operations(
            as_api_server_sends(one.pod), one.namespace_labels
        ):
            assert not isinstance(operation["value"], list) or operation["value"] == []


def test_a_literal_of_another_type_than_its_place_is_noticed() -> None:
    with pytest.raises(TypeNameError, match=r"Object\.spec\.b\{?.* stands at Object\.spec\.a"):
        plain("Object.spec{a: Object.spec.b{c: 1}}")


@pytest.mark.parametrize("mixed", ["x.map(k, [k, string(k)])", 'f([1, "a"], [x])', '[x["a"], "b"]'])
def test_a_list_of_two_types_is_noticed(mixed: str) -> None:
    """Kubernetes compiles for lists of one type; the policy would end, and no pod get the sidecar."""
    with pytest.raises(MixedListError):
        check_lists(mixed)


@pytest.mark.parametrize(
    "alike", ['["a", string(f(k, [1]))]', 'x["a"][0] in ["a", "b"]', "[x, y.z]", '(a ? [] : ["b"])']
)
def test_a_list_of_one_type_is_let_through(alike: str) -> None:
    check_lists(alike)
