"""Lines of a segment as rows: valid records, and JSON that every reader sees alike. Needs pydantic.

Of a key that is there twice one reader takes the first and another the last value: what is checked
here would not be what is reported.
"""

import json
from collections.abc import Mapping
from dataclasses import fields
from typing import Annotated, Any, Final, get_type_hints

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, with_config
from typing_extensions import TypedDict

from sidecar.collector.refusal import shown
from sidecar.record import SCHEMA, EmissionRecord, GpuRecord
from sidecar.validation import (
    AMOUNTS,
    InvalidRecord,
    RecordValidator,
    are_phases,
)


class RecordLines:
    """Validates lines one by one; making it takes pydantic some milliseconds, so make one."""

    def __init__(self) -> None:
        self._plain = PlainLines()
        self._validator = RecordValidator()

    def row_of(self, line: bytes) -> Mapping[str, Any]:
        """Return the columns of the record in a line. Raises InvalidRecord."""
        row = self._plain.row_of(line)
        if row is not None:
            return row
        record = self._validator.record_of(line)
        require_unique_keys(line)
        return {item.name: getattr(record, item.name) for item in fields(record)}


class PlainLines:
    """Sees in one pass that a line, as sidecars of this version write it, is a record without fault.

    A parser that tells keys apart that are there twice takes longer than all else that is done with a
    segment; counting is quick. In a line that is not written otherwise, `":` stands at least once for
    each key. If it stands there just as often as the validated row has keys, then none was there twice,
    and none is unknown.
    """

    def __init__(self) -> None:
        gpu, hints = _whole_row(GpuRecord), get_type_hints(EmissionRecord)
        amounts = {name: Annotated[hints[name], Field(ge=0)] for name in AMOUNTS}
        row = _whole_row(EmissionRecord, **amounts, gpus=tuple[gpu, ...])  # type: ignore[valid-type]
        self._validate = TypeAdapter(row).validate_json

    def row_of(self, line: bytes) -> Mapping[str, Any] | None:
        """Return the row. None says only that the line must be looked at more closely."""
        if b"\\" in line or b'" ' in line or b"\t" in line or b"\r" in line:
            return None  # escapes, or white space that may be between a key and its colon
        try:
            row: Mapping[str, Any] = self._validate(line, strict=True)
        except ValidationError:
            return None
        is_plain = line.count(b'":') == _keys_in(row)
        is_ours = row["schema"] == SCHEMA and row["record_id"] and are_phases(row["phases"])
        return row if is_plain and is_ours else None


def _whole_row(of: type, **changes: Any) -> Any:  # noqa: ANN401 - a type made of types
    """Return the type of a row in which no column of a record is missing, and no number is NaN."""
    row = TypedDict("row", {**get_type_hints(of), **changes})  # type: ignore[misc]
    return with_config(ConfigDict(allow_inf_nan=False))(row)


def _keys_in(row: Mapping[str, Any]) -> int:
    objects = (row["labels"], row["annotations"], row["identity_source"], row["phases"] or ())
    return len(row) + sum(map(len, objects)) + sum(map(len, row["gpus"]))


def require_unique_keys(line: bytes) -> None:
    """Raise InvalidRecord where a key is there twice, or NaN or Infinity, which are no JSON."""
    try:
        _DECODER.decode(line.decode())
    except (ValueError, RecursionError) as error:
        raise InvalidRecord("not a record", str(error)) from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"key {shown(twice)} is there twice")
    return row


def _no_constant(text: str) -> Any:  # noqa: ANN401 - never returns
    raise ValueError(f"{text} is no JSON number")


_DECODER: Final = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_no_constant)
"""Made once: making it for each line costs a sixth of a segment's time (bench/collector.py)."""
