"""values.schema.json: what is right passes, what is wrong is refused by both Helms."""

import itertools
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.helm.tools import CHART, MAJORS, ROOT, VALUE_SETS, render, values_file

pytestmark = pytest.mark.needs("helm")

SCHEMA = CHART / "values.schema.json"

WRONG = (
    "image.tag=latest",
    "sidecar.image.tag=latest",
    "sidecar.image.digest=sha256:abc",
    "injection.mode=webhooks",
    "injection.namespace=all",
    "injection.namespaceOptIn=true",
    "webhook.replicas=0",
    "webhook.replicas=two",
    "webhook.timeoutSeconds=30",
    "webhook.failurePolicy=Fail",
    "webhook.certs.mode=self-signed",
    "sidecar.resources.cpu=a-lot",
    "sidecar.resources.gpu=1",
    "sidecar.securityContext.privileged=true",
    "sidecar.interval=fifteen",
    "sidecar.gpu.source=rapl",
    "attribution.kubelet=maybe",
    "sidecar.transport=directory",
    "sidecar.volume.hostPath=/tmp",
    "azure.clientId=not-a-uuid",
    "azure.storage.accountUrl=ftp://x",
    "azure.storage.accountUrl=https://x.blob.core.windows.net/?sig=secret",
    "azure.storage.container=Records",
    "collector.backend=s3",
    "report.schedule=daily",
    "report.activeDeadlineSeconds=1h",
    "collectors.replicas=2",
    "networkPolicy.egressPorts={0}",
    "sidecar.interval=0s",
    "sidecar.interval=48h",
    "sidecar.clusterName= ",
    "fullnameOverride=a.b",
    "metrics.rules.budgetKg.vision=0",
    "metrics.rules.budgetKg.vision=much",
    "metrics.rules.idleGpuRatio=1.5",
    "metrics.rules.certificateDays=0",
    "metrics.rules.alertLabels.team=1",
    "sidecar.extraEnv[0].name=A",
    "sidecar.extraEnv[0].name=EMISSIONS_REGOIN,sidecar.extraEnv[0].value=westeurope",
    "sidecar.extraEnv[0].name=A,sidecar.extraEnv[0].value=x,sidecar.extraEnv[0].valueFrom.fieldRef.fieldPath=metadata.name",
    "sidecar.extraEnv[0].name=A,sidecar.extraEnv[0].valueFrom.secretKeyReff.name=x",
    "sidecar.extraEnv[0].name=A,sidecar.extraEnv[0].valueFrom.fieldRef.fieldPath=spec.nothing",
    "sidecar.extraEnv[0].name=A,sidecar.extraEnv[0].valueFrom.secretKeyRef.name=x,sidecar.extraEnv[0].valueFrom.secretKeyRef.key=y",
)

OPTIONAL = ",".join(
    f"sidecar.extraEnv[0].{one}"
    for one in (
        "name=A",
        "valueFrom.configMapKeyRef.name=x",
        "valueFrom.configMapKeyRef.key=y",
        "valueFrom.configMapKeyRef.optional=true",
    )
)

RIGHT = (
    "enabled=true",
    "sidecar.resources.cpu=1",
    "sidecar.resources.cpu=0.1",
    "sidecar.interval=5m",
    "metrics.podMonitor.interval=1h",
    "metrics.rules.idleGpuRatio=0.75,metrics.rules.budgetKg.vision=259.5",
    "sidecar.extraEnv[0].name=EMISSIONS_REGION,sidecar.extraEnv[0].value=westeurope",
    "sidecar.extraEnv[0].name=A,sidecar.extraEnv[0].valueFrom.fieldRef.fieldPath=metadata.annotations['a/b']",
    OPTIONAL,
)


def check_jsonschema(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "check_jsonschema", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)


def test_the_schema_is_a_schema() -> None:
    run = check_jsonschema("--check-metaschema", SCHEMA)
    assert run.returncode == 0, run.stdout


def test_the_default_values_and_all_of_ci_fit_the_schema() -> None:
    files = [values_file(one) for one in VALUE_SETS]
    run = check_jsonschema("--schemafile", SCHEMA, CHART / "values.yaml", *files)
    assert run.returncode == 0, run.stdout


def values_of(option: str) -> dict[str, Any]:
    """What `--set` makes of an option."""
    values: dict[str, Any] = {}
    for pair in option.split(","):
        path, _, text = pair.partition("=")
        *parents, last = re.findall(r"[^.\[\]]+", path)
        part: Any = values
        for name, below in itertools.pairwise((*parents, last)):
            if isinstance(part, list):
                part += [{}] if len(part) <= int(name) else []
                part = part[int(name)]
            else:
                part = part.setdefault(name, [] if below.isdecimal() else {})
        part[last] = [int(text[1:-1])] if text.startswith("{") else typed(text)
    return values


def typed(text: str) -> object:
    return int(text) if text.isdecimal() else {"true": True, "false": False}.get(text, text)


def test_check_jsonschema_finds_each_wrong_value_and_no_right_one(tmp_path: Path) -> None:
    """The same schema, by another implementation than those of the Helms."""
    wrong, right = tmp_path / "wrong", tmp_path / "right"
    for directory, options in ((wrong, WRONG), (right, RIGHT[:-2])):
        directory.mkdir()
        for number, option in enumerate(options):
            (directory / f"{number}.json").write_text(json.dumps(values_of(option)))
    refused = check_jsonschema("--schemafile", SCHEMA, "--output-format=json", *wrong.iterdir())
    found = {Path(one["filename"]).stem for one in json.loads(refused.stdout)["errors"]}
    assert [option for number, option in enumerate(WRONG) if str(number) not in found] == []
    taken = check_jsonschema("--schemafile", SCHEMA, *right.iterdir())
    assert taken.returncode == 0, taken.stdout


def test_every_object_of_ours_refuses_unknown_keys() -> None:
    schema = json.loads(SCHEMA.read_text())
    assert schema["additionalProperties"] is False
    for name, part in schema["properties"].items():
        if "properties" in part:
            assert part["additionalProperties"] is False, name


@pytest.mark.parametrize("major", MAJORS)
@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_value_is_refused_with_its_place(wrong: str, major: int) -> None:
    error = render("default", f"--set={wrong}", major=major, fails=True).error
    assert "values don't meet the specifications of the schema" in error
    section = wrong.partition("=")[0].split(".")[0]
    assert section in error


@pytest.mark.parametrize("right", RIGHT)
def test_a_good_value_is_taken(right: str) -> None:
    assert render("default", f"--set={right}").documents


def test_a_parent_chart_may_pass_global_values() -> None:
    assert render("default", "--set=global.anything=1").documents
