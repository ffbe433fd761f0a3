"""Which source the settings name, and what is wrong with them."""

import json
import subprocess
import sys

import pytest

from sidecar.carbon.choose import all_zones, intensity_feed, zones_of
from sidecar.carbon.feed import FixedFeed, LiveFeed
from sidecar.catalogue.lookup import Catalogue
from sidecar.settings import SettingsError, load_settings

CATALOGUE = Catalogue()
METER_AND_PRINT = """
import json, sys
import sidecar.cli.main
code = sidecar.cli.main.main()
print(json.dumps(sorted(name for name in sys.modules if name.startswith("sidecar.carbon"))))
sys.exit(code)
"""
HOURS = "hour,g_per_kwh\n" + "".join(f"{hour},{hour}\n" for hour in range(24))


def feed(**flags):
    return intensity_feed(load_settings(flags, {}), CATALOGUE)


def test_the_catalogue_alone_has_no_feed():
    assert feed() is None


def test_a_file_is_read_at_once(tmp_path):
    path = tmp_path / "hours.csv"
    path.write_text(HOURS)
    assert isinstance(feed(intensity_source="schedule", intensity_file=str(path)), FixedFeed)


@pytest.mark.parametrize(
    "flags",
    [
        {"intensity_source": "uk"},
        {"intensity_source": "uk", "intensity_zone": "GB-13"},
        {"intensity_source": "carbon-aware", "intensity_url": "http://carbon-aware:8080"},
        {"intensity_source": "electricity-maps", "intensity_token_file": "/run/token"},
        {
            "intensity_source": "electricity-maps",
            "transport": "collector",
            "collector_url": "http://c",
        },
        {"intensity_source": "schedule", "transport": "collector", "collector_url": "http://c"},
    ],
)
def test_a_service_is_asked_by_a_thread_that_has_not_begun(flags):
    assert isinstance(feed(**flags), LiveFeed)


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ({"intensity_source": "schedule"}, "needs a file; set --intensity-file"),
        ({"intensity_source": "carbon-aware"}, "needs the address of your Carbon Aware SDK"),
        ({"intensity_source": "electricity-maps"}, "needs a token; write it into a file"),
        (
            {"intensity_source": "uk", "intensity_zone": "DE"},
            "flag --intensity-zone: 'DE' is neither GB",
        ),
        ({"intensity_source": "uk", "transport": "collector"}, "its address is not known"),
        (
            {"intensity_source": "schedule", "intensity_file": "/none"},
            "flag --intensity-file: schedule /none",
        ),
    ],
)
def test_what_is_missing_is_told_in_one_line(flags, told):
    with pytest.raises(SettingsError, match=told) as caught:
        feed(**flags)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ({"intensity_source": "gridstatus"}, "is not one of: catalogue, schedule"),
        (
            {"intensity_source": "uk", "carbon_intensity": "100"},
            "carbon_intensity and intensity_source uk",
        ),
        ({"intensity_source": "uk", "energy_mix": "coal=1"}, "energy_mix and intensity_source uk"),
        (
            {"intensity_zone": "DE"},
            "intensity_zone is read by intensity_source electricity-maps or",
        ),
        ({"intensity_file": "x.csv"}, "intensity_file is read by intensity_source schedule alone"),
        ({"intensity_source": "uk", "intensity_token_file": "t"}, "alone, and it is uk"),
        (
            {"intensity_source": "schedule", "intensity_url": "http://x"},
            "alone, and it is schedule",
        ),
        ({"intensity_refresh": "10m"}, "outside 3600s to 86400s"),
        ({"intensity_zone": "D E"}, "is no zone"),
        ({"intensity_zone": "../x"}, "is no zone"),
        ({"intensity_zone": "DE&zone=FR"}, "is no zone"),
        ({"intensity_url": "ftp://x"}, "neither an http"),
    ],
)
def test_settings_that_contradict_one_another_are_refused(flags, told):
    with pytest.raises(SettingsError, match=told):
        load_settings(flags, {})


def test_who_chooses_the_catalogue_on_purpose_overrules_the_rest():
    environ = {"EMISSIONS_INTENSITY_ZONE": "DE"}
    with pytest.raises(SettingsError, match="environment EMISSIONS_INTENSITY_ZONE"):
        load_settings({}, environ)
    assert load_settings({"intensity_source": "catalogue"}, environ).intensity_zone == "DE"


def test_a_zone_follows_from_the_region():
    def zone(source, region, **flags):
        given = {"electricity-maps": {"intensity_token_file": "t"}}.get(source, {})
        settings = load_settings({"intensity_source": source, **given, **flags}, {})
        return zones_of(settings, CATALOGUE)(region)

    assert zone("electricity-maps", "westeurope") == "NL"
    assert zone("electricity-maps", "West Europe") == "NL"
    assert zone("carbon-aware", "West Europe") == "westeurope"
    assert zone("uk", "ukwest") == "GB"
    assert zone("uk", "westeurope") is None
    assert zone("electricity-maps", "atlantis") is None
    assert zone("electricity-maps", None) is None
    assert zone("electricity-maps", None, intensity_zone="FR") == "FR"


def test_a_source_has_as_many_zones_as_the_regions_are_in():
    def zones(**flags):
        return all_zones(zones_of(load_settings(flags, {}), CATALOGUE), CATALOGUE)

    assert zones(intensity_source="uk") == {"GB"}
    assert zones(intensity_source="uk", intensity_zone="GB-7") == {"GB-7"}
    assert zones(intensity_source="schedule") == {"schedule"}
    em = zones(intensity_source="electricity-maps", intensity_token_file="t")
    assert {"NL", "DE", "US-MIDA-PJM"} < em


def test_what_is_not_chosen_is_not_loaded(tmp_path):
    metered = ("exec", "--volume", str(tmp_path), "--", sys.executable, "-c", "")
    child = subprocess.run(
        [sys.executable, "-c", METER_AND_PRINT, *metered],
        capture_output=True,
        text=True,
        check=True,
    )
    loaded = json.loads(child.stdout.splitlines()[-1])
    assert loaded == ["sidecar.carbon", "sidecar.carbon.intensity", "sidecar.carbon.mix"]
