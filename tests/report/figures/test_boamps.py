"""BoAmps records: what the format asks for, and nothing invented.

`SCHEMA` holds the constraints of the format's JSON schemas (version 1.1.0) that a record can break: what
is required, types, ranges, allowed values.
"""

import json
from datetime import UTC, datetime

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.report.figures.boamps import Hardware, boamps
from sidecar.report.figures.inputs import RunFacts
from tests.report.figures.rows import CATALOGUE, row

TEXT, NUMBER, PART = {"type": "string"}, {"type": "number"}, {
    "type": "number", "minimum": 0, "maximum": 1
}  # fmt: skip


def mapping(required, **properties):
    return {
        "type": "object",
        "required": required,
        "properties": properties,
        "additionalProperties": False,
    }


def some(items):
    return {"type": "array", "minItems": 1, "items": items}


def one_of(*values):
    return {"type": "string", "enum": list(values)}


SCHEMA = mapping(
    ["task", "measures", "infrastructure"],
    header=mapping(
        ["reportDatetime"],
        formatVersion=TEXT,
        formatVersionSpecificationUri=TEXT,
        reportId=TEXT,
        reportDatetime={"type": "string", "pattern": r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d$"},
        reportStatus=one_of("draft", "final", "corrective", "other"),
        publisher=mapping(
            ["confidentialityLevel"],
            projectName=TEXT,
            confidentialityLevel=one_of("public", "internal", "confidential", "secret"),
        ),
    ),
    task=mapping(
        ["taskStage", "taskFamily", "algorithms", "dataset"],
        taskStage=TEXT,
        taskFamily=TEXT,
        algorithms=some(mapping([], algorithmName=TEXT)),
        dataset=some(
            mapping(
                ["dataUsage", "dataType"],
                dataUsage=one_of("input", "output"),
                dataType=one_of("tabular", "image", "text", "token", "other"),
            )
        ),
        taskDescription=TEXT,
    ),
    measures=some(
        mapping(
            ["measurementMethod", "powerConsumption"],
            measurementMethod=TEXT,
            version=TEXT,
            cpuTrackingMode=TEXT,
            gpuTrackingMode=TEXT,
            averageUtilizationCpu=PART,
            averageUtilizationGpu=PART,
            powerConsumption=NUMBER,
            measurementDuration=NUMBER,
            measurementDateTime=TEXT,
        )
    ),
    infrastructure=mapping(
        ["infraType", "components"],
        infraType=one_of("publicCloud", "privateCloud", "onPremise", "other"),
        cloudProvider=TEXT,
        cloudInstance=TEXT,
        components=some(
            mapping(
                ["componentType", "nbComponent"],
                componentName=TEXT,
                componentType=TEXT,
                nbComponent={"type": "integer"},
                memorySize=NUMBER,
                share=PART,
            )
        ),
    ),
    environment=mapping(
        ["country"],
        country=TEXT,
        latitude=NUMBER,
        longitude=NUMBER,
        location=TEXT,
        powerSourceCarbonIntensity=NUMBER,
    ),
    quality=one_of("high", "medium", "low"),
)

HARDWARE = Hardware.of(CATALOGUE)
AT = datetime(2026, 11, 12, 12, tzinfo=UTC)
KEYS = {"project": "demo", "run": "run-1"}
FACTS = RunFacts(
    "westeurope", "Standard_NC24ads_A100_v4", 2, None, "vm-share", "energy-counter", "azure"
)


def record_of(facts=FACTS, keys=KEYS, **changes):
    record = boamps(row(keys, **changes), facts, HARDWARE, AT)
    jsonschema.validate(record, SCHEMA)
    return record


def test_energy_is_that_of_the_it_in_kwh():
    measure = record_of(energy_kwh=1.0, facility_energy_kwh=1.14)["measures"][0]
    assert (measure["powerConsumption"], measure["measurementMethod"]) == (1.0, "emissions-sidecar")


def test_a_run_lasts_from_its_first_window_to_its_last():
    measure = record_of(
        window_start="2026-11-01T08:00:00.000Z", window_end="2026-11-01T09:00:30.000Z"
    )["measures"][0]
    assert (measure["measurementDateTime"], measure["measurementDuration"]) == (
        "2026-11-01 08:00:00",
        3630.0,
    )


def test_hardware_is_what_the_catalogue_says_of_the_size():
    infrastructure = record_of()["infrastructure"]
    counts = {item["componentType"]: item["nbComponent"] for item in infrastructure["components"]}
    assert counts == {"cpu": 48, "ram": 2, "gpu": 2}
    assert infrastructure["cloudInstance"] == "Standard_NC24ads_A100_v4"


def test_a_cloud_is_named_where_records_name_it():
    infrastructure = record_of()["infrastructure"]
    assert (infrastructure["infraType"], infrastructure["cloudProvider"]) == (
        "publicCloud",
        "azure",
    )


def test_a_machine_that_names_no_cloud_is_not_said_to_be_azures():
    infrastructure = record_of(RunFacts())["infrastructure"]
    assert infrastructure["infraType"] == "other"
    assert "cloudProvider" not in infrastructure


def test_the_place_is_that_of_the_region():
    environment = record_of()["environment"]
    assert (environment["country"], environment["location"]) == ("Netherlands", "westeurope")
    assert environment["powerSourceCarbonIntensity"] == 253.0


def test_what_is_not_known_is_left_out_or_said_to_be_unknown():
    record = record_of(RunFacts(), cpu_utilization=None)
    assert "environment" not in record
    assert "averageUtilizationCpu" not in record["measures"][0]
    assert record["task"]["taskFamily"] == "unknown"
    assert record["infrastructure"]["components"] == [
        {
            "componentName": "pod on a VM whose size the report does not know",
            "componentType": "pod",
            "nbComponent": 3,
        }
    ]


def test_a_run_whose_energy_is_not_known_has_no_record():
    assert boamps(row(KEYS, energy_kwh=None), FACTS, HARDWARE, AT) is None


@pytest.mark.parametrize(
    ("low", "high", "quality"),
    [(95.0, 110.0, "high"), (80.0, 110.0, "medium"), (80.0, 130.0, "low"), (None, None, "low")],
)
def test_quality_is_the_relative_error_of_the_bounds(low, high, quality):
    record = record_of(emissions_g=100.0, emissions_low_g=low, emissions_high_g=high)
    assert record["quality"] == quality


def test_the_same_run_has_the_same_id():
    assert record_of()["header"]["reportId"] == record_of()["header"]["reportId"]
    other = record_of(keys={"project": "demo", "run": "run-2"})
    assert other["header"]["reportId"] != record_of()["header"]["reportId"]


name = st.none() | st.text(st.characters(), max_size=400)


@given(name, name, name, name, st.none() | st.integers(-5, 10**6))
def test_records_of_runs_of_any_name_are_valid(project, run, size, region, vms):
    record = record_of(RunFacts(region, size, vms), {"project": project, "run": run})
    json.dumps(record, allow_nan=False)
