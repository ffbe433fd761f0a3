"""The pure function: what it does to pods, one rule at a time, and what holds for all of them."""

import copy
import json
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.injector.config import InjectConfig
from sidecar.injector.inject import Reason, inject
from sidecar.injector.patch import PatchError, append, patched, pointer
from sidecar.injector.pod_requests import exact_quantity
from sidecar.injector.pod_shape import PodShapeError
from tests.injector.goldens import CONFIG, HERE, case
from tests.injector.pods_of_any_kind import GUARANTEED, NAMESPACES, pods

NAME = "emissions-sidecar"
TRACKED = {"emissions/track": "true"}
OUTPUTS = {
    "emissions/status", "emissions/injector", "azure.workload.identity/skip-containers"
}  # fmt: skip


def pod(annotations=None, **spec):
    return {
        "metadata": {"annotations": {**TRACKED, **(annotations or {})}},
        "spec": {"containers": [{"name": "train"}], **spec},
    }


def injected(given, config=CONFIG):
    return patched(given, inject(given, {}, config).operations)


def sidecar_of(given, config=CONFIG):
    first = injected(given, config)["spec"]["initContainers"][0]
    assert first["name"] == NAME
    return first


def environment(given):
    return {one["name"]: one.get("value") for one in sidecar_of(given)["env"]}


def config_with(change) -> InjectConfig:
    content = json.loads((HERE / "config.json").read_text())
    change(content)
    return InjectConfig.from_json(json.dumps(content))


# -- rules ---------------------------------------------------------------------------------------


def test_the_container_is_the_configured_one_and_the_requests() -> None:
    container = sidecar_of(pod())
    assert {**container, "env": None} == {**CONFIG.container, "env": None}
    assert container["env"] == [
        *CONFIG.container["env"],
        {"name": "EMISSIONS_REQUESTS_CPU", "value": "0m"},
        {"name": "EMISSIONS_REQUESTS_MEMORY", "value": "0"},
        {"name": "EMISSIONS_REQUESTS_GPU", "value": "0"},
    ]


@pytest.mark.parametrize("empty", [(), (None,), ([],)], ids=["absent", "null", "empty"])
@pytest.mark.parametrize("key", ["initContainers", "volumes"])
def test_a_list_that_is_not_there_is_made(key, empty) -> None:
    result = injected(pod(**dict.fromkeys([key] * len(empty), *empty)))["spec"]
    assert [one["name"] for one in result["initContainers"]] == [NAME]
    assert [one["name"] for one in result["volumes"]] == [one["name"] for one in CONFIG.volumes]


@pytest.mark.parametrize("metadata", [{}, {"metadata": None}, {"metadata": {"annotations": None}}])
def test_a_pod_without_annotations_gets_them(metadata) -> None:
    given = {"spec": {"containers": []}, **metadata}
    result = patched(given, inject(given, TRACKED, CONFIG).operations)
    assert result["metadata"]["annotations"] == {
        "emissions/status": "injected",
        "emissions/injector": "0.1.0",
    }


def requesting(**amounts):
    return {"resources": {"requests": amounts}}


def test_requests_are_added_up_over_containers_and_native_sidecars() -> None:
    spec = {
        "initContainers": [
            {"name": "a", "restartPolicy": "Always", **requesting(cpu="1.5", memory="1Gi")},
            {"name": "b", **requesting(cpu="1", memory="1Mi")},
        ],
        "containers": [
            {"name": "c", **requesting(cpu="100m", memory="1500M")},
            {"name": "d", "resources": {"limits": {"cpu": 1, "memory": "0.5Ki"}}},
            {"name": "e", "resources": None},
        ],
    }
    found = environment(pod(**spec))
    assert found["EMISSIONS_REQUESTS_CPU"] == "2600m"
    assert found["EMISSIONS_REQUESTS_MEMORY"] == str(1024**3 + 1_500_000_000 + 512)


