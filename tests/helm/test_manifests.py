"""Every document that the chart renders, over values and versions of Kubernetes and of Helm."""

import importlib
import json
import re
from typing import Any

import kubernetes_validate
import pytest
import yaml

from sidecar.injector.config import default_config
from sidecar.settings import load_settings
from tests.helm.cel_policy import holds
from tests.helm.tools import (
    CHART,
    MAJORS,
    ROOT,
    VALUE_SETS,
    Document,
    helm,
    injector_json,
    render,
    values_file,
)

pytestmark = pytest.mark.needs("helm")

KUBERNETES = ("1.29", "1.31", "1.34", "1.36", "1.37")
POLICY_SINCE = ("1.36", "1.37")
OPERATORS = ("cert-manager.io/", "monitoring.coreos.com/")
"""Their kinds are not Kubernetes' own; there is no schema of them here."""

NOTHING_GENERATED = (
    "--set=collector.handoverKey.mode=none",
    "--set=webhook.certs.mode=existing",
    "--set=webhook.certs.existingSecret=tls",
    "--set=webhook.certs.caBundle=YQ==",
)
"""Without a cluster there is nothing to look up: what Helm would make is given."""


def pod_templates(document: Document) -> list[dict[str, Any]]:
    """Pods, and what workloads make pods of."""
    if document["kind"] == "Pod":
        return [document]
    spec = document.get("spec", {})
    template = spec.get("jobTemplate", {}).get("spec", spec).get("template")
    return [template] if isinstance(template, dict) and "spec" in template else []


