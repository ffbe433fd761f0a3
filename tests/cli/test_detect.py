"""`detect`: the source of every field, and what failed."""

import json

import pytest

from sidecar.cli.main import main
from sidecar.cli.options import SIDECAR
from sidecar.identity.fields import Identity
from sidecar.settings import declared_settings
from tests.fakes.dcgm import ENERGY, FakeDcgm, Gpu, page
from tests.fakes.imds import FakeImds
from tests.fakes.trees import PowercapTree


def detected(capsys, *flags):
    assert main(["detect", "--json", *flags]) == 0
    return json.loads(capsys.readouterr().out)


def test_every_identity_field_has_a_source_even_if_unknown(capsys):
    found = detected(capsys)
    names = set(Identity.__dataclass_fields__) - {"sources", "azure_environment"}
    assert names <= set(found["identity_source"])
    assert all(found["identity_source"][name] for name in names)
    assert found["identity_source"]["vm_size"] == "unknown"


def test_what_failed_is_told(capsys):
    found = detected(capsys, "--imds-endpoint", "http://127.0.0.1:9")
    (imds,) = [item for item in found["tried"] if item["source"].startswith("imds")]
    assert imds["outcome"] == "failed"
    assert "refused" in imds["detail"]


def test_imds_gives_size_and_region(capsys):
    with FakeImds("aks-spot-gpu") as imds:
        found = detected(capsys, "--imds-endpoint", imds.url)
    assert (found["vm_size"], found["region"]) == ("Standard_NC24ads_A100_v4", "westeurope")
    assert found["identity_source"]["vm_size"] == "imds"
    assert found["country_iso3"] == "NLD"
    assert found["identity_source"]["country_iso3"] == "catalogue:region westeurope"
    assert found["priority"] == "Spot"
    assert found["gpu_method"] == "table"


def test_a_setting_wins_over_imds_and_is_named(capsys):
    with FakeImds("aks-spot-gpu") as imds:
        found = detected(capsys, "--imds-endpoint", imds.url, "--region", "swedencentral")
    assert found["region"] == "swedencentral"
    assert found["identity_source"]["region"] == "setting"
    assert any("wins over" in item["detail"] for item in found["tried"])


def test_every_meter_says_whether_it_works_and_why(capsys, tmp_path):
    tree = PowercapTree(tmp_path).zone("intel-rapl:0", "package-0", 1000)
    found = detected(capsys, "--sys-root", str(tree.root))
    meters = {meter["name"]: meter for meter in found["meters"]}
    assert set(meters) >= {"cpu-time", "memory", "rapl", "nvml", "pod"}
    assert meters["rapl"]["available"]
    assert not meters["nvml"]["available"]
    assert all(meter["detail"] for meter in meters.values())
    assert found["cpu_power_method"] == "rapl"


def test_every_setting_is_shown_with_its_origin(capsys):
    found = detected(capsys, "--interval", "5s")
    assert set(found["settings"]) == {item.name for item in declared_settings(*SIDECAR)}
    assert found["settings"]["interval"] == {"value": 5.0, "source": "flag --interval"}


def test_factors_carry_source_and_year(capsys):
    found = detected(capsys, "--region", "westeurope")
    assert found["carbon_intensity_year"] == 2025
    assert found["carbon_intensity_source"]
    assert found["identity_source"]["pue"]


def test_the_text_shows_the_same_for_people(capsys):
    assert main(["detect", "--region", "westeurope"]) == 0
    text = capsys.readouterr().out
    for word in ("identity and factors", "westeurope", "meters", "tried", "flag --region"):
        assert word in text


@pytest.mark.parametrize("flag", ["--proc-root", "--sys-root"])
def test_missing_trees_are_told_not_fatal(capsys, tmp_path, flag):
    found = detected(capsys, flag, str(tmp_path / "nothing"))
    assert found["meters"]


# -- the ladders -------------------------------------------------------------------------------------


POD = {"POD_UID": "u", "POD_NAME": "train-0", "POD_NAMESPACE": "vision"}


@pytest.fixture
def in_a_pod(monkeypatch):
    for name, value in POD.items():
        monkeypatch.setenv(name, value)


@pytest.mark.usefixtures("in_a_pod")
def test_every_way_to_find_the_pods_part_is_there_with_what_it_needs(capsys):
    rungs = detected(capsys, "--requests-cpu", "1")["pod_methods"]
    assert [rung["method"] for rung in rungs] == [
        "node-meter", "cgroup", "shared-pid", "metrics-api", "requests",
    ]  # fmt: skip
    assert [rung["method"] for rung in rungs if rung["chosen"]] == ["requests"]
    assert all(rung["detail"] for rung in rungs)
    assert all(rung["needs"] for rung in rungs if not rung["available"])


@pytest.mark.usefixtures("in_a_pod")
def test_every_way_to_meter_gpus_was_tried_and_says_what_it_needs(capsys):
    ours = Gpu("GPU-a", {ENERGY: 5000}, pods=(("vision", "train-0", "train"),))
    theirs = Gpu("GPU-b", {ENERGY: 9000}, pods=(("other", "x", "y"),))
    with FakeDcgm(page(ours, theirs)) as exporter:
        found = detected(capsys, "--dcgm-url", exporter.url, "--requests-gpu", "1")
    rungs = {rung["name"]: rung for rung in found["gpu_meters"]}
    assert list(rungs) == ["node-meter", "dcgm", "nvml", "amd", "table"]
    assert [name for name, rung in rungs.items() if rung["chosen"]] == ["dcgm"]
    assert "no NVIDIA driver" in rungs["nvml"]["detail"], "it was asked though it is not needed"
    assert "nodeMeter.enabled=true" in rungs["node-meter"]["needs"]
    shares = {gpu["uuid"]: (gpu["share"], gpu["share_method"]) for gpu in found["gpus"]}
    assert shares == {"GPU-a": (1.0, "dcgm"), "GPU-b": (0.0, "dcgm")}


def test_where_nothing_meters_gpus_the_table_of_the_vm_size_does(capsys):
    size = ("--vm-size", "Standard_NC24ads_A100_v4", "--requests-gpu", "1")
    found = detected(capsys, *size)
    assert [rung["name"] for rung in found["gpu_meters"] if rung["chosen"]] == ["table"]
    (gpu,) = found["gpus"]
    assert (gpu["uuid"], gpu["share"], gpu["share_method"]) == (None, 1.0, "requests")
    assert main(["detect", *size]) == 0
    text = capsys.readouterr().out
    assert "how GPUs are metered, best first" in text
    assert "· needs a dcgm-exporter on the node" in text


def test_a_machine_without_gpus_has_none_in_use(capsys):
    found = detected(capsys)
    assert (found["gpus"], [r for r in found["gpu_meters"] if r["chosen"]]) == ([], [])
