"""The pages' commands of Helm and kubectl, and their values, are ones that the chart takes."""

import base64
import itertools
import json
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from cryptography import x509

import sidecar
from tests.helm.tools import CHART, KUBECTL, MAJORS, ROOT, helm

PAGES = sorted((*(ROOT / "docs").rglob("*.md"), ROOT / "README.md", CHART / "README.md"))
FENCE = re.compile(r"^```(?P<kind>\w*)\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL)
SPAN = re.compile(r"`([^`\n]+)`")

VARIABLES = {
    "$REGISTRY": "myregistry.azurecr.io",
    "$CLIENT_ID": "11111111-2222-3333-4444-555555555555",
    "$ACCOUNT": "myemissions",
    "$CLUSTER": "my-cluster",
    "=REGISTRY": "=myregistry.azurecr.io",
    "=CLIENT_ID": "=11111111-2222-3333-4444-555555555555",
    "//NAME.blob": "//myemissions.blob",
}
RELEASE, NAMESPACE = "emissions-sidecar", "emissions"
GIVEN = (
    "--set=image.registry=myregistry.azurecr.io",
    "--set=azure.clientId=11111111-2222-3333-4444-555555555555",
    "--set=azure.storage.accountUrl=https://myemissions.blob.core.windows.net",
)
"""What an upgrade takes over from the installation before it."""


def named(page: Path) -> str:
    return str(page.relative_to(ROOT))


def blocks(page: Path, kind: str) -> Iterator[str]:
    for fence in FENCE.finditer(page.read_text(encoding="utf-8")):
        if fence["kind"] == kind:
            yield fence["body"]


def command_lines(page: Path) -> Iterator[str]:
    for body in blocks(page, "sh"):
        yield from body.replace("\\\n", " ").splitlines()


def rendered(*options: str, major: int = 4) -> list[dict[str, Any]]:
    run = helm(
        major,
        "template",
        RELEASE,
        str(CHART),
        f"--namespace={NAMESPACE}",
        "--kube-version=1.36.0",
        *options,
    )
    assert run.returncode == 0, run.stderr
    return [document for document in yaml.safe_load_all(run.stdout) if document]


# -- Helm ----------------------------------------------------------------------------------------

HELM_COMMANDS = [
    (named(page), line)
    for page in PAGES
    for line in command_lines(page)
    if re.match(r"helm (install|upgrade) ", line)
]


def test_the_pages_install_and_upgrade() -> None:
    assert len(HELM_COMMANDS) > 5


@pytest.mark.needs("helm")
@pytest.mark.parametrize(("page", "line"), HELM_COMMANDS)
def test_the_chart_takes_what_a_page_sets(page: str, line: str) -> None:
    for variable, value in VARIABLES.items():
        line = line.replace(variable, value)
    _, verb, release, chart, *words = shlex.split(line, comments=True)
    assert (release, (ROOT / chart).resolve()) == (RELEASE, CHART.resolve())
    settings = [word for before, word in itertools.pairwise(words) if before == "--set"]
    assert rendered(*(GIVEN if verb == "upgrade" else ()), *(f"--set={one}" for one in settings))
    assert f"-n {NAMESPACE}" in line or f"--namespace {NAMESPACE}" in line


@pytest.mark.needs("helm")
@pytest.mark.parametrize("major", MAJORS)
@pytest.mark.parametrize(("page", "line"), HELM_COMMANDS)
def test_both_helms_know_every_flag_that_a_page_shows(page: str, line: str, major: int) -> None:
    verb = line.split()[1]
    known = helm(major, verb, "--help").stdout
    for flag in re.findall(r" (--?[a-z][a-z-]*)", line):
        assert re.search(rf"(^|\s){re.escape(flag)}[,\s]", known), flag


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_no_page_upgrades_with_the_old_charts_values(page: Path) -> None:
    """`--reuse-values` leaves away the defaults of the new chart: it does not even render."""
    assert " --reuse-values" not in page.read_text(encoding="utf-8")


# -- values --------------------------------------------------------------------------------------


def values_shown(page: Path) -> Iterator[dict[str, Any]]:
    """Values of a file `values.yaml`, or within objects of Flux and Argo CD."""
    for body in blocks(page, "yaml"):
        if body.startswith("# values.yaml"):
            yield yaml.safe_load(body)
        elif "kind: HelmRelease" in body or "kind: Application" in body:
            for document in yaml.safe_load_all(body):
                spec = document["spec"]
                shown = spec.get("values") or spec.get("source", {}).get("helm", {}).get(
                    "valuesObject"
                )
                if shown:
                    yield shown


SHOWN = [(named(page), values) for page in PAGES for values in values_shown(page)]


def test_the_pages_show_values_for_flux_argo_cd_and_files() -> None:
    assert len(SHOWN) >= 4


@pytest.mark.needs("helm")
@pytest.mark.parametrize(("page", "values"), SHOWN)
def test_values_that_a_page_shows_render(page: str, values: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "values.yaml"
    file.write_text(yaml.safe_dump(values))
    assert rendered(f"--values={file}")


@pytest.mark.needs("helm")
def test_what_argo_cd_renders_is_the_same_each_time(tmp_path: Path) -> None:
    (values,) = (
        shown for shown in values_shown(ROOT / "docs/how-to/install-with-gitops.md")
        if shown.get("webhook", {}).get("certs", {}).get("mode") == "cert-manager"
    )  # fmt: skip
    file = tmp_path / "values.yaml"
    file.write_text(yaml.safe_dump(values))
    first, second = (rendered(f"--values={file}") for _ in range(2))
    assert first == second


def test_values_that_a_page_names_are_values_of_the_chart() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    named_values = {
        (named(page), path)
        for page in PAGES
        for span in SPAN.findall(FENCE.sub("", page.read_text(encoding="utf-8")))
        for path in re.findall(r"(?<![\w./-])[a-z][A-Za-z]+(?:\.[a-zA-Z]+)+(?![\w./(-])", span)
        if path.partition(".")[0] in values and not is_python(path)
    }
    assert len(named_values) > 30
    assert {(page, path) for page, path in named_values if not is_value(values, path)} == set()


def is_python(path: str) -> bool:
    """Whether it is a module of ours, or something in one."""
    module, _, name = path.rpartition(".")
    file = ROOT / path.replace(".", "/")
    if file.is_dir() or file.with_suffix(".py").is_file():
        return True
    return module.startswith("sidecar") and hasattr(sidecar, name)


def is_value(values: Any, path: str) -> bool:
    for name in path.split("."):
        if not isinstance(values, dict):
            return False
        if name not in values:
            return values == {}  # its keys are the user's
        values = values[name]
    return True


# -- names ---------------------------------------------------------------------------------------


@pytest.mark.needs("helm")
def test_what_a_page_names_is_there_under_this_name() -> None:
    directory = "--set=collector.backend=directory"
    cert_manager = "--set=webhook.certs.mode=cert-manager"
    meter = "--set=nodeMeter.enabled=true"
    documents = [*rendered(*GIVEN, meter), *rendered(*GIVEN, directory), *rendered(cert_manager)]
    names = {document["metadata"]["name"] for document in documents}
    names |= {one["spec"]["secretName"] for one in documents if one["kind"] == "Certificate"}
    names |= {"emissions-sidecar-services"}  # an image
    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    found = set(re.findall(r"(?<![\w-])emissions-sidecar-[a-z]+(?:-[a-z]+)*(?![\w*-])", text))
    assert {"emissions-sidecar-report", "emissions-sidecar-records"} <= found
    assert {one for one in found if one not in names} - OF_PROMETHEUS == set()


OF_PROMETHEUS = {"emissions-sidecar-sidecars"}
"""Names of jobs that scrape."""


@pytest.mark.needs("helm")
def test_federated_credentials_are_for_the_service_accounts_of_the_chart() -> None:
    page = (ROOT / "docs/how-to/install-on-aks.md").read_text(encoding="utf-8")
    (subject,) = re.findall(r"--subject (\S+)", page)
    accounts = {
        f"system:serviceaccount:{one['metadata']['namespace']}:{one['metadata']['name']}"
        for one in rendered(*GIVEN)
        if one["kind"] == "ServiceAccount"
        and "azure.workload.identity/client-id" in one["metadata"].get("annotations", {})
    }
    assert {subject.replace("$name", name) for name in ("collector", "report")} == accounts


# -- Kubernetes ----------------------------------------------------------------------------------

OBJECTS = [
    (named(page), document)
    for page in PAGES
    if page.parent.name == "how-to"
    for body in blocks(page, "yaml")
    for document in yaml.safe_load_all(body)
    if isinstance(document, dict) and document.get("apiVersion") in ("v1", "networking.k8s.io/v1")
]


@pytest.mark.parametrize(("page", "document"), OBJECTS)
def test_kubernetes_knows_the_objects_that_a_page_shows(page: str, document: Any) -> None:
    kubernetes_validate.validate(document, "1.34", strict=True)


@pytest.mark.needs("helm")
def test_the_policy_for_namespaces_that_deny_egress_lets_through_what_sidecars_ask() -> None:
    (policy,) = (document for _, document in OBJECTS if document["kind"] == "NetworkPolicy")
    services = [
        one for one in rendered(*GIVEN, "--set=nodeMeter.enabled=true") if one["kind"] == "Service"
    ]
    assert len(services) == 3
    workloads = rendered(*GIVEN, "--set=nodeMeter.enabled=true")
    ports = {
        port["containerPort"]
        for one in workloads
        if one["kind"] in ("Deployment", "DaemonSet")
        and not one["metadata"]["name"].endswith("webhook")
        for container in one["spec"]["template"]["spec"]["containers"]
        for port in container["ports"]
    }
    assert {one["port"] for one in policy["spec"]["egress"][0]["ports"]} == ports


@pytest.mark.needs("helm")
def test_the_manifest_is_annotated_where_it_counts(tmp_path: Path) -> None:
    """`kubectl patch --local`, as the page shows it, on a Job."""
    page = ROOT / "docs/how-to/install-on-aks.md"
    (line,) = (line for line in command_lines(page) if "patch --local" in line)
    manifest = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": "train"},
        "spec": {"template": {"spec": {"containers": [{"name": "train", "image": "train:1"}]}}},
    }
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(manifest))
    words = shlex.split(line.partition(" | ")[0])
    result = yaml.safe_load(kubectl(*words[1:], cwd=tmp_path))
    assert result["spec"]["template"]["metadata"]["annotations"] == {"emissions/track": "true"}


