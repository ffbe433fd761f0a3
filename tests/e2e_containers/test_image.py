"""The images: built without a network, and run as hardened as strangers' clusters run them."""

import hashlib
import io
import json
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from sidecar.version import VERSION
from tests.e2e_containers.engine import BASE, EPOCH, HARDENED, ROOT, Image, Podman

pytestmark = pytest.mark.needs("podman", "root")

MIB = 2**20
ENVIRONMENT = "opt/emissions"


def files(podman: Podman, image: Image) -> dict[str, tuple[int, float, str]]:
    """Mode, time and digest of each file that the image adds to its base."""
    name = podman.do("create", image.tag)
    try:
        content = podman.export(name)
    finally:
        podman.do("rm", name)
    found = {}
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        for entry in tar:
            if entry.name.startswith(ENVIRONMENT):
                file = tar.extractfile(entry) if entry.isfile() else None
                text = file.read() if file else entry.linkname.encode()
                found[entry.name] = (entry.mode, entry.mtime, hashlib.sha256(text).hexdigest())
    return found


def packages(podman: Podman, image: Image) -> set[str]:
    """Names of the distributions in the image's environment."""
    code = "import importlib.metadata as m; print(*(d.name.lower() for d in m.distributions()))"
    run = ("run", *HARDENED, "--entrypoint=python", image.tag, "-c", code)
    return set(podman.do(*run).split())


@pytest.fixture(params=["lean", "services"])
def image(request: pytest.FixtureRequest) -> Image:
    built: Image = request.getfixturevalue(request.param)
    return built


def test_it_runs_hardened_and_without_a_shell(podman: Podman, image: Image):
    """The base image of these tests has no shell, nor any other program but Python."""
    outcome = podman.ask("run", *HARDENED, image.tag, "--help")
    assert outcome.code == 0, outcome.stderr
    assert outcome.stdout.startswith("usage: emissions-sidecar COMMAND")


def test_neither_entry_point_nor_command_is_a_line_for_a_shell(image: Image):
    assert image.config["Entrypoint"] == ["emissions-sidecar"]
    assert len(image.config["Cmd"]) == 1
    assert "Healthcheck" not in image.config


def test_the_user_is_nobody_of_the_machine(image: Image):
    assert image.config["User"] == "65532:65532"


def test_labels_say_what_it_is(image: Image):
    labels = image.labels
    assert labels["title"] == image.tag.partition("/")[2].partition(":")[0]
    assert labels["version"] == VERSION
    assert labels["created"] == "2026-01-01T00:00:00Z"
    assert labels["source"] == "https://example.org/emissions-sidecar"
    assert labels["licenses"] in (ROOT / "pyproject.toml").read_text()
    assert labels["description"].endswith(".")


def test_everything_is_compiled(podman: Podman, image: Image):
    """A read-only image could keep no cache: each start would compile anew."""
    names = set(files(podman, image))
    sources = {name for name in names if "/site-packages/sidecar/" in name and name[-3:] == ".py"}
    compiled = {name.replace("/__pycache__", "").split(".cpython")[0] + ".py" for name in names}
    assert sources
    assert sources <= compiled


def test_what_was_needed_to_build_is_not_in_it(podman: Podman, image: Image):
    names = files(podman, image)
    assert not packages(podman, image) & {"setuptools", "wheel"}
    assert not [name for name in names if "/site-packages/pip" in name or name[-4:] == ".whl"]
    assert not [name for name in names if "/tests/e2e" in name or "/.git" in name]


def test_the_lean_image_holds_only_the_lean_half(podman: Podman, lean: Image):
    found = packages(podman, lean) - {"pip"}  # the base's
    assert found == {"emissions-sidecar", "nvidia-ml-py", "prometheus_client", "psutil"}


def test_the_lean_image_adds_little_to_its_base(
    podman: Podman, lean: Image, record_testsuite_property: Callable[[str, object], None]
):
    added_mib = (lean.size - podman.image(BASE).size) / MIB
    record_testsuite_property("MiB above the base", round(added_mib, 1))
    sys.stdout.write(f"{lean.tag}: {added_mib:.1f} MiB above its base\n")
    assert added_mib < 30


def test_detect_runs_hardened(podman: Podman, lean: Image):
    row = json.loads(podman.do("run", *HARDENED, lean.tag, "detect", "--json"))
    assert row


def test_the_sidecar_meters_hardened_onto_a_volume(podman: Podman, lean: Image, tmp_path: Path):
    volume = tmp_path / "volume"
    volume.mkdir()
    volume.chmod(0o777)
    mount = f"--volume={volume}:/var/run/emissions"
    arguments = ("run", "--for=1s", "--volume=/var/run/emissions")
    outcome = podman.ask("run", *HARDENED, mount, lean.tag, *arguments)
    assert outcome.code == 0, outcome.stderr
    (segment,) = (volume / "records").glob("*.ndjson")
    rows = [json.loads(line) for line in segment.read_text().splitlines()]
    assert [row["event"] for row in rows][-1] == "end"
    assert rows[-1]["energy_kwh"] > 0
    assert segment.stat().st_uid == 65532


@pytest.mark.parametrize("command", ["collector", "webhook", "report", "inject"])
def test_services_have_what_they_need(podman: Podman, services: Image, command: str):
    assert "usage" in podman.do("run", *HARDENED, services.tag, command, "--help")


def test_the_lean_image_says_what_it_lacks(podman: Podman, lean: Image):
    outcome = podman.ask("run", *HARDENED, lean.tag, "collector", "--backend=directory")
    assert outcome.code == 2
    assert "collector" in outcome.stderr
    assert "Traceback" not in outcome.stderr


@pytest.mark.parametrize(("target", "fixture"), [("sidecar", "lean"), ("services", "services")])
def test_the_same_inputs_give_the_same_layer(
    podman: Podman, request: pytest.FixtureRequest, target: str, fixture: str
):
    built: Image = request.getfixturevalue(fixture)
    again = podman.build(target, "-again", "--no-cache")
    first = files(podman, built)
    assert files(podman, again) == first
    assert again.layers == built.layers
    assert {time_s for _, time_s, _ in first.values()} == {int(EPOCH)}
