"""The quick look at a line takes nothing that the thorough one would not, and is what ours get."""

import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.collector.record_lines import PlainLines, RecordLines, require_unique_keys
from sidecar.record import EmissionRecord, GpuRecord, to_ndjson
from sidecar.validation import InvalidRecord, RecordValidator
from tests.collector.running import record

PLAIN = PlainLines()
THOROUGH = RecordValidator()
FULL = record(
    labels={"app.kubernetes.io/name": "train", "team": ""},
    annotations={"emissions/track": "true"},
    identity_source={"project": "setting"},
    phases={"train": 9.5, "evaluation": 2.0},
    gpus=(GpuRecord(uuid="GPU-0", model="A100", energy_kwh=0.5), GpuRecord(uuid=None)),
)


def line_of(of: EmissionRecord) -> str:
    return to_ndjson(of).removesuffix("\n")


def thorough(line: bytes) -> EmissionRecord | None:
    try:
        require_unique_keys(line)
        return THOROUGH.record_of(line)
    except InvalidRecord:
        return None


@pytest.mark.parametrize("of", [FULL, record()])
def test_what_sidecars_write_is_taken_at_the_first_look(of) -> None:
    row = PLAIN.row_of(line_of(of).encode())
    assert row is not None
    assert set(row) == {item.name for item in dataclasses.fields(EmissionRecord)}


_TEXTS = st.text(st.sampled_from('ab":,{}[]\\\t \x7fé'), max_size=6)
_KEYS = st.sampled_from(["energy_kwh", "labels", "uuid", "a", "train", "unknown"])
_VALUES = st.sampled_from(
    ["1", "1.0", "NaN", "-Infinity", "1e999", "null", '"x"', "{}", '{"a":"b"}']
)
_SPACES = st.sampled_from(["", "", " ", "\t", "  ", "\r"])


@given(st.data())
def test_what_is_taken_at_the_first_look_is_taken_by_the_thorough_one_alike(data) -> None:
    text = line_of(
        dataclasses.replace(FULL, workload=data.draw(_TEXTS), labels={"a": data.draw(_TEXTS)})
    )
    for _ in range(data.draw(st.integers(0, 3))):
        before, after = data.draw(_SPACES), data.draw(_SPACES)
        member = f'"{data.draw(_KEYS)}"{before}:{after}{data.draw(_VALUES)}'
        commas = [place for place, character in enumerate(text) if character in ",{"]
        place = data.draw(st.sampled_from(commas)) + 1
        text = f"{text[:place]}{member},{text[place:]}"
    line = text.encode()
    row, found = PLAIN.row_of(line), thorough(line)
    if row is not None:
        assert found is not None
        gpus = tuple(GpuRecord(**gpu) for gpu in row["gpus"])
        assert EmissionRecord(**{**row, "gpus": gpus}) == found


@given(st.data())
def test_a_line_with_a_part_left_out_or_repeated_is_never_taken_for_another(data) -> None:
    text = line_of(FULL)
    first, last = sorted(data.draw(st.tuples(*[st.integers(0, len(text))] * 2)))
    changed = data.draw(st.sampled_from([text[:first] + text[last:], text[:last] + text[first:]]))
    row = PLAIN.row_of(changed.encode())
    if row is not None:
        assert thorough(changed.encode()) is not None
        assert json.loads(changed) == {**json.loads(changed), "record_id": row["record_id"]}


@pytest.mark.parametrize(
    "change",
    [
        ('"pod":', '"pod" :"x","pod":'),
        ('"labels":{', '"labels":{"team":"x",'),
        ('"uuid":"GPU-0"', '"uuid":"GPU-0","uuid":"GPU-1"'),
        ('"end_reason":null', '"pod":"x"'),  # as many keys as ever
        ('"energy_kwh":1.0', '"energy_kwh":1.0,"unknown":":"'),
        ('"cpu_utilization":null', '"cpu_utilization":NaN'),
        ('"duration_s":15.0', '"duration_s":null'),
        ('"duration_s":15.0', '"duration_s":-15.0'),
        ('"energy_kwh":1.0', '"energy_kwh":-1.0'),
        ('"energy_kwh":1.0', '"energy_kwh":1e999'),
    ],
)
def test_keys_that_are_there_twice_unknown_or_missing_are_looked_at_closely(change) -> None:
    line = line_of(FULL).replace(*change, 1)
    assert line != line_of(FULL)
    assert PLAIN.row_of(line.encode()) is None


def test_a_record_of_another_version_is_taken_all_the_same() -> None:
    older = json.loads(line_of(FULL))
    del older["carbon_intensity_kind"]
    newer = {**older, "of_tomorrow": 1}
    for row in (older, newer):
        taken = RecordLines().row_of(json.dumps(row).encode())
        assert taken["record_id"] == FULL.record_id
        assert taken["carbon_intensity_kind"] is None