@pytest.mark.needs("helm", "openssl")
def test_a_certificate_of_ones_own_is_made_as_the_page_says(tmp_path: Path) -> None:
    page = ROOT / "docs/how-to/install-with-gitops.md"
    lines = [line for line in command_lines(page) if line.startswith("openssl")]
    subprocess.run(shlex.split(lines[0]), cwd=tmp_path, check=True, capture_output=True)
    made = x509.load_pem_x509_certificate((tmp_path / "tls.crt").read_bytes())
    names = made.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    bundle = base64.b64encode((tmp_path / "tls.crt").read_bytes()).decode()
    options = ("mode=existing", "existingSecret=emissions-webhook", f"caBundle={bundle}")
    documents = rendered(*(f"--set=webhook.certs.{one}" for one in options))
    (webhooks,) = (
        one["webhooks"] for one in documents if one["kind"] == "MutatingWebhookConfiguration"
    )
    service = webhooks[0]["clientConfig"]["service"]
    assert f"{service['name']}.{service['namespace']}.svc" in names.get_values_for_type(
        x509.DNSName
    )


@pytest.mark.needs("helm")
def test_the_handover_key_is_made_as_the_page_says() -> None:
    page = ROOT / "docs/how-to/install-with-gitops.md"
    (line,) = (line for line in command_lines(page) if "kubectl create secret generic" in line)
    words = shlex.split(line.partition(" | ")[2])
    made = yaml.safe_load(kubectl(*words[1:], "--dry-run=client", "-o=yaml", given=bytes(32)))
    assert base64.b64decode(made["data"]["handover.key"]) == bytes(32)
    assert made["metadata"]["name"] == "emissions-handover"


def kubectl(*words: str, cwd: Path = ROOT, given: bytes = b"") -> bytes:
    environ = {"HOME": "/nonexistent", "PATH": "/nonexistent", "KUBECONFIG": "/nonexistent"}
    run = subprocess.run(
        [str(KUBECTL), *words], cwd=cwd, env=environ, input=given, capture_output=True, timeout=60
    )
    assert run.returncode == 0, run.stderr
    return run.stdout


def test_every_reason_to_skip_a_pod_stands_on_the_page() -> None:
    page = (ROOT / "docs/how-to/inject-the-sidecar.md").read_text(encoding="utf-8")
    expected = (ROOT / "tests/injector/pods").glob("*.expected.json")
    told = {json.loads(one.read_text())["status"] for one in expected} - {None, "injected"}
    assert len(told) > 7
    for status in told:
        shown = re.sub(r"(name) \S+ (is taken)", r"\1 … \2", status)
        assert f"`{shown}`" in page, status
