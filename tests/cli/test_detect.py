"""`detect`: the source of every field, and what failed."""

import json

import pytest

from sidecar.cli.main import main
from sidecar.cli.options import SIDECAR
from sidecar.identity.fields import Identity
from sidecar.settings import declared_settings
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