def test_an_init_container_that_needs_more_decides_what_the_scheduler_keeps() -> None:
    """Kubernetes documentation, "Init Containers": with the native sidecars before it."""
    spec = {
        "initContainers": [
            {"name": "early", "restartPolicy": "Always", **requesting(cpu="1")},
            {"name": "prepare", **requesting(cpu="32", memory="1Gi")},
            {"name": "late", "restartPolicy": "Always", **requesting(cpu="2")},
        ],
        "containers": [{"name": "train", **requesting(cpu="4", memory="64Gi")}],
    }
    found = environment(pod(**spec))
    assert found["EMISSIONS_REQUESTS_CPU"] == "33000m"
    assert found["EMISSIONS_REQUESTS_MEMORY"] == str(64 * 1024**3)


@pytest.mark.parametrize(
    ("limits", "told"),
    [
        ({}, "0"),
        ({"nvidia.com/gpu": "8"}, "8"),
        ({"nvidia.com/gpu.shared": "1"}, "1"),
        ({"amd.com/gpu": "8"}, "8"),
        ({"nvidia.com/mig-3g.40gb": "1"}, "428571u"),
        ({"nvidia.com/mig-7g.80gb": "1"}, "1"),
        ({"nvidia.com/mig-1g.5gb.me": "1"}, "142857u"),
        ({"nvidia.com/mig-1g.10gb": "3", "nvidia.com/mig-4g.40gb": "1"}, "1"),
        ({"nvidia.com/mig-2g.12gb": "1"}, "500000u"),
        ({"nvidia.com/gpu": "8", "nvidia.com/mlnxnics": "8"}, "8"),
        ({"nvidia.com/a100": "1"}, ""),
        ({"nvidia.com/a100": "0"}, "0"),
        ({"gpu.intel.com/i915": "1"}, ""),
        ({"example.com/fpga": "1"}, "0"),
    ],
)
def test_gpus_are_told_by_whatever_name_they_have_and_what_is_not_known_is_not_zero(
    limits, told
) -> None:
    one = {"resources": {"limits": limits, "requests": dict(limits)}}
    assert environment(pod(containers=[one]))["EMISSIONS_REQUESTS_GPU"] == told


def test_a_claim_may_be_of_gpus_so_their_number_is_not_told() -> None:
    claiming = {"resources": {"claims": [{"name": "gpu"}]}}
    assert environment(pod(containers=[claiming]))["EMISSIONS_REQUESTS_GPU"] == ""
    beside = {"resources": {"limits": {"nvidia.com/gpu": "1"}}}
    assert environment(pod(containers=[claiming, beside]))["EMISSIONS_REQUESTS_GPU"] == "1"


@pytest.mark.parametrize("name", ["nvidia.com/mig-3g.40gb", "nvidia.com/a100"])
def test_a_pod_that_may_hold_gpus_is_shown_them_where_that_is_configured(name) -> None:
    shown = {"name": "NVIDIA_VISIBLE_DEVICES", "value": "all"}
    config = config_with(lambda content: content["container"]["env"].append(shown))
    given = pod(containers=[{"resources": {"limits": {name: "1"}}}])
    assert shown in sidecar_of(given, config)["env"]
    assert shown not in sidecar_of(pod(), config)["env"]


def test_gpus_count_once_where_both_request_and_limit_are_given() -> None:
    one = {"resources": {"requests": {"nvidia.com/gpu": "2"}, "limits": {"nvidia.com/gpu": 2}}}
    other = {"resources": {"limits": {"nvidia.com/gpu": "1"}}}
    assert environment(pod(containers=[one, other]))["EMISSIONS_REQUESTS_GPU"] == "3"


@pytest.mark.parametrize("bad", ["much", "-1", True, {}, ""])
def test_a_quantity_that_is_none_counts_as_nothing_and_is_told(bad) -> None:
    given = pod(containers=[{"resources": {"requests": {"cpu": bad}}}])
    assert environment(given)["EMISSIONS_REQUESTS_CPU"] == "0m"
    assert "cpu counts as 0" in inject(given, {}, CONFIG).warnings[0]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("500m", Fraction(1, 2)), ("0.1", Fraction(1, 10)), (".5", Fraction(1, 2)), ("2.", 2),
        ("1.5Gi", 1610612736), ("1e3", 1000), ("5E", 5 * 10**18), ("1n", Fraction(1, 10**9)),
        ("9007199254740993", 9007199254740993), ("9E999", 2**63 - 1), ("+3", 3),
    ],
)  # fmt: skip
def test_quantities_are_read_exactly_and_cut_off_as_kubernetes_does(text, value) -> None:
    assert exact_quantity(text) == value


