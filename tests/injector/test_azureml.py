"""What is handed on of AzureML's variables: names that are known, spelled out, and never a token."""

import pytest
from hypothesis import given

from sidecar.injector.azureml import HANDED_ON, MOST_CHARACTERS, RUN_LABEL, run_variables
from tests.injector.pods_of_any_kind import pods

RUN = {RUN_LABEL: "brave_tooth"}


def spec(*environments):
    return {"containers": [{"name": f"c{n}", "env": env} for n, env in enumerate(environments)]}


def variable(name, value):
    return {"name": name, "value": value}


def test_the_first_container_that_spells_a_variable_out_decides() -> None:
    first, second = variable("AZUREML_RUN_ID", "a"), variable("AZUREML_RUN_ID", "b")
    assert run_variables(spec([], [first], [second]), RUN) == [first]


def test_a_pod_that_is_no_run_of_azureml_hands_nothing_on() -> None:
    assert run_variables(spec([variable("AZUREML_RUN_ID", "a")]), {}) == []


@pytest.mark.parametrize(
    "one",
    [
        variable("AZUREML_RUN_TOKEN", "secret"),
        variable("MLFLOW_TRACKING_TOKEN", "secret"),
        variable("AZUREML_SERVICE_ENDPOINT", "https://westeurope.api.azureml.ms"),
        variable("AZUREML_RUN_ID", ""),
        variable("AZUREML_RUN_ID", "$(POD_NAME)"),
        variable("AZUREML_RUN_ID", "x" * (MOST_CHARACTERS + 1)),
        {"name": "AZUREML_RUN_ID", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
    ],
)
def test_neither_a_token_nor_what_means_something_else_there_is_handed_on(one) -> None:
    assert run_variables(spec([one]), RUN) == []


@given(pods())
def test_only_known_names_are_handed_on_each_once(pod) -> None:
    names = [one["name"] for one in run_variables(pod["spec"], RUN)]
    assert [name for name in HANDED_ON if name in names] == names