@pytest.mark.parametrize("major", MAJORS)
@pytest.mark.parametrize("value_set", VALUE_SETS)
def test_lint_has_nothing_to_say(value_set: str, major: int) -> None:
    run = helm(
        major,
        "lint",
        "--strict",
        "--kube-version=1.36.0",
        f"--values={values_file(value_set)}",
        str(CHART),
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert "[WARNING]" not in run.stdout


@pytest.mark.parametrize("kubernetes", KUBERNETES)
def test_kubernetes_knows_every_field_of_every_document(kubernetes: str) -> None:
    distinct: dict[str, tuple[str, Document]] = {}
    for value_set in VALUE_SETS:
        if value_set != "policy" or kubernetes in POLICY_SINCE:
            for document in render(value_set, kubernetes=f"{kubernetes}.0").documents:
                distinct[json.dumps(document, sort_keys=True)] = (value_set, document)
    assert len(distinct) > 60
    for value_set, document in distinct.values():
        if document["apiVersion"].startswith(OPERATORS):
            continue
        try:
            kubernetes_validate.validate(document, kubernetes, strict=True)
        except kubernetes_validate.ValidationError as error:
            pytest.fail(f"{value_set}, {document['kind']}: {error.message}")


@pytest.mark.parametrize("value_set", VALUE_SETS)
def test_both_helms_render_the_same(value_set: str) -> None:
    def by_name(major: int) -> dict[tuple[str, str], Document]:
        documents = render(value_set, *NOTHING_GENERATED, major=major).documents
        return {(one["kind"], one["metadata"]["name"]): one for one in documents}

    assert by_name(3) == by_name(4)


@pytest.mark.parametrize("value_set", VALUE_SETS)
def test_an_upgrade_without_changes_changes_nothing(value_set: str) -> None:
    install = render(value_set, *NOTHING_GENERATED)
    upgrade = render(value_set, *NOTHING_GENERATED, "--is-upgrade")
    assert install.text == upgrade.text


def test_authority_and_certificate_made_by_helm_are_of_one_rendering() -> None:
    rendered = render("default")
    secret = rendered.one("Secret", "-webhook-tls")
    webhooks = rendered.one("MutatingWebhookConfiguration")["webhooks"]
    bundles = {webhook["clientConfig"]["caBundle"] for webhook in webhooks}
    assert bundles == {secret["data"]["ca.crt"]}


def test_default_json_is_what_the_chart_renders_with_its_default_values() -> None:
    shipped = json.loads((ROOT / "sidecar/injector/default.json").read_text())
    assert shipped == injector_json("default")
    assert default_config().container_name == "emissions-sidecar"


@pytest.mark.parametrize("value_set", VALUE_SETS)
def test_the_sidecar_asks_for_nothing_that_could_hold_up_or_endanger_a_pod(value_set: str) -> None:
    content = injector_json(value_set)
    container = content["container"]
    assert not {"ports", "startupProbe", "readinessProbe", "command"} & set(container)
    assert container["resources"]["requests"] == container["resources"]["limits"]
    assert set(container["resources"]["limits"]) == {"cpu", "memory"}
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert container["securityContext"]["runAsNonRoot"] is True
    assert container["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert {kind for volume in content["volumes"] for kind in volume} <= {
        "name",
        "emptyDir",
        "projected",
        "downwardAPI",
    }


WITHOUT_NODE_METER = [one for one in VALUE_SETS if one != "node-meter"]


@pytest.mark.parametrize("value_set", WITHOUT_NODE_METER)
def test_nothing_of_ours_needs_a_privilege(value_set: str) -> None:
    rendered = render(value_set)
    for word in ("hostPath", "privileged", ":latest", "hostNetwork: true", "hostPort"):
        assert word not in rendered.text
    for document in rendered.documents:
        for template in pod_templates(document):
            spec = template["spec"]
            assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
            for container in spec["containers"]:
                security = container["securityContext"]
                assert security["runAsNonRoot"] is True
                assert security["allowPrivilegeEscalation"] is False
                assert security["readOnlyRootFilesystem"] is True
                assert security["capabilities"] == {"drop": ["ALL"]}
                assert {"requests", "limits"} <= set(container["resources"])


@pytest.mark.parametrize("value_set", VALUE_SETS)
def test_only_who_asks_the_kubernetes_api_has_a_token_for_it(value_set: str) -> None:
    for document in render(value_set).documents:
        for template in pod_templates(document):
            component = template["metadata"]["labels"]["app.kubernetes.io/component"]
            mounts_token = template["spec"]["automountServiceAccountToken"]
            assert mounts_token is (component in ("collector", "node-meter", "report", "test"))


def test_the_collector_may_review_tokens_and_get_pods_and_nodes_and_no_more() -> None:
    rules = render("blob").one("ClusterRole", "-collector")["rules"]
    allowed = {(rule["resources"][0], *rule["verbs"]) for rule in rules}
    assert allowed == {("tokenreviews", "create"), ("nodes", "get"), ("pods", "get")}


@pytest.mark.parametrize("value_set", ["default", "existing-certs", "cert-manager", "everything"])
def test_a_webhook_never_rejects_a_pod_and_matches_no_system_namespace(value_set: str) -> None:
    configuration = render(value_set).one("MutatingWebhookConfiguration")
    assert configuration["metadata"]["annotations"]["admissions.enforcer/disabled"] == "true"
    assert len(configuration["webhooks"]) == 2
    for webhook in configuration["webhooks"]:
        assert (webhook["failurePolicy"], webhook["sideEffects"]) == ("Ignore", "None")
        assert webhook["timeoutSeconds"] == 3
        assert webhook["reinvocationPolicy"] == "IfNeeded"
        assert webhook["name"].count(".") >= 2
        expressions = webhook["namespaceSelector"]["matchExpressions"]
        excluded = next(one for one in expressions if one["key"] == "kubernetes.io/metadata.name")
        assert {"kube-system", "kube-public", "kube-node-lease"} <= set(excluded["values"])
        assert {"key": "control-plane", "operator": "NotIn", "values": ["true"]} in expressions
        assert {
            "key": "kubernetes.azure.com/managedby",
            "operator": "NotIn",
            "values": ["aks"],
        } in expressions


def test_the_namespace_webhook_is_left_out_where_no_namespace_may_opt_in() -> None:
    configuration = render("default", "--set=injection.namespaceOptIn=none").one(
        "MutatingWebhookConfiguration"
    )
    paths = [one["clientConfig"]["service"]["path"] for one in configuration["webhooks"]]
    assert paths == ["/mutate"]


def condition(value_set: str, webhook: str, name: str) -> str:
    """A matchCondition of one of the two webhooks."""
    configuration = render(value_set).one("MutatingWebhookConfiguration")
    (found,) = (one for one in configuration["webhooks"] if one["name"].startswith(webhook))
    (expression,) = (one["expression"] for one in found["matchConditions"] if one["name"] == name)
    return str(expression)


@pytest.mark.parametrize(
    ("annotations", "asked"),
    [
        (None, (False, True)),
        ({}, (False, True)),
        ({"other": "true"}, (False, True)),
        ({"emissions/track": "true"}, (True, False)),
        ({"emissions/track": "yes"}, (True, False)),
        ({"emissions/track": "false"}, (False, True)),
    ],
)
def test_a_pod_is_asked_about_once_and_in_other_namespaces_only_if_it_wants(
    annotations: dict[str, str] | None, asked: tuple[bool, bool]
) -> None:
    """The second webhook is that of namespaces that opted in: there who opts out is told so."""
    pod = {"metadata": {} if annotations is None else {"annotations": annotations}}
    conditions = (
        condition("existing-certs", "annotated-pods", "annotated"),
        condition("existing-certs", "opted-in-namespaces", "not-annotated"),
    )
    assert tuple(holds(one, pod) for one in conditions) == asked


def test_without_storage_there_is_no_collector_and_records_stay_in_the_pods() -> None:
    rendered = render("default")
    assert [one["metadata"]["name"] for one in rendered.of_kind("Deployment")] == [
        "es-emissions-sidecar-webhook"
    ]
    assert rendered.one("CronJob")["spec"]["suspend"] is True
    env = {one["name"]: one.get("value") for one in injector_json("default")["container"]["env"]}
    assert env["EMISSIONS_TRANSPORT"] == "none"
    assert "EMISSIONS_COLLECTOR_URL" not in env


def test_with_storage_sidecars_send_to_the_collector_of_this_release() -> None:
    rendered = render("blob")
    content = injector_json("blob")
    env = {one["name"]: one.get("value") for one in content["container"]["env"]}
    service = rendered.one("Service", "-collector")
    assert env["EMISSIONS_COLLECTOR_URL"] == f"http://{service['metadata']['name']}.emissions.svc"
    (token,) = (one for one in content["volumes"] if one["name"] == "emissions-token")
    (source,) = token["projected"]["sources"]
    assert source["serviceAccountToken"]["audience"] == "emissions-collector"
    assert rendered.one("CronJob")["spec"]["suspend"] is False


def test_workload_identity_is_annotated_and_labelled_and_the_report_may_have_its_own() -> None:
    rendered = render("blob")
    key = "azure.workload.identity/client-id"
    collector = rendered.one("ServiceAccount", "-collector")["metadata"]["annotations"][key]
    report = rendered.one("ServiceAccount", "-report")["metadata"]["annotations"][key]
    assert (collector[:8], report[:8]) == ("11111111", "99999999")
    (template,) = pod_templates(rendered.one("Deployment", "-collector"))
    assert template["metadata"]["labels"]["azure.workload.identity/use"] == "true"


def test_direct_blob_gives_the_sidecar_more_memory_and_no_token_of_the_collector() -> None:
    content = injector_json("direct-blob")
    assert content["container"]["resources"]["limits"]["memory"] == "128Mi"
    assert [one["name"] for one in content["volumes"]] == ["emissions", "emissions-podinfo"]


SELECTING = ("app.kubernetes.io/name", "app.kubernetes.io/instance", "app.kubernetes.io/component")


@pytest.mark.parametrize("value_set", VALUE_SETS)
def test_every_pod_of_ours_runs_on_linux_nodes(value_set: str) -> None:
    for document in render(value_set).documents:
        for template in pod_templates(document):
            assert template["spec"]["nodeSelector"]["kubernetes.io/os"] == "linux"


def test_the_test_pod_runs_where_the_webhook_may_run() -> None:
    test = render("everything").one("Pod", "-test")["spec"]
    (webhook,) = pod_templates(render("everything").one("Deployment", "-webhook"))
    assert test["tolerations"] == webhook["spec"]["tolerations"]
    assert test["affinity"] == webhook["spec"]["affinity"]


def test_a_service_that_is_not_ready_does_not_hold_up_the_drain_of_a_node() -> None:
    for budget in render("blob").of_kind("PodDisruptionBudget"):
        assert budget["spec"]["unhealthyPodEvictionPolicy"] == "AlwaysAllow"


@pytest.mark.parametrize("mode", ["webhook", "policy", "none"])
def test_what_inject_needs_is_in_the_cluster_in_each_mode(mode: str) -> None:
    rendered = render("blob", f"--set=injection.mode={mode}")
    content = json.loads(rendered.one("ConfigMap", "-injector")["data"]["injector.json"])
    assert content["container"]["image"] == "registry.example.com/team/emissions-sidecar:0.1.0"


def test_labels_of_ones_own_never_replace_those_that_select() -> None:
    options = [
        f"--set-string=collector.podLabels.{key.replace('.', chr(92) + '.')}=x" for key in SELECTING
    ]
    deployment = render("blob", *options).one("Deployment", "-collector")
    (template,) = pod_templates(deployment)
    assert (
        deployment["spec"]["selector"]["matchLabels"].items()
        <= template["metadata"]["labels"].items()
    )


def test_numbers_as_names_stay_text() -> None:
    rendered = render(
        "blob", "--set-string=nameOverride=123", "--set-string=injection.excludedNamespaces={2024}"
    )
    for document in rendered.documents:
        assert document["metadata"]["labels"]["app.kubernetes.io/name"] == "123"
    webhook, *_ = rendered.one("MutatingWebhookConfiguration")["webhooks"]
    assert "2024" in webhook["namespaceSelector"]["matchExpressions"][0]["values"]


def test_kubelet_and_metrics_are_granted_to_the_pods_of_the_namespaces_named() -> None:
    rendered = render("attribution")
    kubelet = rendered.one("ClusterRole", "-kubelet-stats")["rules"]
    assert kubelet == [{"apiGroups": [""], "resources": ["nodes/stats"], "verbs": ["get"]}]
    bound = rendered.one("ClusterRoleBinding", "-kubelet-stats")["subjects"]
    assert {one["name"] for one in bound} == {
        "system:serviceaccounts:vision",
        "system:serviceaccounts:language",
    }
    metrics = rendered.of_kind("RoleBinding")
    in_namespaces = {
        (one["metadata"]["namespace"], one["subjects"][0]["name"])
        for one in metrics
        if one["metadata"]["name"].endswith("-pod-metrics")
    }
    assert in_namespaces == {
        ("vision", "system:serviceaccounts:vision"),
        ("language", "system:serviceaccounts:language"),
    }


def test_without_a_namespace_named_all_service_accounts_are_granted_it() -> None:
    rendered = render("attribution", "--set=attribution.namespaces=null")
    for suffix in ("-kubelet-stats", "-pod-metrics"):
        (subject,) = rendered.one("ClusterRoleBinding", suffix)["subjects"]
        assert subject["name"] == "system:serviceaccounts"


def test_the_node_meter_mounts_two_directories_of_the_node_and_has_no_capability() -> None:
    (template,) = pod_templates(render("node-meter").one("DaemonSet"))
    (container,) = template["spec"]["containers"]
    paths = {one["hostPath"]["path"] for one in template["spec"]["volumes"] if "hostPath" in one}
    assert paths == {"/sys/fs/cgroup", "/var/lib/kubelet/pod-resources"}
    mounts = {one["name"]: one.get("readOnly") for one in container["volumeMounts"]}
    assert mounts["cgroup"] is mounts["pod-resources"] is True
    security = container["securityContext"]
    assert security["capabilities"] == {"drop": ["ALL"]}
    assert (security["allowPrivilegeEscalation"], security["runAsUser"]) == (False, 0)
    assert not {"hostNetwork", "hostPID", "hostIPC"} & template["spec"].keys()


def test_a_node_meter_without_gpus_does_not_run_as_root() -> None:
    (template,) = pod_templates(render("node-meter", "--set=nodeMeter.gpus=false").one("DaemonSet"))
    (container,) = template["spec"]["containers"]
    assert container["securityContext"]["runAsUser"] == 65532
    assert "--gpu-source=none" in container["args"]
    assert "NVIDIA_VISIBLE_DEVICES" not in {one["name"] for one in container["env"]}
    assert "pod-resources" not in {one["name"] for one in template["spec"]["volumes"]}


def test_the_node_meter_may_review_tokens_and_no_more() -> None:
    rules = render("node-meter").one("ClusterRole", "-node-meter")["rules"]
    assert [(rule["resources"], rule["verbs"]) for rule in rules] == [
        (["tokenreviews"], ["create"])
    ]


def test_the_collector_knows_the_service_account_of_the_node_meter() -> None:
    rendered = render("node-meter", "--set=collector.backend=directory")
    (collector,) = pod_templates(rendered.one("Deployment", "-collector"))
    (meter,) = pod_templates(rendered.one("DaemonSet"))
    account = f"--node-meter-account=emissions/{meter['spec']['serviceAccountName']}"
    assert account in collector["spec"]["containers"][0]["args"]


def test_sidecars_ask_the_node_meter_of_their_own_node_with_a_token() -> None:
    rendered = render("node-meter")
    service = rendered.one("Service", "-node-meter")
    assert service["spec"]["internalTrafficPolicy"] == "Local"
    content = injector_json("node-meter", "--set=sidecar.transport=none")
    env = {one["name"]: one.get("value") for one in content["container"]["env"]}
    assert env["EMISSIONS_NODE_METER_URL"] == f"http://{service['metadata']['name']}.emissions.svc"
    assert "emissions-token" in [one["name"] for one in content["volumes"]]


def test_by_default_sidecars_hold_no_token_of_the_kubernetes_api() -> None:
    names = [one["name"] for one in injector_json("blob")["volumes"]]
    assert names == ["emissions", "emissions-token", "emissions-podinfo"]
    assert "emissions-api" in [one["name"] for one in injector_json("attribution")["volumes"]]


def test_the_collector_may_not_get_pods_where_nothing_is_handed_over() -> None:
    rendered = render("blob", "--set=collector.handoverKey.mode=none")
    rules = rendered.one("ClusterRole", "-collector")["rules"]
    assert {rule["resources"][0] for rule in rules} == {"tokenreviews", "nodes"}


@pytest.mark.parametrize(
    ("url", "port"), [("http://azurite.dev:10000/account", 10000), ("http://azurite.dev", 80)]
)
def test_the_network_policy_lets_the_port_of_the_account_through(url: str, port: int) -> None:
    policy = render("blob", f"--set=azure.storage.accountUrl={url}").one(
        "NetworkPolicy", "-collector"
    )
    ports = [one["port"] for one in policy["spec"]["egress"][0]["ports"]]
    assert port in ports
    assert {53, 443, 6443} <= {*ports}


@pytest.mark.parametrize("component", ["collector", "node-meter"])
def test_pods_on_the_nodes_network_reach_whom_their_sidecars_ask(component: str) -> None:
    """Their traffic comes from the node: no selector of pods or namespaces matches it."""
    policy = render("node-meter").one("NetworkPolicy", f"-{component}")
    assert policy["spec"]["ingress"] == [{"ports": [{"port": "http"}]}]


@pytest.mark.parametrize("component", ["collector", "node-meter"])
def test_who_reaches_them_can_be_narrowed(component: str) -> None:
    option = '--set-json=networkPolicy.collectorFrom=[{"namespaceSelector":{}}]'
    policy = render("node-meter", option).one("NetworkPolicy", f"-{component}")
    assert policy["spec"]["ingress"] == [
        {"ports": [{"port": "http"}], "from": [{"namespaceSelector": {}}]}
    ]


def test_a_report_that_may_read_nothing_is_suspended() -> None:
    account = "--set=azure.storage.accountUrl=https://a.blob.core.windows.net"
    assert render("default", account).one("CronJob")["spec"]["suspend"] is True


def test_a_report_of_many_records_may_take_longer() -> None:
    def deadline(*options: str) -> int:
        job = render("blob", *options).one("CronJob")["spec"]["jobTemplate"]["spec"]
        return int(job["activeDeadlineSeconds"])

    assert (deadline(), deadline("--set=report.activeDeadlineSeconds=14400")) == (3600, 14400)


def report_containers(*options: str, value_set: str = "blob") -> list[dict[str, Any]]:
    job = render(value_set, *options).one("CronJob")
    (template,) = pod_templates(job)
    spec = template["spec"]
    return [*spec.get("initContainers", []), *spec["containers"]]


def test_the_report_looks_for_pods_without_records_with_the_least_rights() -> None:
    rendered = render("blob")
    (container, *_) = report_containers()
    assert "--tracked-pods" in container["args"]
    assert "--namespace-opt-in=all" in container["args"]
    rules = rendered.one("ClusterRole", "-report")["rules"]
    assert [(rule["resources"], rule["verbs"]) for rule in rules] == [
        (["pods"], ["list"]),
        (["namespaces"], ["list"]),
    ]


def test_where_namespaces_opt_nothing_in_they_are_not_listed() -> None:
    rendered = render("blob", "--set=injection.namespaceOptIn=none")
    rules = rendered.one("ClusterRole", "-report")["rules"]
    assert [rule["resources"] for rule in rules] == [["pods"]]


def test_a_report_that_may_not_look_for_pods_has_no_rights_and_no_token() -> None:
    rendered = render("blob", "--set=report.trackedPods=false")
    names = [one["metadata"]["name"] for one in rendered.of_kind("ClusterRole")]
    assert not [name for name in names if name.endswith("-report")]
    (template,) = pod_templates(rendered.one("CronJob"))
    assert template["spec"]["automountServiceAccountToken"] is False
    assert "--tracked-pods" not in template["spec"]["containers"][0]["args"]


def test_budgets_and_the_export_of_azure_are_handed_over() -> None:
    budgets = '--set-json=report.budgets={"llm=a": "250kg", "b c": "20 kWh"}'
    (container, *_) = report_containers(budgets, "--set=report.azureExport=exports/carbon.csv")
    args = container["args"]
    assert [one for one in args if one.startswith("--budget")] == [
        "--budget=b c=20 kWh",
        "--budget=llm=a=250kg",
    ]
    assert "--azure-export=az://records/exports/carbon.csv" in args


def test_the_export_of_azure_lies_beside_the_records_of_a_directory() -> None:
    (container, *_) = report_containers(
        "--set=report.azureExport=carbon.csv", value_set="directory"
    )
    assert "--azure-export=/records/carbon.csv" in container["args"]


@pytest.mark.parametrize("value_set", ["blob", "directory"])
def test_the_report_comes_before_compaction_and_only_that_may_write(value_set: str) -> None:
    first, second = report_containers(value_set=value_set)
    assert (first["args"][:1], second["args"][:2]) == (["report"], ["report", "compact"])
    for container, is_read_only in ((first, True), (second, False)):
        for mount in container["volumeMounts"]:
            if mount["mountPath"] == "/records":
                assert mount.get("readOnly", False) is is_read_only


@pytest.mark.parametrize("value_set", ["blob", "directory"])
def test_records_are_compacted_unless_told_otherwise(value_set: str) -> None:
    assert len(report_containers(value_set=value_set)) == 2
    assert len(report_containers("--set=report.compact=false", value_set=value_set)) == 1


def test_an_identity_that_writes_no_report_compacts_nothing() -> None:
    assert len(report_containers("--set=report.writeTo=")) == 1


def test_cert_manager_renews_the_certificate_and_keeps_the_authority() -> None:
    rendered = render("cert-manager", "--set=webhook.certs.issuerRef=null")
    leaf = rendered.one("Certificate", "-webhook")["spec"]
    authority = rendered.one("Certificate", "-webhook-ca")["spec"]
    issuer = rendered.one("Issuer", "-webhook")["spec"]
    assert authority["isCA"] is True
    assert issuer == {"ca": {"secretName": authority["secretName"]}}
    assert leaf["secretName"] != authority["secretName"]
    root = rendered.one("Issuer", "-webhook-root")
    assert authority["issuerRef"]["name"] == root["metadata"]["name"]


def test_a_digest_wins_over_a_tag_and_the_sidecars_registry_over_the_common_one() -> None:
    (template,) = pod_templates(render("everything").one("Deployment", "-webhook"))
    assert template["spec"]["containers"][0]["image"] == (
        "registry.example.com/emissions-sidecar-services@sha256:" + "0123456789abcdef" * 4
    )
    assert injector_json("everything")["container"]["image"] == (
        "other.example.com/emissions-sidecar:0.1.0"
    )


@pytest.mark.parametrize("value_set", ["existing-certs", "directory", "direct-blob", "node-meter"])
def test_every_flag_that_is_passed_is_one_of_the_command(
    value_set: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for document in render(value_set).documents:
        for template in pod_templates(document):
            (container,) = template["spec"]["containers"]
            if "command" in container:
                continue
            command, *words = container["args"]
            with pytest.raises(SystemExit):
                importlib.import_module(f"sidecar.cli.{command.replace('-', '_')}").main(["--help"])
            known = capsys.readouterr().out
            for flag in (word.partition("=")[0] for word in words if word.startswith("--")):
                assert re.search(rf"{re.escape(flag)}\b", known), f"{command} has no {flag}"


@pytest.mark.parametrize("value_set", VALUE_SETS)
def test_the_sidecar_understands_its_environment(value_set: str) -> None:
    env = injector_json(value_set)["container"]["env"]
    settings = load_settings({}, {one["name"]: one.get("value", "") for one in env})
    assert settings.listen == ("0.0.0.0", 9877)
    assert settings.volume_limit is not None


def test_selectors_hold_nothing_that_a_new_version_changes() -> None:
    for deployment in render("blob").of_kind("Deployment"):
        assert set(deployment["spec"]["selector"]["matchLabels"]) == {
            "app.kubernetes.io/name",
            "app.kubernetes.io/instance",
            "app.kubernetes.io/component",
        }


def test_every_document_carries_the_standard_labels() -> None:
    for value_set in VALUE_SETS:
        for document in render(value_set).documents:
            labels = document["metadata"]["labels"]
            assert labels["app.kubernetes.io/managed-by"] == "Helm"
            assert labels["app.kubernetes.io/version"] == "0.1.0"
            assert labels["app.kubernetes.io/instance"] == "es"


def test_policy_mode_has_neither_server_nor_certificate() -> None:
    kinds = {document["kind"] for document in render("policy").documents}
    assert {"MutatingAdmissionPolicy", "MutatingAdmissionPolicyBinding"} <= kinds
    assert not {"MutatingWebhookConfiguration", "Secret"} & kinds


@pytest.mark.parametrize("major", MAJORS)
def test_policy_mode_says_what_an_older_cluster_lacks(major: int) -> None:
    error = render("policy", major=major, kubernetes="1.35.0", fails=True).error
    assert "MutatingAdmissionPolicy (Kubernetes 1.36 or newer)" in error
    assert "v1.35.0: set injection.mode=webhook" in error


def test_policy_mode_is_rendered_for_an_older_cluster_that_has_the_api() -> None:
    api = "--api-versions=admissionregistration.k8s.io/v1/MutatingAdmissionPolicy"
    assert render("policy", api, kubernetes="1.35.0").of_kind("MutatingAdmissionPolicy")


@pytest.mark.parametrize("major", MAJORS)
def test_kubernetes_before_native_sidecars_is_refused(major: int) -> None:
    error = render("default", major=major, kubernetes="1.28.9", fails=True).error
    assert ">=1.29.0-0" in error


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("sidecar.transport=collector", "sidecar.transport is collector, and there is none"),
        ("sidecar.transport=blob", "sidecar.transport is blob, and there is no storage"),
        ("sidecar.volume.sizeLimit=32Mi", "must be at most 80 % of sidecar.volume.sizeLimit"),
        ("sidecar.volume.limit=1Gi", "must be at most 80 % of sidecar.volume.sizeLimit"),
        ("sidecar.resources.cpu=0m", "give 10m or more"),
        ("sidecar.resources.memory=64k", "does not start with less than 32Mi"),
        ("image.repository=my.azurecr.io/services", "set image.registry, or sidecar.image"),
        ("injection.mode=policy", "set image.registry, or sidecar.image.registry"),
        (
            "webhook.certs.mode=existing",
            "set webhook.certs.existingSecret|set webhook.certs.caBundle",
        ),
        (
            "sidecar.extraEnv[0].name=EMISSIONS_LISTEN,sidecar.extraEnv[0].value=x",
            "EMISSIONS_LISTEN is the chart's own to set",
        ),
        (
            "sidecar.extraEnv[0].name=EMISSIONS_VOLUME_LIMIT,sidecar.extraEnv[0].value=1Gi",
            "EMISSIONS_VOLUME_LIMIT is the chart's own to set",
        ),
        (
            "sidecar.extraEnv[0].name=EMISSIONS_LOG_FORMAT,sidecar.extraEnv[0].value=text",
            "EMISSIONS_LOG_FORMAT is the chart's own to set",
        ),
        (
            "sidecar.extraEnv[0].name=POD_UID,sidecar.extraEnv[0].value=x",
            "POD_UID is the chart's own to set",
        ),
        (
            "sidecar.extraEnv[0].name=EMISSIONS_REQUESTS_GPU,sidecar.extraEnv[0].value=two",
            "EMISSIONS_REQUESTS_GPU is the chart's own to set",
        ),
        (
            ",".join(f"sidecar.extraEnv[{i}].name=A,sidecar.extraEnv[{i}].value=x" for i in (0, 1)),
            "A is given twice",
        ),
    ],
)
def test_values_that_contradict_one_another_are_told(option: str, message: str) -> None:
    error = render("default", f"--set={option}", fails=True).error
    assert any(part in error for part in message.split("|")), error