@given(st.integers(0, 10**6), st.sampled_from(["", "n", "u", "m", "k", "Mi", "Gi", "G", "e2"]))
def test_the_sidecar_reads_quantities_alike(number, suffix) -> None:
    from sidecar.meters.pod.requests import parse_quantity

    text = f"{number}{suffix}"
    assert parse_quantity(text) == pytest.approx(float(exact_quantity(text)))


def owned(kind, name, *, controller=True, labels=None):
    owner = {"kind": kind, "name": name, "uid": "u", "controller": controller}
    given = pod()
    given["metadata"] |= {"ownerReferences": [owner], "labels": labels or {}}
    return given


@pytest.mark.parametrize(
    ("given", "workload"),
    [
        (owned("Job", "tune-28912340"), "Job/tune-28912340"),
        (owned("PyTorchJob", "bert"), "PyTorchJob/bert"),
        (
            owned("ReplicaSet", "serve-7d4b9c6f5", labels={"pod-template-hash": "7d4b9c6f5"}),
            "Deployment/serve",
        ),
        (owned("ReplicaSet", "serve-7d4b9c6f5"), "ReplicaSet/serve-7d4b9c6f5"),
        (owned("ReplicaSet", "other", labels={"pod-template-hash": "7d"}), "ReplicaSet/other"),
        (owned("StatefulSet", "a-b", labels={"pod-template-hash": "b"}), "StatefulSet/a-b"),
        (owned("Job", "tune", controller=False), None),
        (owned("Job", None), None),
        (pod(), None),
    ],
)
def test_the_workload_is_what_controls_the_pod(given, workload) -> None:
    assert environment(given).get("POD_WORKLOAD") == workload


def test_a_volume_of_raw_blocks_is_not_taken_for_the_records() -> None:
    container = {"volumeDevices": [{"name": "disk", "devicePath": "/dev/x"}]}
    volumes = [{"name": "disk", "persistentVolumeClaim": {"claimName": "disk"}}]
    given = pod({"emissions/volume": "disk"}, containers=[container], volumes=volumes)
    assert sidecar_of(given)["volumeMounts"] == CONFIG.container["volumeMounts"]
    assert "no volume 'disk' that records" in inject(given, {}, CONFIG).warnings[0]


@pytest.mark.parametrize(
    "path",
    [
        "/var/run/emissions",
        "/var/run/emissions/",
        "/var/run/emissions/deep",
        "/var/run",
        "/var",
        "/run",
        "/run/emissions",
        "var/run/emissions",
        "/var//run/emissions",
    ],
)
def test_a_container_with_a_mount_at_above_or_below_keeps_it(path) -> None:
    own = [{"name": "x", "mountPath": path}]
    given = pod({"emissions/mount": "true"}, containers=[{"name": "a", "volumeMounts": own}])
    assert injected(given)["spec"]["containers"] == given["spec"]["containers"]
    assert inject(given, {}, CONFIG).warnings


def test_a_container_with_a_mount_beside_gets_the_records() -> None:
    own = [{"name": "x", "mountPath": "/var/run/emissions-of-mine"}]
    given = pod({"emissions/mount": "true"}, containers=[{"name": "a", "volumeMounts": own}])
    mounts = injected(given)["spec"]["containers"][0]["volumeMounts"]
    records = {"name": "emissions", "mountPath": "/var/run/emissions", "readOnly": True}
    assert mounts == [*own, records]


def test_hooks_other_than_pre_stop_stay_on_the_nodes_network() -> None:
    def change(content):
        content["container"]["lifecycle"]["stopSignal"] = "SIGTERM"

    container = sidecar_of(pod(hostNetwork=True), config_with(change))
    assert container["lifecycle"] == {"stopSignal": "SIGTERM"}
    assert "livenessProbe" not in container


@pytest.mark.parametrize("kind", ["containers", "initContainers"])
def test_a_pod_that_listens_on_the_sidecars_port_keeps_it(kind) -> None:
    """The sidecar starts first: the other would find its port taken."""
    one = {"name": "a", "ports": [{"containerPort": 9877}]}
    given = pod(
        **{kind: [one], **({} if kind == "containers" else {"containers": [{"name": "b"}]})}
    )
    container = sidecar_of(given)
    assert not {"livenessProbe", "lifecycle"} & container.keys()
    assert "EMISSIONS_LISTEN" not in {entry["name"] for entry in container["env"]}


