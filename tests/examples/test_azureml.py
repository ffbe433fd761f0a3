"""The jobs of examples/azureml: run as AzureML runs them, as far as that goes without AzureML."""

import json
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from sidecar.injector.inject import inject
from sidecar.injector.patch import patched
from tests.e2e.commands import ROOT, Running, environment, finished, total, windows
from tests.injector.goldens import CONFIG

AZUREML = ROOT / "examples" / "azureml"
PODS = ROOT / "tests" / "injector" / "pods"

MANAGED = {
    "AZUREML_RUN_ID": "brave_tooth_1d2f3g4h5j",
    "AZUREML_ROOT_RUN_ID": "brave_tooth_1d2f3g4h5j",
    "AZUREML_ARM_PROJECT_NAME": "digits",
    "AZUREML_ARM_WORKSPACE_NAME": "research-ws",
    "AZUREML_ARM_SUBSCRIPTION": "00000000-0000-4000-8000-000000000001",
    "AZUREML_ARM_RESOURCEGROUP": "research",
    "AZUREML_SERVICE_ENDPOINT": "https://westeurope.api.azureml.ms",
    "AZUREML_CR_COMPUTE_CONTEXT": json.dumps(
        {"cluster_name": "gpu-cluster", "vm_size": "Standard_NC6s_v3", "vm_priority": "dedicated"}
    ),
    "AZUREML_RUN_TOKEN": "a secret that nobody may read",
}
"""What AzureML sets in a job on managed compute."""


def loaded(name: str) -> Any:
    return YAML(typ="safe", pure=True).load((AZUREML / name).read_text(encoding="utf-8"))


def test_a_managed_job_is_metered_by_its_wrapped_command(tmp_path: Path) -> None:
    shutil.copy(ROOT / "examples" / "cpu_workload.py", tmp_path)
    command = loaded("managed-job.yml")["command"]
    script = command.replace("emissions-sidecar", f"{shlex.quote(sys.executable)} -m sidecar")
    script = script.replace("python cpu", f"{shlex.quote(sys.executable)} cpu").replace(
        " 60", " 0.5"
    )
    ended = finished(["sh", "-c", script], env=environment(**MANAGED), cwd=tmp_path)
    assert ended.code == 0, ended.stderr
    rows = windows(tmp_path / "outputs" / "emissions")  # what is under outputs/ AzureML keeps
    assert {row["run_id"] for row in rows} == {"brave_tooth_1d2f3g4h5j"}
    assert {row["experiment"] for row in rows} == {"digits"}
    assert {row["project"] for row in rows} == {"digits"}
    assert {(row["region"], row["vm_size"]) for row in rows} == {("westeurope", "Standard_NC6s_v3")}
    assert {row["carbon_intensity_level"] for row in rows} == {"zone"}
    assert {row["pod_method"] for row in rows} == {"whole-node"}
    assert total(rows, "energy_kwh") > 0
    kept = "".join(path.read_text() for path in (tmp_path / "outputs").rglob("*") if path.is_file())
    assert MANAGED["AZUREML_RUN_TOKEN"] not in kept + ended.stderr


def test_a_pod_of_a_kubernetes_compute_is_metered_where_its_namespace_is_opted_in() -> None:
    labels = loaded("namespace.yaml")["metadata"]["labels"]
    pod = json.loads((PODS / "azureml.json").read_text(encoding="utf-8"))["pod"]
    assert inject(pod, {}, CONFIG).status is None
    assert inject(pod, labels, CONFIG).status == "injected"


def test_the_sidecar_of_such_a_pod_knows_run_experiment_and_workspace(tmp_path: Path) -> None:
    pod = json.loads((PODS / "azureml.json").read_text(encoding="utf-8"))["pod"]
    decision = inject(pod, loaded("namespace.yaml")["metadata"]["labels"], CONFIG)
    container = patched(pod, decision.operations)["spec"]["initContainers"][0]
    told = {one["name"]: one["value"] for one in container["env"] if "value" in one}
    podinfo = tmp_path / "podinfo"
    podinfo.mkdir()
    (podinfo / "labels").write_text(
        "".join(f"{key}={json.dumps(text)}\n" for key, text in pod["metadata"]["labels"].items())
    )
    (podinfo / "annotations").write_text("")
    env = environment(
        **{
            name: text
            for name, text in told.items()
            if name.startswith(("AZUREML_", "EMISSIONS_REQ"))
        },
        POD_NAME=pod["metadata"]["name"],
        POD_NAMESPACE=pod["metadata"]["namespace"],
        POD_UID="11111111-0000-4000-8000-000000000001",
    )
    arguments = ("run", "--for", "1s", "--podinfo", podinfo, "--volume", tmp_path / "volume")
    with Running(*arguments, log=tmp_path / "log", env=env) as running:
        assert running.end(None).code == 0
    (row,) = windows(tmp_path / "volume")[-1:]
    assert row["run_id"] == "brave_tooth_1d2f3g4h5j"
    assert row["experiment"] == "digits"
    assert row["project"] == "research-ws"
    assert row["workload"] == "azureml-workloads-8c1f4b0e"


@pytest.mark.parametrize("name", ["managed-job.yml", "kubernetes-job.yml"])
def test_a_job_is_a_command_job_of_azureml(name: str) -> None:
    job = loaded(name)
    assert job["type"] == "command"
    assert {"command", "compute", "environment", "code", "experiment_name"} <= job.keys()
