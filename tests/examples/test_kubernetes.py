"""The manifests of examples/kubernetes: Kubernetes takes them, and each pod gets the sidecar."""

import io
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
from ruamel.yaml import YAML

from sidecar.injector.inject import inject
from sidecar.injector.manifest import inject_manifest
from tests.injector.goldens import CONFIG

EXAMPLES = Path(__file__).parents[2] / "examples"
PROJECTS = {
    "job.yaml": ["digits"],
    "cronjob.yaml": ["recommender"],
    "pytorchjob.yaml": ["foundation-model", "foundation-model"],
}


def documents(text: str) -> list[Any]:
    return list(YAML(typ="safe", pure=True).load_all(io.StringIO(text)))


def templates(value: Any) -> list[dict[str, Any]]:
    """Pod templates anywhere below."""
    if isinstance(value, dict):
        found = (
            [value["template"]] if "containers" in value.get("template", {}).get("spec", {}) else []
        )
        return found + [one for child in value.values() for one in templates(child)]
    return []


@pytest.mark.parametrize("name", PROJECTS)
def test_every_pod_gets_the_sidecar_and_only_that(name: str) -> None:
    text = (EXAMPLES / "kubernetes" / name).read_text(encoding="utf-8")
    injected = inject_manifest(text, lambda pod: inject(pod, {}, CONFIG))
    before = [pod for one in documents(text) for pod in templates(one)]
    after = [pod for one in documents(injected.text) for pod in templates(one)]
    assert len(before) == len(after) == len(PROJECTS[name])
    for was, now, project in zip(before, after, PROJECTS[name], strict=True):
        assert now["metadata"]["annotations"]["emissions/project"] == project
        assert now["metadata"]["annotations"]["emissions/status"] == "injected"
        assert now["spec"]["initContainers"][0]["name"] == "emissions-sidecar"
        mounted = was["metadata"]["annotations"].get("emissions/mount") == "true"
        assert mounted or now["spec"]["containers"] == was["spec"]["containers"]


@pytest.mark.parametrize("name", ["job.yaml", "cronjob.yaml"])
@pytest.mark.parametrize("version", ["1.29", "1.37"])
def test_kubernetes_takes_it_with_and_without_the_sidecar(name: str, version: str) -> None:
    text = (EXAMPLES / "kubernetes" / name).read_text(encoding="utf-8")
    injected = inject_manifest(text, lambda pod: inject(pod, {}, CONFIG)).text
    checked = documents(text) + documents(injected)
    assert len(checked) == 2
    for document in checked:
        kubernetes_validate.validate(document, version, strict=True)


def test_the_pods_of_a_pytorchjob_are_pods_of_kubernetes() -> None:
    text = (EXAMPLES / "kubernetes" / "pytorchjob.yaml").read_text(encoding="utf-8")
    injected = inject_manifest(text, lambda pod: inject(pod, {}, CONFIG)).text
    pods = [pod for one in documents(injected) for pod in templates(one)]
    assert len(pods) == 2
    for pod in pods:
        named = {**pod["metadata"], "name": "pretrain-worker-0"}
        document = {"apiVersion": "v1", "kind": "Pod", **pod, "metadata": named}
        kubernetes_validate.validate(document, "1.37", strict=True)


def test_the_readme_lists_every_example() -> None:
    readme = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    files = [
        str(path.relative_to(EXAMPLES))
        for path in EXAMPLES.rglob("*")
        if path.is_file() and path.name != "README.md" and "__pycache__" not in path.parts
    ]
    assert len(files) >= 7
    assert [name for name in files if f"({name})" not in readme] == []
