"""Records from outside: bytes in, `EmissionRecord` out, or the reason why not. Needs pydantic.

pydantic validates against the very dataclass that the sidecar writes, so there is one schema.
"""

import math
from collections.abc import Mapping
from dataclasses import fields
from operator import attrgetter
from typing import Final

from pydantic import TypeAdapter, ValidationError

from sidecar import windows
from sidecar.bounded_http import one_line
from sidecar.phases import NAMES_MAX, SECONDS_MAX, valid_phase
from sidecar.record import SCHEMA, EmissionRecord

LINE_BYTES_MAX: Final = 1024 * 1024
"""A line this long is read, if slowly; what the collector takes is much shorter."""

PLACES_MAX: Final = 4
"""Of a place in a record: column, number of a GPU, its column."""

AMOUNTS: Final = tuple(
    item.name
    for item in fields(EmissionRecord)
    if item.name.endswith(("_kwh", "_g", "_l", "_s", "_seconds", "_gib"))
)
"""Columns of what is neither negative nor infinite."""

_amounts: Final = attrgetter(*AMOUNTS)

YEARS: Final = windows.YEARS
"""Years a record can be of."""


class InvalidRecord(ValueError):  # noqa: N818 - it is the record that is in error
    """A line that is no record: `kind` is what to count it under, the text says what is wrong."""

    def __init__(self, kind: str, text: str = "") -> None:
        super().__init__(text or kind)
        self.kind = kind


class RecordValidator:
    """Validates lines one by one; making it takes pydantic some milliseconds, so make one."""

    def __init__(self) -> None:
        self._adapter = TypeAdapter(EmissionRecord)

    def record_of(self, line: bytes) -> EmissionRecord:
        """Return the record in a line of NDJSON. Raises InvalidRecord."""
        try:
            record = self._adapter.validate_json(line, strict=True)
        except ValidationError as error:
            raise _invalid(error) from error
        if record.schema != SCHEMA:
            raise InvalidRecord(f"schema {record.schema}, this version reads {SCHEMA}")
        if not record.record_id or not _plausible(record):
            raise InvalidRecord("negative or infinite amount, or no record_id")
        if not are_phases(record.phases):
            raise InvalidRecord("phases that no program can have marked")
        return record


def _invalid(error: ValidationError) -> InvalidRecord:
    first = error.errors(include_url=False, include_input=False)[0]
    if first["type"] == "json_invalid":
        return InvalidRecord("torn line", first["msg"])
    # A place may end in a key that is the sender's.
    place = one_line(".".join(map(str, first["loc"][:PLACES_MAX])))
    return InvalidRecord("not a record", f"{place}: {first['msg']}" if place else first["msg"])


def are_phases(phases: Mapping[str, float] | None) -> bool:
    """Whether these may be phases: bounded in number, names that are valid, seconds that are some."""
    if phases is None:
        return True
    try:
        names = [valid_phase(name) for name in phases]
    except ValueError:
        return False
    return len(names) <= NAMES_MAX + 1 and all(
        0 <= part_s <= SECONDS_MAX for part_s in phases.values()
    )


def _plausible(record: EmissionRecord) -> bool:
    return all(amount is None or 0 <= amount < math.inf for amount in _amounts(record))
