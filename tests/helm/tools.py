"""Real Helm, both majors, on the chart: renders, lints, and says where the binaries are expected."""

import functools
import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parent.parent.parent
CHART = ROOT / "helm/emissions-sidecar"
CACHE = ROOT / ".cache"
HELM = {3: CACHE / "helm/3/helm", 4: CACHE / "helm/4/helm"}
KUBECTL = CACHE / "kubectl/kubectl"

MAJORS = (3, 4)
VALUE_SETS = tuple(
    sorted(path.name.removesuffix("-values.yaml") for path in (CHART / "ci").glob("*-values.yaml"))
)
NEWEST = "1.37.0"
RELEASE = "es"
NAMESPACE = "emissions"

Document = dict[str, Any]


@dataclass(frozen=True)
class Rendering:
    """What Helm printed."""

    text: str
    error: str

    @property
    def documents(self) -> list[Document]:
        return [document for document in yaml.safe_load_all(self.text) if document]

    def of_kind(self, kind: str) -> list[Document]:
        return [document for document in self.documents if document["kind"] == kind]

    def one(self, kind: str, suffix: str = "") -> Document:
        """The one document of a kind whose name ends like this."""
        (found,) = (
            document
            for document in self.of_kind(kind)
            if document["metadata"]["name"].endswith(suffix)
        )
        return found


def is_there() -> bool:
    """Whether both Helms and kubectl are where the Makefile puts them."""
    return all(path.is_file() for path in (*HELM.values(), KUBECTL))


def values_file(value_set: str) -> Path:
    return CHART / f"ci/{value_set}-values.yaml"


def helm(major: int, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run one Helm, without a cluster and without the caller's configuration."""
    environ = {"HOME": "/nonexistent", "PATH": "/nonexistent", "KUBECONFIG": "/nonexistent"}
    return subprocess.run(
        [str(HELM[major]), *arguments], env=environ, capture_output=True, text=True, timeout=120
    )


@functools.cache
def render(
    value_set: str, *options: str, major: int = 4, kubernetes: str = NEWEST, fails: bool = False
) -> Rendering:
    """Render the chart with one of ci/*-values.yaml; `options` are more arguments of helm."""
    run = helm(
        major,
        "template",
        RELEASE,
        str(CHART),
        f"--namespace={NAMESPACE}",
        f"--kube-version={kubernetes}",
        f"--values={values_file(value_set)}",
        *options,
    )
    assert (run.returncode != 0) is fails, run.stderr or "rendered, though it should not"
    return Rendering(run.stdout, run.stderr)


def injector_json(value_set: str, *options: str) -> dict[str, Any]:
    """What the injector is configured with."""
    config_map = render(value_set, *options, "--set=injection.mode=webhook").one(
        "ConfigMap", "-injector"
    )
    content: dict[str, Any] = json.loads(config_map["data"]["injector.json"])
    return content