@pytest.mark.parametrize("kind", ["containers", "initContainers"])
def test_the_sidecar_brings_its_own_storage_where_the_pods_is_bounded(kind) -> None:
    """Kubelet evicts a pod that uses more than the limits of its containers together."""
    bounded = {"name": "a", "resources": {"limits": {"ephemeral-storage": "1Gi"}}}
    given = pod(**{"containers": [{"name": "b"}], kind: [bounded]})
    amounts = sidecar_of(given)["resources"]
    assert amounts["requests"] == amounts["limits"]
    storage = exact_quantity(amounts["limits"]["ephemeral-storage"])
    assert storage == exact_quantity(CONFIG.records_limit) + 16 * 2**20


@pytest.mark.parametrize("amounts", [{}, {"requests": {"ephemeral-storage": "1Gi"}}])
def test_the_sidecar_bounds_no_storage_of_a_pod_that_does_not(amounts) -> None:
    """A limit of ours alone would be the limit of the whole pod."""
    given = pod(containers=[{"name": "a", "resources": amounts}])
    assert sidecar_of(given)["resources"] == CONFIG.container["resources"]


SHARED = {"emissions/share-process-namespace": "true"}


def test_the_process_namespace_is_shared_where_that_is_asked_for() -> None:
    assert injected(pod(SHARED))["spec"]["shareProcessNamespace"] is True
    assert "shareProcessNamespace" not in injected(pod())["spec"]


@pytest.mark.parametrize("own", [{"hostPID": True}, {"shareProcessNamespace": False}])
def test_what_the_pod_says_itself_of_process_namespaces_stays(own) -> None:
    """Kubernetes refuses a pod with both."""
    given = pod(SHARED, **own)
    spec = injected(given)["spec"]
    assert own.items() <= spec.items()
    assert "shareProcessNamespace" not in spec or "shareProcessNamespace" in own
    assert "stays as it is" in inject(given, {}, CONFIG).warnings[0]


@pytest.mark.parametrize(
    ("spec", "better"),
    [
        ({"hostNetwork": True}, "ClusterFirstWithHostNet"),
        ({"hostNetwork": True, "dnsPolicy": "ClusterFirst"}, "ClusterFirstWithHostNet"),
        ({"dnsPolicy": "Default"}, "ClusterFirst"),
    ],
)
def test_a_pod_that_resolves_no_service_of_the_cluster_is_warned(spec, better) -> None:
    """Its sidecar finds neither collector nor node meter: the records stay in the pod."""
    decision = inject(pod(**spec), {}, CONFIG)
    assert decision.status == "injected"
    assert decision.warnings[0].startswith("the pod's dnsPolicy does not resolve")
    assert decision.warnings[0].endswith(f"set {better}")


@pytest.mark.parametrize(
    "spec",
    [
        {},
        {"hostNetwork": True, "dnsPolicy": "ClusterFirstWithHostNet"},
        {"hostNetwork": True, "dnsPolicy": "None"},
        {"hostNetwork": False, "dnsPolicy": "ClusterFirst"},
    ],
)
def test_other_pods_are_not_warned_of_it(spec) -> None:
    assert inject(pod(**spec), {}, CONFIG).warnings == ()


def test_a_collector_outside_of_the_cluster_is_found_by_any_pod() -> None:
    def change(content):
        env = content["container"]["env"]
        url = next(one for one in env if one["name"] == "EMISSIONS_COLLECTOR_URL")
        url["value"] = "https://collector.example.com"

    given = pod(hostNetwork=True)
    assert inject(given, {}, config_with(change)).warnings == ()


OTHER_VOLUMES = {
    "secret": {"secret": {"secretName": "x"}},
    "configMap": {"configMap": {"name": "x"}},
    "projected": {"projected": {"sources": []}},
    "read-only claim": {"persistentVolumeClaim": {"claimName": "x", "readOnly": True}},
    "memory": {"emptyDir": {"medium": "Memory"}},
    "small": {"emptyDir": {"sizeLimit": "8Mi"}},
}


