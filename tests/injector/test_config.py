"""The configuration: read from the chart's file, refused where it would endanger pods."""

import json

import pytest

from sidecar.injector.config import InjectConfig, default_config, load_config
from sidecar.settings import SettingsError
from tests.injector.goldens import HERE


def content():
    return json.loads((HERE / "config.json").read_text())


def changed(*path, to):
    whole = part = content()
    for key in path[:-1]:
        part = part[key]
    part[path[-1]] = to
    return json.dumps(whole)


def test_the_shipped_configuration_is_valid() -> None:
    config = default_config()
    assert (config.container_name, config.records_volume) == ("emissions-sidecar", "emissions")
    assert config.needs_pod_identity is False


@pytest.mark.parametrize(
    ("path", "to", "told"),
    [
        (("container", "ports"), [{"containerPort": 9877}], "ports"),
        (("container", "startupProbe"), {}, "startupProbe"),
        (("container", "livenessProbe"), None, "livenessProbe"),
        (("container", "lifecycle", "postStart"), {"sleep": {"seconds": 9}}, "postStart"),
        (("container", "envFrom"), [{"secretRef": {"name": "x"}}], "envFrom"),
        (("container", "securityContext", "runAsUser"), 0, "root"),
        (("container", "securityContext", "capabilities", "add"), ["NET_RAW"], "add none"),
        (("container", "env"), [{"name": "A", "value": "1"}] * 2, "twice"),
        (("container", "env"), [{"name": "A"}], "either value or valueFrom"),
        (
            ("container", "env"),
            [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}],
            "must be optional",
        ),
        (
            ("container", "env"),
            [{"name": "A", "valueFrom": {"secretKeyReff": {"name": "s", "key": "k"}}}],
            "must be one of",
        ),
        (
            ("container", "env"),
            [{"name": "EMISSIONS_REGOIN", "value": "westeurope"}],
            "EMISSIONS_REGOIN: there is no such setting; did you mean EMISSIONS_REGION",
        ),
        (
            ("container", "env"),
            [{"name": "EMISSIONS_PUEE", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
            "there is no such setting",
        ),
        (("container", "env"), [{"name": "EMISSIONS_PUE", "value": "twelve"}], "EMISSIONS_PUE"),
        (("volumes", 0), {"name": "emissions", "secret": {"secretName": "s"}}, "must be optional"),
        (("container", "readinessProbe"), {}, "readinessProbe"),
        (("container", "restartPolicy"), None, "Always"),
        (("container", "image"), "registry.example.com/x:latest", "latest"),
        (("container", "image"), "registry.example.com:5000/x", "version"),
        (("container", "image"), None, "container.image"),
        (("container", "name"), "", "container.name"),
        (("container", "resources", "requests", "cpu"), "10m", "Burstable"),
        (("container", "resources"), {}, "Burstable"),
        (("container", "securityContext", "privileged"), True, "privilege"),
        (("container", "securityContext"), None, "privilege"),
        (("container", "env"), [{"name": "EMISSIONS_REQUESTS_GPU"}], "to the injector"),
        (("container", "volumeMounts"), [], "mountPath"),
        (("container", "volumeMounts", 0, "name"), "another", "name no volume"),
        (("volumes", 0), {"name": "emissions", "hostPath": {"path": "/"}}, "hostPath"),
        (("volumes", 0, "name"), "emissions-token", "twice"),
        (("mountPath",), "", "mountPath"),
        (("version",), 1, "version"),
        (("more",), 1, "its keys"),
        (("volumes",), {}, "not a list"),
    ],
)
def test_a_configuration_that_endangers_pods_is_refused(path, to, told) -> None:
    with pytest.raises(ValueError, match=told):
        InjectConfig.from_json(changed(*path, to=to))


def test_a_gpu_is_never_taken_from_a_pod() -> None:
    resources = {"cpu": "50m", "memory": "64Mi", "nvidia.com/gpu": "1"}
    text = changed("container", "resources", to={"requests": resources, "limits": resources})
    with pytest.raises(ValueError, match="nothing else"):
        InjectConfig.from_json(text)


@pytest.mark.parametrize("image", ["a/b:1", "b@sha256:0123", "host:5000/b:1.2", "b:1@sha256:01"])
def test_an_image_with_a_version_is_taken(image) -> None:
    assert default_config().with_image(image).container["image"] == image


@pytest.mark.parametrize("text", [b"", b"[]", b"{}", b"[" * 100_000, b"\xff"])
def test_a_file_that_is_no_configuration_is_one_line(tmp_path, text) -> None:
    file = tmp_path / "injector.json"
    file.write_bytes(text)
    with pytest.raises(SettingsError, match=r"injector\.json is no configuration") as refused:
        load_config(file)
    assert "\n" not in str(refused.value)


def test_a_file_that_is_not_there_is_one_line(tmp_path) -> None:
    with pytest.raises(SettingsError, match="No such file"):
        load_config(tmp_path / "injector.json")