@pytest.mark.parametrize("value_set", VALUE_SETS)
def test_no_variable_of_the_sidecar_can_be_given_again(value_set: str) -> None:
    """The webhook would refuse its configuration, and end again and again."""
    own = yaml.safe_load(values_file(value_set).read_text()).get("sidecar", {}).get("extraEnv", [])
    for name in {one["name"] for one in injector_json(value_set)["container"]["env"]}:
        if name not in {one["name"] for one in own}:
            again = json.dumps([{"name": name, "value": "x"}])
            error = render(value_set, f"--set-json=sidecar.extraEnv={again}", fails=True).error
            assert f"{name} is the chart's own to set" in error


def test_the_notes_say_how_to_opt_in_how_to_check_and_what_is_missing() -> None:
    run = helm(4, "install", "es", str(CHART), "--dry-run=client")
    assert run.returncode == 0, run.stderr
    notes = run.stdout.partition("NOTES:")[2]
    assert 'emissions/track: "true"' in notes
    assert "kubectl label namespace NAMESPACE emissions/track=true" in notes
    assert "helm test es" in notes
    assert "WARNING: records stay on the volumes of the pods" in notes
    assert "WARNING: image.registry is empty" in notes


def test_dashboard_and_rules_ask_for_metrics_that_there_are() -> None:
    from sidecar import outbox
    from sidecar.collector import metrics as of_collector
    from sidecar.exporters import energy_metrics
    from sidecar.exporters.prometheus import BUILD
    from sidecar.injector import metrics as of_webhook
    from sidecar.node_meter import metrics as of_node_meter

    sources = (energy_metrics, outbox, of_node_meter, of_collector, of_webhook)
    known = {BUILD.name, *(one.name for source in sources for one in source.METRICS)}
    rendered = render("cert-manager", "--set=metrics.rules.budgetKg.vision=1")
    groups = rendered.one("PrometheusRule")["spec"]["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    recorded = {rule["record"] for rule in rules if "record" in rule}
    dashboard = json.loads(
        rendered.one("ConfigMap", "-dashboard")["data"]["emissions-sidecar.json"]
    )
    shown = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", ())]
    text = "\n".join((*shown, *(rule["expr"] for rule in rules)))
    asked = {re.sub(r"_bucket$", "", one) for one in re.findall(r"(?<!:)\bemissions_\w+", text)}
    assert len(asked) > 30
    assert asked <= known
    assert {*re.findall(r"project:\w+:\w+", text)} <= recorded