@pytest.mark.parametrize("kind", OTHER_VOLUMES)
def test_a_volume_that_cannot_take_the_records_is_not_taken_for_them(kind) -> None:
    """A sidecar that fills a small emptyDir would have the pod evicted."""
    given = pod({"emissions/volume": "mine"}, volumes=[{"name": "mine", **OTHER_VOLUMES[kind]}])
    assert sidecar_of(given)["volumeMounts"] == CONFIG.container["volumeMounts"]
    assert (
        "no volume 'mine' that records can be written to" in inject(given, {}, CONFIG).warnings[0]
    )


@pytest.mark.parametrize(
    "volume", [{"emptyDir": {"sizeLimit": "1Gi"}}, {"emptyDir": {}}, {"nfs": {}}]
)
def test_a_volume_with_room_is_taken_for_the_records(volume) -> None:
    given = pod({"emissions/volume": "mine"}, volumes=[{"name": "mine", **volume}])
    assert "mine" in {mount["name"] for mount in sidecar_of(given)["volumeMounts"]}


WINDOWS = {
    "affinity": {
        "affinity": {
            "nodeAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution": {
                    "nodeSelectorTerms": [
                        {
                            "matchExpressions": [
                                {"key": "kubernetes.io/os", "operator": "In", "values": ["windows"]}
                            ]
                        }
                    ]
                }
            }
        }
    },
    "pod": {"securityContext": {"windowsOptions": {"runAsUserName": "x"}}},
    "container": {
        "containers": [{"name": "a", "securityContext": {"windowsOptions": {"hostProcess": True}}}]
    },
}


