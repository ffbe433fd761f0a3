"""What AzureML says of a run in the environment of its pods, handed on to the sidecar.

AzureML cannot annotate its pods; labels tell run and workspace, the experiment stands in variables of
its containers alone. Only the names below are looked at: the same environment holds tokens.
"""

from collections.abc import Iterator, Mapping
from typing import Final

from sidecar.injector.pod_shape import JsonObject, objects_at

RUN_LABEL: Final = "ml.azure.com/run-id"

HANDED_ON: Final = (
    "AZUREML_RUN_ID",
    "AZUREML_ROOT_RUN_ID",
    "AZUREML_ARM_PROJECT_NAME",
    "AZUREML_EXPERIMENT_ID",
    "AZUREML_ARM_WORKSPACE_NAME",
)
"""Not the workspace's region, subscription and group: the node's are another matter."""

MOST_CHARACTERS: Final = 256


def run_variables(spec: JsonObject, labels: Mapping[str, str]) -> list[JsonObject]:
    """Return the variables of a run, each from the first container that spells it out.

    A value that refers to other variables would mean something else in another container.
    """
    if RUN_LABEL not in labels:
        return []
    found: dict[str, str] = {}
    for name, value in _spelled_out(spec):
        if 0 < len(value) <= MOST_CHARACTERS and "$(" not in value:
            found.setdefault(name, value)
    return [{"name": name, "value": found[name]} for name in HANDED_ON if name in found]


def _spelled_out(spec: JsonObject) -> Iterator[tuple[str, str]]:
    for container in objects_at(spec, "containers"):
        for one in objects_at(container, "env"):
            name, value = one.get("name"), one.get("value")
            if name in HANDED_ON and isinstance(value, str):
                yield str(name), value
