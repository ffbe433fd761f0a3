import json
from collections.abc import Iterator, Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.identity.azureml import READ_NAMES, read_azureml

JOB = {
    "AZUREML_RUN_ID": "brave_apple_1",
    "AZUREML_ROOT_RUN_ID": "root_1",
    "AZUREML_EXPERIMENT_ID": "0f0e-guid",
    "AZUREML_ARM_PROJECT_NAME": "resnet",
    "AZUREML_ARM_SUBSCRIPTION": "0b1f6471",
    "AZUREML_ARM_RESOURCEGROUP": "training",
    "AZUREML_ARM_WORKSPACE_NAME": "research",
    "AZUREML_SERVICE_ENDPOINT": "https://westeurope.api.azureml.ms",
    "AZUREML_CR_COMPUTE_CONTEXT": json.dumps(
        {"cluster_name": "gpu", "vm_size": "STANDARD_NC6S_V3", "vm_priority": "LowPriority"}
    ),
    "AZUREML_RUN_TOKEN": "secret-token",
    "MLFLOW_TRACKING_TOKEN": "secret-token",
}


class Recording(Mapping[str, str]):
    """An environment that remembers which names were read, and refuses to be listed."""

    def __init__(self, values: Mapping[str, str]) -> None:
        self._values = values
        self.read: set[str] = set()

    def __getitem__(self, name: str) -> str:
        self.read.add(name)
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        raise AssertionError("the environment was listed")

    def __len__(self) -> int:
        raise AssertionError("the environment was counted")


def values(environ: Mapping[str, str]) -> dict[str, str]:
    return {name: found.value for name, found in read_azureml(environ)[0].items()}


def test_a_job_tells_run_experiment_workspace_and_machine() -> None:
    assert values(JOB) == {
        "run_id": "brave_apple_1",
        "experiment": "resnet",
        "project": "research",
        "subscription_id": "0b1f6471",
        "resource_group": "training",
        "region": "westeurope",
        "azure_environment": "AzurePublicCloud",
        "cluster": "gpu",
        "vm_size": "STANDARD_NC6S_V3",
        "priority": "Low",
    }


def test_each_field_names_its_variable() -> None:
    findings, _ = read_azureml(JOB)
    assert findings["region"].source == "azureml:AZUREML_SERVICE_ENDPOINT"
    assert findings["vm_size"].source == "azureml:AZUREML_CR_COMPUTE_CONTEXT.vm_size"


def test_only_whitelisted_names_are_read() -> None:
    environ = Recording(JOB)
    findings, attempts = read_azureml(environ)
    assert environ.read == READ_NAMES
    assert not [name for name in READ_NAMES if "TOKEN" in name]
    assert "secret-token" not in repr((findings, attempts))


def test_the_root_run_and_the_experiment_id_stand_in() -> None:
    found = values({"AZUREML_ROOT_RUN_ID": "root", "AZUREML_EXPERIMENT_ID": "guid"})
    assert found == {"run_id": "root", "experiment": "guid"}


@pytest.mark.parametrize(
    ("endpoint", "region", "cloud"),
    [
        ("https://usgovvirginia.api.ml.azure.us", "usgovvirginia", "AzureUSGovernmentCloud"),
        ("https://chinaeast2.api.ml.azure.cn/", "chinaeast2", "AzureChinaCloud"),
        ("https://WestEurope.api.azureml.ms:443/x", "westeurope", "AzurePublicCloud"),
    ],
)
def test_the_endpoint_tells_region_and_cloud(endpoint: str, region: str, cloud: str) -> None:
    assert values({"AZUREML_SERVICE_ENDPOINT": endpoint}) == {
        "region": region,
        "azure_environment": cloud,
    }


@pytest.mark.parametrize(
    "endpoint",
    ["https://ml.azure.com/api/westeurope", "https://.api.azureml.ms", "https://[", "westeurope",
     "https://a.b.api.azureml.ms", "https://westeurope.api.azureml.ms.evil.example"],
)  # fmt: skip
def test_an_endpoint_of_another_form_gives_no_region(endpoint: str) -> None:
    findings, attempts = read_azureml({"AZUREML_SERVICE_ENDPOINT": endpoint})
    assert findings == {}
    assert any("not guessed" in attempt.detail for attempt in attempts)


def test_on_kubernetes_the_vm_size_is_null() -> None:
    context = {"cluster_name": "aks", "vm_size": None, "vm_priority": None}
    assert values({"AZUREML_CR_COMPUTE_CONTEXT": json.dumps(context)}) == {"cluster": "aks"}


@pytest.mark.parametrize(
    "context", ["{", "[]", '{"vm_size": 3}', "[" * 9000, '{"vm_size": "a\\u0000"}', "x" * 20_000]
)
def test_a_bad_compute_context_is_told(context: str) -> None:
    findings, attempts = read_azureml({"AZUREML_CR_COMPUTE_CONTEXT": context})
    assert findings == {}
    assert attempts[-1].outcome == "failed"


def test_a_workspace_that_is_no_project_name_is_told() -> None:
    findings, attempts = read_azureml({"AZUREML_ARM_WORKSPACE_NAME": "x" * 300})
    assert "project" not in findings
    assert attempts[-1].source == "azureml:AZUREML_ARM_WORKSPACE_NAME"


def test_outside_azureml_there_is_nothing() -> None:
    findings, attempts = read_azureml({"PATH": "/bin", "AZUREML_RUN_ID": ""})
    assert findings == {}
    assert [attempt.outcome for attempt in attempts] == ["skipped"]


@given(st.dictionaries(st.sampled_from(sorted(READ_NAMES)), st.text()))
def test_arbitrary_values_never_raise_and_stay_printable(environ: dict[str, str]) -> None:
    findings, _ = read_azureml(environ)
    assert all(found.value.isprintable() and found.value for found in findings.values())