def required_nodes(key, *values, operator="In"):
    term = {"matchExpressions": [{"key": key, "operator": operator, "values": list(values)}]}
    required = {"nodeSelectorTerms": [{}, term]}
    return {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": required}}


VIRTUAL_NODES = {
    "node selector": {"nodeSelector": {"type": "virtual-kubelet"}},
    "node selector of the second generation": {"nodeSelector": {"virtualization": "virtualnode2"}},
    "affinity": {"affinity": required_nodes("type", "vm", "virtual-kubelet")},
    "toleration": {"tolerations": [{"key": "virtual-kubelet.io/provider", "operator": "Exists"}]},
    "toleration of old": {"tolerations": [{"key": "azure.com/aci", "effect": "NoSchedule"}]},
}


@pytest.mark.parametrize("place", VIRTUAL_NODES)
def test_a_pod_that_a_virtual_node_may_run_is_left_alone(place) -> None:
    """Its kubelet runs no init container that has resources, probe or hook: the pod would not start."""
    decision = inject(pod(**VIRTUAL_NODES[place]), {}, CONFIG)
    assert decision.reason is Reason.VIRTUAL_NODE
    assert decision.status == "skipped: virtual nodes run no sidecars"


@pytest.mark.parametrize(
    "spec",
    [
        {"tolerations": [{"operator": "Exists"}]},
        {"affinity": required_nodes("type", "virtual-kubelet", operator="NotIn")},
        {"nodeSelector": {"type": "gpu"}},
    ],
)
def test_a_pod_that_asks_for_no_virtual_node_gets_the_sidecar(spec) -> None:
    assert inject(pod(**spec), {}, CONFIG).reason is Reason.INJECTED


@pytest.mark.parametrize("place", WINDOWS)
def test_a_pod_for_windows_is_left_alone_wherever_it_says_so(place) -> None:
    assert inject(pod(**WINDOWS[place]), {}, CONFIG).reason is Reason.WINDOWS


@pytest.mark.parametrize(
    "annotation",
    ["io.katacontainers.config.agent.policy", "io.katacontainers.config.hypervisor.cc_init_data"],
)
def test_a_pod_whose_containers_are_settled_by_a_policy_is_left_alone(annotation) -> None:
    """Its guest refuses a container that the policy does not name: the pod would not start."""
    decision = inject(pod({annotation: "cGFja2FnZQ=="}), {}, CONFIG)
    assert decision.reason is Reason.CONFIDENTIAL
    assert decision.status == "skipped: the policy of a confidential pod admits no other container"


def test_the_patch_of_a_large_pod_does_not_copy_the_pod() -> None:
    """A second of copying would hold up the pods of everybody else."""
    tolerations = [{"key": "a"}]
    given = pod(tolerations=tolerations, volumes=[{"name": "mine"}])
    before = copy.deepcopy(given)
    result = injected(given)
    assert result["spec"]["tolerations"] is tolerations
    assert given == before


def test_a_sidecar_that_writes_to_blob_itself_keeps_the_pods_identity() -> None:
    def change(content):
        env = content["container"]["env"]
        next(one for one in env if one["name"] == "EMISSIONS_TRANSPORT")["value"] = "blob"

    given = case("workload-identity").pod
    annotations = injected(given, config_with(change))["metadata"]["annotations"]
    assert "azure.workload.identity/skip-containers" not in annotations


def test_a_pod_that_opts_out_of_its_namespace_says_so() -> None:
    given = pod({"emissions/track": "false"})
    decision = inject(given, TRACKED, CONFIG)
    assert (decision.reason, decision.status) == (Reason.OPTED_OUT, "skipped: opted out")
    result = patched(given, decision.operations)
    assert result["spec"] == given["spec"]
    assert inject(result, TRACKED, CONFIG).operations == ()


@pytest.mark.parametrize("labels", [{}, {"emissions/track": "false"}])
def test_a_pod_that_opts_out_of_nothing_is_left_as_it_is(labels) -> None:
    decision = inject(pod({"emissions/track": "false"}), labels, CONFIG)
    assert (decision.reason, decision.operations) == (Reason.OPTED_OUT, ())


def test_a_sidecar_put_there_by_hand_is_left_alone() -> None:
    by_hand = {"name": NAME, "restartPolicy": "Always", "image": "registry.example.com/own:1"}
    decision = inject(pod(initContainers=[by_hand]), {}, CONFIG)
    assert (decision.reason, decision.operations) == (Reason.ALREADY_INJECTED, ())


@pytest.mark.parametrize("where", ["containers", "initContainers"])
def test_a_container_of_the_name_that_is_no_native_sidecar_is_anothers(where) -> None:
    decision = inject(pod(**{where: [{"name": NAME}]}), {}, CONFIG)
    assert decision.status == "skipped: container name emissions-sidecar is taken"
    assert {operation["path"] for operation in decision.operations} == {
        "/metadata/annotations/emissions~1status",
        "/metadata/annotations/emissions~1injector",
    }


def test_annotations_that_are_full_leave_the_pod_as_it_is() -> None:
    given = pod({"note": "x" * (256 * 1024 - 50)})
    decision = inject(given, {}, CONFIG)
    assert (decision.reason, decision.operations) == (Reason.ANNOTATIONS_SIZE, ())


def test_warnings_are_bounded() -> None:
    given = pod({f"emissions/{number}{'x' * 300}": "" for number in range(100)})
    warnings = inject(given, {}, CONFIG).warnings
    assert len(warnings) == 9
    assert warnings[-1] == "92 more warnings of this kind"
    assert all(len(text) <= 250 for text in warnings)


@pytest.mark.parametrize(
    "odd",
    [
        {"spec": []}, {"metadata": "x"}, {"spec": {"containers": "abc"}},
        {"spec": {"containers": [1]}}, {"spec": {"containers": [], "volumes": {}}},
        {"spec": {"containers": [{"resources": []}]}},
        {"metadata": {"annotations": [], "labels": {}}},
    ],
)  # fmt: skip
def test_a_pod_that_is_not_shaped_like_one_is_told_apart(odd) -> None:
    with pytest.raises(PodShapeError):
        inject({"spec": {"containers": []}, **odd}, TRACKED, CONFIG)


@pytest.mark.parametrize("name", [None, 7, [], {}])
def test_names_of_another_type_match_nothing(name) -> None:
    given = pod(containers=[{"name": name}], volumes=[{"name": name}])
    assert inject(given, {}, CONFIG).status == "injected"


def test_a_patch_that_does_not_apply_is_never_returned() -> None:
    with pytest.raises(PatchError, match="does not apply"):
        patched({}, append([], [1], "spec", "volumes"))


def test_keys_are_escaped_in_pointers() -> None:
    assert pointer("a/b~c", 0, "-") == "/a~1b~0c/0/-"


# -- what holds for all pods ---------------------------------------------------------------------


@given(pods(), NAMESPACES)
def test_a_pod_is_only_added_to(given_pod, labels) -> None:
    before = copy.deepcopy(given_pod)
    decision = inject(given_pod, labels, CONFIG)
    assert given_pod == before
    result = patched(given_pod, decision.operations)
    assert_only_added(given_pod, result)
    assert inject(result, labels, CONFIG).operations == ()


@given(pods(), NAMESPACES)
def test_user_containers_stay_as_they_are_but_for_the_mount_asked_for(given_pod, labels) -> None:
    result = patched(given_pod, inject(given_pod, labels, CONFIG).operations)
    annotations = (given_pod.get("metadata") or {}).get("annotations") or {}
    for old, new in zip(given_pod["spec"]["containers"], result["spec"]["containers"], strict=True):
        if annotations.get("emissions/mount") != "true" or old == new:
            assert json.dumps(new) == json.dumps(old)
        else:
            *before, added = new["volumeMounts"]
            assert before == (old.get("volumeMounts") or [])
            assert (added["mountPath"], added["readOnly"]) == (CONFIG.mount_path, True)
            assert {**new, "volumeMounts": 0} == {**old, "volumeMounts": 0}


@given(pods(resources=GUARANTEED))
def test_a_guaranteed_pod_stays_guaranteed(given_pod) -> None:
    assert is_guaranteed(given_pod)
    assert is_guaranteed(patched(given_pod, inject(given_pod, TRACKED, CONFIG).operations))


@given(pods())
def test_a_limit_of_storage_grows_by_what_the_sidecar_may_use_and_is_never_made(given_pod) -> None:
    def limit(spec):
        limits = [
            (one.get("resources") or {}).get("limits") or {}
            for one in (*(spec.get("initContainers") or []), *spec["containers"])
        ]
        amounts = [one["ephemeral-storage"] for one in limits if "ephemeral-storage" in one]
        return sum(map(exact_quantity, amounts)) if amounts else None

    decision = inject(given_pod, TRACKED, CONFIG)
    before = limit(given_pod["spec"])
    after = limit(patched(given_pod, decision.operations)["spec"])
    if before is None or decision.reason is not Reason.INJECTED:
        assert after == before
    else:
        assert after >= before + exact_quantity(CONFIG.records_limit)


@given(pods())
def test_the_sidecar_passes_restricted_pod_security(given_pod) -> None:
    result = patched(given_pod, inject(given_pod, TRACKED, CONFIG).operations)["spec"]
    ours = [one for one in result.get("initContainers") or [] if one["name"] == NAME]
    for container in ours:
        security = container["securityContext"]
        assert security["allowPrivilegeEscalation"] is False
        assert security["capabilities"] == {"drop": ["ALL"]}
        assert security["runAsNonRoot"] is True
        assert security["runAsUser"] > 0
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not {"ports", "startupProbe", "readinessProbe"} & set(container)
    restricted = {"emptyDir", "projected", "downwardAPI", "persistentVolumeClaim"}
    added = [one for one in result.get("volumes") or [] if one in CONFIG.volumes]
    assert all(set(one) - {"name"} <= restricted for one in added)


def is_guaranteed(pod) -> bool:
    """As Kubernetes tells it: CPU and memory limits everywhere, and requests equal to them."""
    spec = pod["spec"]
    return all(
        {"cpu", "memory"} <= set(one["resources"]["limits"])
        and one["resources"]["requests"] == one["resources"]["limits"]
        for one in (*(spec.get("initContainers") or []), *spec["containers"])
    )


def assert_only_added(old, new, at="") -> None:
    """All that was there is there still, in order; only our own annotations may have changed."""
    if old is None or at.rpartition("annotations/")[2] in OUTPUTS:
        return
    if isinstance(old, dict):
        for key, value in old.items():
            assert_only_added(
                value, new[key], f"{at}/{key}" if key != "annotations" else "annotations"
            )
    elif isinstance(old, list):
        kept = new[len(new) - len(old) :] if at.endswith("initContainers") else new[: len(old)]
        assert len(kept) == len(old)
        for one, other in zip(old, kept, strict=True):
            assert_only_added(one, other, at)
    else:
        assert old == new, at
