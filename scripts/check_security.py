"""Look at code, chart and Dockerfile with bandit, checkov and hadolint: `make security`.

What they say that is deliberate stands in the tables below with its reason. Anything else fails, and so
does a reason for what nobody says any more. pip-audit tells known vulnerabilities of the pinned packages
where PyPI's advisories can be asked; where not, that is said.

    python scripts/check_security.py DIRECTORY_OF_THE_TOOLS HELM
"""

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

REPOSITORY = Path(__file__).resolve().parent.parent
CHART = REPOSITORY / "helm/emissions-sidecar"
CODE = ("sidecar", "scripts", "examples", "helm/emissions-sidecar/files")

SAID_BY_RUFF: Mapping[str, str] = {
    "B104": "S104: services of a cluster listen on all addresses",
    "B310": "S310: the address is one that the code writes itself",
    "B311": "S311: jitter and examples; no secret comes from them",
    "B404": "S404: commands are argument lists, never shells",
    "B603": "S603: commands are argument lists, never shells",
    "B608": "S608: names of columns and files of ours; values of others never stand in SQL",
    "B704": "S704: files of the package, and JSON that is escaped for a script element",
}
"""Rules of bandit that ruff has, too: where each holds, ruff's `noqa` stands beside the line."""

_TEST = r"Pod\..*-test$"
_SERVICES = r"(Deployment|DaemonSet|CronJob|Pod)\."
_NODE_METER = r"DaemonSet\..*-node-meter$"

DELIBERATE: Mapping[str, tuple[str, str]] = {
    "CKV2_K8S_6": (_TEST, "the pod of `helm test` lives for seconds and is reached by nobody"),
    "CKV_K8S_8": (_TEST, "the pod of `helm test` ends by itself"),
    "CKV_K8S_9": (_TEST, "the pod of `helm test` ends by itself"),
    "CKV_K8S_11": (
        _SERVICES,
        "a CPU limit makes an idle node's service late; requests share a busy one's",
    ),
    "CKV_K8S_15": (
        _SERVICES,
        "a tag is a version and never moved; IfNotPresent starts without the registry",
    ),
    "CKV_K8S_43": (_SERVICES, "the digest is the installer's to give: `image.digest`"),
    "CKV_K8S_23": (_NODE_METER, "kubelet's socket is root's; nodeMeter.gpus=false runs as another"),
    "CKV_K8S_40": (_NODE_METER, "kubelet's socket is root's; nodeMeter.gpus=false runs as another"),
    "CKV_K8S_35": (
        r"Deployment\..*-collector$",
        "a Secret that the value set itself puts into extraEnv",
    ),
    "CKV_K8S_38": (
        r"-(collector|node-meter|report|test)$",
        "these ask the Kubernetes API: tokens, pods without records, the injected pod",
    ),
    "CKV_DOCKER_2": ("", "Kubernetes asks by its own probes and passes HEALTHCHECK over"),
    "CKV_DOCKER_7": ("", "the base is an argument; `scratch` has no version"),
}
"""For each check of checkov: whose resources it may name, and why."""


class Finding(NamedTuple):
    """What a tool says: rule, place, and the words of the tool."""

    rule: str
    place: str
    text: str


def main(argv: list[str]) -> int:
    """Run all tools. Exit 1 where one says what is not deliberate."""
    tools, helm = Path(argv[1]), Path(argv[2])
    found = [*bandit(tools), *checkov(tools, helm), *hadolint(tools)]
    unexpected = [item for item in found if not is_deliberate(item)]
    for item in unexpected:
        sys.stdout.write(f"{item.place}: {item.rule}: {item.text}\n")
    rules = {item.rule for item in found}
    stale = sorted((SAID_BY_RUFF.keys() | DELIBERATE.keys()) - rules)
    for rule in stale:
        sys.stdout.write(f"{rule}: is explained, and said of nothing; remove it from {__file__}\n")
    vulnerable = list(audit(tools))
    for item in vulnerable:
        sys.stdout.write(f"{item.place}: {item.rule}: {item.text}\n")
    known = len(found) - len(unexpected)
    sys.stdout.write(f"security: {len(unexpected)} findings, {known} that are deliberate\n")
    return 1 if unexpected or stale or vulnerable else 0


def is_deliberate(item: Finding) -> bool:
    """Whether a finding is explained, for the resource that it is about."""
    places, _ = DELIBERATE.get(item.rule, ("(?!)", ""))
    return item.rule in SAID_BY_RUFF or re.search(places, item.place) is not None


def bandit(tools: Path) -> Iterator[Finding]:
    """Yield what bandit says of the code."""
    command = [tools / "bandit", "--quiet", "--format", "json", "--recursive", *CODE]
    for row in _json(command)["results"]:
        place = f"{row['filename']}:{row['line_number']}"
        yield Finding(row["test_id"], place, row["issue_text"])


def checkov(tools: Path, helm: Path) -> Iterator[Finding]:
    """Yield what checkov says of the chart, rendered with each set of values, and of the Dockerfile."""
    common = [tools / "checkov", "--skip-download", "--compact", "--quiet", "--output", "json"]
    with tempfile.TemporaryDirectory() as directory:
        for values in sorted((CHART / "ci").glob("*-values.yaml")):
            command = [
                helm,
                "template",
                "es",
                CHART,
                "--namespace",
                "emissions",
                "--values",
                values,
            ]
            rendered = subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout
            Path(directory, f"{values.stem}.yaml").write_bytes(rendered)
        chart = _json([*common, "--framework", "kubernetes", "--directory", directory])
    dockerfile = _json([*common, "--framework", "dockerfile", "--file", "Dockerfile"])
    for report in (chart, dockerfile):
        if not report.get("summary", {}).get("passed"):
            raise SystemExit("checkov looked at nothing")
        for row in report["results"]["failed_checks"]:
            yield Finding(row["check_id"], row["resource"], row["check_name"])


def hadolint(tools: Path) -> Iterator[Finding]:
    """Yield what hadolint says of the Dockerfile."""
    for row in _json([tools / "hadolint", "--format", "json", "Dockerfile"]):
        yield Finding(row["code"], f"{row['file']}:{row['line']}", row["message"])


def audit(tools: Path) -> Iterator[Finding]:
    """Yield known vulnerabilities of the pinned packages; say how many could not be looked up."""
    command = [
        tools / "pip-audit",
        "--requirement",
        "constraints.txt",
        "--no-deps",
        "--disable-pip",
    ]
    rows = _json([*command, "--format", "json", "--progress-spinner", "off"])["dependencies"]
    skipped = sum("skip_reason" in row for row in rows)
    if skipped:
        sys.stdout.write(
            f"pip-audit: {skipped} of {len(rows)} packages could not be looked up here\n"
        )
    for row in rows:
        for one in row.get("vulns", ()):
            yield Finding(one["id"], f"{row['name']}=={row['version']}", one["description"][:200])


def _json(command: Iterable[object]) -> Any:  # noqa: ANN401 - of the tool's own form
    """Return what a tool prints; it may exit with 1 where it finds something."""
    words = list(map(str, command))
    run = subprocess.run(words, capture_output=True, cwd=REPOSITORY, check=False, text=True)
    try:
        return json.loads(run.stdout)
    except ValueError:
        told = f"{words[0]} exited with {run.returncode} and printed no JSON: {run.stderr[-400:]}"
        raise SystemExit(told) from None


if __name__ == "__main__":
    sys.exit(main(sys.argv))
