"""Which carbon intensity holds, on which level, and why."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.carbon.intensity import (
    average_intensity,
    country_mix_intensity,
    forced_intensity,
    mix_intensity,
)
from sidecar.catalogue.lookup import Catalogue

CATALOGUE = Catalogue()
REGIONS = list(CATALOGUE.regions())
SOURCES = {source.name: source for source in CATALOGUE.energy_sources()}


def test_a_known_region_gives_its_zone_without_a_note():
    found = average_intensity(CATALOGUE, "westeurope", None)
    assert (found.figure.value, found.level, found.note) == (253, "zone", None)


def test_a_known_region_goes_before_the_country_given():
    found = average_intensity(CATALOGUE, "westeurope", "POL")
    assert (found.figure.value, found.level) == (253, "zone")


def test_the_ember_table_gives_the_country_of_the_region():
    found = average_intensity(CATALOGUE, "westus2", None, "ember")
    assert (found.figure.value, found.level) == (383.55, "country")
    assert "Electricity Maps" not in found.figure.source


def test_a_region_without_zone_value_falls_to_its_own_country_and_says_so():
    found = average_intensity(CATALOGUE, "southwestus", "NLD")
    assert (found.figure.value, found.level) == (383.55, "country")
    assert found.note == "no grid zone value for region 'southwestus'; country USA used"


def test_an_unknown_region_falls_to_the_country_given_and_says_so():
    found = average_intensity(CATALOGUE, "atlantis", "NLD")
    assert (found.figure.value, found.level) == (252.7, "country")
    assert found.note == "region 'atlantis' is not in the catalogue; country NLD used"


def test_without_a_region_the_country_given_is_used():
    found = average_intensity(CATALOGUE, None, "nl")
    assert (found.level, found.note) == ("country", "no region is known; country NLD used")


def test_without_region_and_country_the_world_average_is_marked():
    found = average_intensity(CATALOGUE, None, None)
    assert (found.figure.value, found.level) == (472.94, "world")
    assert found.note == "no region is known and no country is known; world average used"


def test_an_unknown_country_is_named_in_the_note():
    found = average_intensity(CATALOGUE, "atlantis", "XYZ")
    assert found.level == "world"
    assert "country 'XYZ' is not in the catalogue" in found.note


@pytest.mark.parametrize("table", ["electricity-maps", "ember"])
@pytest.mark.parametrize("region", [region.name for region in REGIONS])
def test_a_known_region_never_yields_the_world_average(region, table):
    assert average_intensity(CATALOGUE, region, None, table).level != "world"


def test_an_unknown_table_is_refused():
    with pytest.raises(ValueError, match="use electricity-maps or ember"):
        average_intensity(CATALOGUE, "westeurope", None, "iea")


@given(st.floats(0, 5000))
def test_a_forced_value_is_taken_as_it_is(value):
    found = forced_intensity(value)
    assert (found.figure.low, found.figure.value, found.figure.high) == (value, value, value)
    assert (found.level, found.figure.source) == (None, "set by the user")


@pytest.mark.parametrize("value", [-0.1, 5000.1, math.inf, -math.inf, math.nan])
def test_a_forced_value_out_of_range_is_refused(value):
    with pytest.raises(ValueError, match="outside 0 to 5000 g/kWh"):
        forced_intensity(value)


def test_a_mix_is_the_weighted_mean_of_its_sources():
    found = mix_intensity(CATALOGUE, "coal=20,gas=30,wind=50")
    assert found.figure.value == pytest.approx(0.2 * 820 + 0.3 * 490 + 0.5 * 11)
    assert found.figure.low == pytest.approx(0.2 * 740 + 0.3 * 410 + 0.5 * 7)
    assert found.figure.high == pytest.approx(0.2 * 910 + 0.3 * 650 + 0.5 * 56)
    assert (found.level, found.note) == (None, None)
    assert found.figure.source.startswith("computed from energy mix")
    assert "coal 20 %, gas 30 %, wind 50 %" in found.figure.source
    assert found.figure.year == 2014


def test_a_mix_takes_any_unit_blanks_percent_signs_and_other_names():
    percent = mix_intensity(CATALOGUE, "gas=25,hydro=75")
    twh = mix_intensity(CATALOGUE, " Natural_Gas = 1 , hydroelectricity=3% ")
    assert twh.figure.value == pytest.approx(percent.figure.value)


amounts = st.dictionaries(
    st.sampled_from(sorted(SOURCES)), st.floats(0, 1e308, allow_subnormal=True), min_size=1
).filter(lambda mix: any(mix.values()))


@given(amounts)
def test_a_mix_lies_between_its_least_and_greatest_source(mix):
    text = ",".join(f"{name}={amount!r}" for name, amount in mix.items())
    figure = mix_intensity(CATALOGUE, text).figure
    used = [SOURCES[name].intensity for name, amount in mix.items() if amount > 0]
    assert min(f.value for f in used) <= figure.value <= max(f.value for f in used)
    assert min(f.low for f in used) <= figure.low <= figure.value <= figure.high
    assert figure.high <= max(f.high for f in used)


@given(amounts, st.floats(0.001, 1000))
def test_a_mix_does_not_depend_on_its_unit(mix, factor):
    scaled = {name: amount / 1e6 for name, amount in mix.items()}
    text = ",".join(f"{name}={amount!r}" for name, amount in scaled.items())
    other = ",".join(f"{name}={amount * factor!r}" for name, amount in scaled.items())
    if not any(amount > 1e-200 for amount in scaled.values()):
        return
    one, two = (mix_intensity(CATALOGUE, each).figure for each in (text, other))
    assert one.value == pytest.approx(two.value)


@pytest.mark.parametrize(
    ("mix", "complaint"),
    [
        ("", "unknown source ''"),
        ("peat=10", "unknown source 'peat'"),
        ("coal=-1,gas=2", "'-1' is no amount of coal"),
        ("coal=nan", "'nan' is no amount"),
        ("coal=inf", "'inf' is no amount"),
        ("coal", "'' is no amount of coal"),
        ("coal=much", "'much' is no amount"),
        ("coal=0,gas=0", "all amounts are zero"),
        ("gas=1,natural gas=2", "gas is named twice"),
    ],
)
def test_a_bad_mix_is_refused_with_its_reason(mix, complaint):
    with pytest.raises(ValueError, match=complaint):
        mix_intensity(CATALOGUE, mix)


def test_ipcc_medians_stand_in_the_table():
    values = {name: source.intensity.value for name, source in SOURCES.items()}
    assert values == {
        "coal": 820,
        "gas": 490,
        "oil": 650,
        "nuclear": 12,
        "hydro": 24,
        "wind": 11,
        "solar": 48,
        "biomass": 230,
        "geothermal": 38,
    }


def test_a_country_without_own_value_can_be_computed_from_its_mix():
    carbon = country_mix_intensity(CATALOGUE, "ISL")
    # Iceland 2022: 13.94 TWh hydro, 0.01 wind, 5.92 geothermal
    expected = (13.94 * 24 + 0.01 * 11 + 5.92 * 38) / (13.94 + 0.01 + 5.92)
    assert carbon.figure.value == pytest.approx(expected)
    assert carbon.level == "country"
    assert "computed from energy mix" in carbon.figure.source
    assert "mix of ISL in 2022" in carbon.note


@pytest.mark.parametrize("country", ["XXX", None])
def test_no_mix_is_invented(country):
    with pytest.raises(ValueError, match="no energy mix is known"):
        country_mix_intensity(CATALOGUE, country)


def test_every_country_has_a_mix_that_agrees_with_its_intensity_within_reason():
    ratios = []
    for country in CATALOGUE.countries():
        mix = CATALOGUE.energy_mix(country.iso3)
        if mix is None or country.carbon_intensity.value < 20:
            continue
        computed = country_mix_intensity(CATALOGUE, country.iso3).figure
        ratios.append(computed.value / country.carbon_intensity.value)
    assert len(ratios) > 190
    middle = sorted(ratios)[len(ratios) // 10 : -len(ratios) // 10]
    assert middle[0] > 0.6
    assert middle[-1] < 1.5


def test_the_world_average_spans_all_regions_it_may_stand_for():
    figure = average_intensity(CATALOGUE, None, None).figure
    zones = [region.carbon_intensity for region in CATALOGUE.regions() if region.carbon_intensity]
    assert figure.low == min(zone.low for zone in zones)
    assert figure.high == max(zone.high for zone in zones)
    assert figure.high > 20 * figure.low


def test_a_country_average_spans_the_zones_of_its_regions():
    figure = average_intensity(CATALOGUE, "atlantis", "USA").figure
    westus2 = CATALOGUE.region("westus2").carbon_intensity
    assert figure.low <= westus2.low
    assert figure.value == CATALOGUE.country("USA").carbon_intensity.value


def test_the_ember_table_takes_its_bounds_from_ember_alone():
    figure = average_intensity(CATALOGUE, "atlantis", "USA", "ember").figure
    assert figure.low == CATALOGUE.country("USA").carbon_intensity.low
