"""What the environment of an AzureML job says: run, experiment, workspace, region.

Only the names of `READ_NAMES` are ever read: the same environment holds tokens
(`AZUREML_RUN_TOKEN`, `MLFLOW_TRACKING_TOKEN`, …).
"""

import json
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlsplit

from sidecar.identity.bounded import normal_region, plain_text, shown
from sidecar.identity.downward import valid_project_name
from sidecar.identity.fields import Attempt, Findings, Sourced

_RUN: Final = "AZUREML_RUN_ID"
_ROOT_RUN: Final = "AZUREML_ROOT_RUN_ID"
_EXPERIMENT_ID: Final = "AZUREML_EXPERIMENT_ID"
_EXPERIMENT_NAME: Final = "AZUREML_ARM_PROJECT_NAME"
_SUBSCRIPTION: Final = "AZUREML_ARM_SUBSCRIPTION"
_GROUP: Final = "AZUREML_ARM_RESOURCEGROUP"
_WORKSPACE: Final = "AZUREML_ARM_WORKSPACE_NAME"
_ENDPOINT: Final = "AZUREML_SERVICE_ENDPOINT"
_COMPUTE: Final = "AZUREML_CR_COMPUTE_CONTEXT"

READ_NAMES: Final = frozenset(
    {
        _RUN,
        _ROOT_RUN,
        _EXPERIMENT_ID,
        _EXPERIMENT_NAME,
        _SUBSCRIPTION,
        _GROUP,
        _WORKSPACE,
        _ENDPOINT,
        _COMPUTE,
    }
)

_FIELDS: Final = (
    ("run_id", _RUN),
    ("run_id", _ROOT_RUN),
    ("experiment", _EXPERIMENT_NAME),
    ("experiment", _EXPERIMENT_ID),
    ("subscription_id", _SUBSCRIPTION),
    ("resource_group", _GROUP),
)
"""Field and variable, the better variable first; the "ARM project" is the experiment."""

_CLOUD_OF_SUFFIX: Final = {
    ".api.azureml.ms": "AzurePublicCloud",
    ".api.ml.azure.us": "AzureUSGovernmentCloud",
    ".api.ml.azure.cn": "AzureChinaCloud",
}
"""Hosts of the workspace service: `<region><suffix>`."""

_PRIORITY_OF_COMPUTE: Final = {"dedicated": "Regular", "lowpriority": "Low"}
"""AzureML's words for a compute's tier, in IMDS' words."""

_MAX_CHARACTERS: Final = 512
_MAX_CONTEXT_CHARACTERS: Final = 16 * 1024


def read_azureml(environ: Mapping[str, str]) -> tuple[Findings, tuple[Attempt, ...]]:
    """Read the whitelisted variables; a bad one is left out and told. Never raises.

    `project` is the workspace, the fallback of its name.
    """
    reader = _Reader(environ)
    for field, name in _FIELDS:
        reader.take(field, name, reader.text(name))
    reader.take("project", _WORKSPACE, reader.project(_WORKSPACE))
    _read_endpoint(reader)
    _read_compute(reader)
    if not reader.findings and not reader.attempts:
        return {}, (Attempt("azureml", "skipped", "no AzureML variable is set"),)
    found = ", ".join(sorted(reader.findings)) or "nothing usable"
    return reader.findings, (Attempt("azureml", "ok", f"found {found}"), *reader.attempts)


class _Reader:
    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        self.findings: dict[str, Sourced] = {}
        self.attempts: list[Attempt] = []

    def text(self, name: str, limit_characters: int = _MAX_CHARACTERS) -> str | None:
        try:
            return plain_text(self._environ.get(name, ""), limit_characters) or None
        except ValueError as error:
            self.refuse(name, str(error))
            return None

    def project(self, name: str) -> str | None:
        text = self.text(name)
        try:
            return None if text is None else valid_project_name(text)
        except ValueError as error:
            self.refuse(name, str(error))
            return None

    def take(self, field: str, source: str, value: str | None) -> None:
        if value is not None:
            self.findings.setdefault(field, Sourced(value, f"azureml:{source}"))

    def refuse(self, name: str, why: str) -> None:
        self.attempts.append(Attempt(f"azureml:{name}", "failed", f"ignored: {why}"))


def _read_endpoint(reader: _Reader) -> None:
    """Region and cloud from the workspace's address: `https://westeurope.api.azureml.ms`."""
    endpoint = reader.text(_ENDPOINT)
    if endpoint is None:
        return
    try:
        host = urlsplit(endpoint).hostname or ""
        suffix = next(suffix for suffix in _CLOUD_OF_SUFFIX if host.endswith(suffix))
        region = normal_region(host.removesuffix(suffix))
    except (ValueError, StopIteration):
        known = ", ".join(f"<region>{suffix}" for suffix in _CLOUD_OF_SUFFIX)
        reader.refuse(_ENDPOINT, f"{shown(endpoint)} is none of {known}; its region is not guessed")
        return
    reader.take("region", _ENDPOINT, region)
    reader.take("azure_environment", _ENDPOINT, _CLOUD_OF_SUFFIX[suffix])


def _read_compute(reader: _Reader) -> None:
    """Cluster, VM size (null on Kubernetes) and priority from the compute context (JSON)."""
    text = reader.text(_COMPUTE, _MAX_CONTEXT_CHARACTERS)
    if text is None:
        return
    try:
        context: Any = json.loads(text)
    except (ValueError, RecursionError):
        context = None
    if not isinstance(context, dict):
        reader.refuse(_COMPUTE, f"{shown(text)} is not a JSON object")
        return
    for field, key in (
        ("cluster", "cluster_name"),
        ("vm_size", "vm_size"),
        ("priority", "vm_priority"),
    ):
        value = _context_text(reader, context, key)
        if field == "priority" and value is not None:
            value = _PRIORITY_OF_COMPUTE.get(value.replace(" ", "").lower(), value)
        reader.take(field, f"{_COMPUTE}.{key}", value)


def _context_text(reader: _Reader, context: dict[str, Any], key: str) -> str | None:
    value = context.get(key)
    if value is None:
        return None
    if not isinstance(value, str):
        reader.refuse(f"{_COMPUTE}.{key}", "is not a string")
        return None
    try:
        return plain_text(value, _MAX_CHARACTERS) or None
    except ValueError as error:
        reader.refuse(f"{_COMPUTE}.{key}", str(error))
        return None
