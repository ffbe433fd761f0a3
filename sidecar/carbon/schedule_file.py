"""Reads a schedule of carbon intensity, as CSV or JSON. Values are in g/kWh.

Tables repeat: by hour alone (24 values), hour and weekday, or hour and month. Their hours are those of
the time zone that the file names, else UTC. A series has values with a time each, and repeats nothing.

    # timezone: Europe/Amsterdam             {"timezone": "Europe/Amsterdam",
    # source: my utility's tariff sheet       "source": "my utility's tariff sheet",
    hour,mon,tue,wed,thu,fri,sat,sun          "hours": {"mon": [310, 305, …], "tue": […], …}}
    0,310,310,312,308,309,280,275
    …                                        {"series": [{"start": "2026-11-22T00:00:00Z",
                                                          "g_per_kwh": 310}, …]}
    start,g_per_kwh
    2026-11-22T00:00:00Z,310
"""

import csv
import io
import json
import math
import os
import re
import stat
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, tzinfo
from pathlib import Path
from typing import Any, Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from sidecar.bounded_http import one_line
from sidecar.carbon.intensity import HIGHEST_G_PER_KWH
from sidecar.carbon.schedule import By, HourTable, Schedule, TimedValues
from sidecar.carbon.series import Span
from sidecar.windows import YEARS

FILE_BYTES_MAX: Final = 4 * 1024**2
"""A year of half hours is some 700 KB."""

HOURS: Final = range(24)
DAYS: Final = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
MONTHS: Final = (
    "january", "february", "march", "april", "may", "june",
    "july", "august", "september", "october", "november", "december",
)  # fmt: skip

VALUE: Final = "g_per_kwh"
_COMMENT = re.compile(r"#[ \t]*(timezone|source)[ \t]*:(.*)")


def read_schedule(path: Path) -> Schedule:
    """Read the file: JSON if it begins with a brace, else CSV. Raises ValueError, naming the place."""
    try:
        text = _text(path)
        if text.lstrip().startswith("{"):
            return _of_json(text, path.name)
        return _of_csv(text, path.name)
    except OSError as error:
        raise ValueError(f"schedule {path} cannot be read: {error.strerror or error}") from error
    except (ValueError, csv.Error) as error:
        raise ValueError(f"schedule {path}: {one_line(str(error))}") from error


def _text(path: Path) -> str:
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as stream:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ValueError("it is no regular file")
        content = stream.read(FILE_BYTES_MAX + 1)
    if len(content) > FILE_BYTES_MAX:
        raise ValueError(f"it is longer than {FILE_BYTES_MAX} bytes")
    return content.decode("utf-8-sig")


# --- CSV ----------------------------------------------------------------------------------------


def _of_csv(text: str, name: str) -> Schedule:
    about: dict[str, str] = {}
    lines = []
    for line in text.splitlines():
        comment = _COMMENT.fullmatch(line.strip())
        if comment is not None:
            about[comment[1]] = comment[2].strip()
        elif line.strip() and not line.lstrip().startswith("#"):
            lines.append(line)
    header, *rows = [
        [cell.strip() for cell in row] for row in csv.reader(io.StringIO("\n".join(lines)))
    ] or [[]]
    columns = [cell.casefold() for cell in header]
    if len(set(columns)) != len(columns):
        raise ValueError(f"a column is named twice in its header {','.join(header)!r:.80}")
    table = [dict(zip(columns, row, strict=True)) for row in _even(rows, len(columns))]
    zone, source = _zone(about.get("timezone")), _source(about.get("source"), name)
    if columns and columns[0] == "start":
        _refuse_others(columns, ("start", "end", VALUE))
        return TimedValues(_timed(table, zone), source)
    return _table(columns, table, zone, source)


def _even(rows: list[list[str]], width: int) -> list[list[str]]:
    for number, row in enumerate(rows, 1):
        if len(row) != width:
            raise ValueError(f"row {number} has {len(row)} cells, its header {width}")
    return rows


def _table(columns: list[str], rows: list[dict[str, str]], zone: tzinfo, source: str) -> HourTable:
    """Read rows of hours by columns of days or months, or rows of those by columns of hours."""
    first = columns[0] if columns else ""
    if first in ("weekday", "day", "month"):
        _refuse_others(columns, (first, *map(str, HOURS)))
        named = [(row[first], [row.get(str(hour)) for hour in HOURS]) for row in rows]
        return _of_names(named, zone, source)
    if first != "hour":
        raise ValueError(
            f"its header begins with {first!r:.40}; write hour,{VALUE} or hour,mon,…,sun or "
            f"hour,jan,…,dec, or start,{VALUE}"
        )
    by_hour = {_hour(row["hour"]): row for row in rows}
    if sorted(by_hour) != list(HOURS) or len(rows) != len(HOURS):
        raise ValueError(f"its {len(rows)} rows are not the hours 0 to 23, each once")
    names = columns[1:]
    if names == [VALUE]:
        values = _values([by_hour[hour][VALUE] for hour in HOURS], VALUE)
        return HourTable("hour", (values,), zone, source)
    named = [(name, [by_hour[hour][name] for hour in HOURS]) for name in names]
    return _of_names(named, zone, source)


def _hour(text: str) -> int:
    """Return the hour of `7`, `07` or `07:00`."""
    match = re.fullmatch(r"(\d{1,2})(:00)?", text, re.ASCII)
    if match is None or int(match[1]) not in HOURS:
        raise ValueError(f"{text!r:.40} is no hour from 0 to 23")
    return int(match[1])


def _refuse_others(columns: Sequence[str], known: Sequence[str]) -> None:
    for column in columns:
        if column not in known:
            raise ValueError(f"{column!r:.40} is not known; there are {', '.join(known):.100}")


# --- JSON ---------------------------------------------------------------------------------------


def _of_json(text: str, name: str) -> Schedule:
    try:
        document = json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    _refuse_others(list(document), ("timezone", "source", "hours", "series"))
    if ("hours" in document) == ("series" in document):
        raise ValueError("it has neither or both of hours and series; give one of them")
    zone, source = _zone(document.get("timezone")), _source(document.get("source"), name)
    if "series" in document:
        return TimedValues(_timed(_objects(document["series"]), zone), source)
    hours = document["hours"]
    if isinstance(hours, dict):
        return _of_names(list(hours.items()), zone, source)
    return HourTable("hour", (_values(hours, "hours"),), zone, source)


def _objects(rows: object) -> list[dict[str, Any]]:
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ValueError(f"its series is no list of objects with start and {VALUE}")
    for row in rows:
        _refuse_others(list(row), ("start", "end", VALUE))
    return rows


# --- both ---------------------------------------------------------------------------------------


def _of_names(named: Sequence[tuple[str, object]], zone: tzinfo, source: str) -> HourTable:
    """Make the table of seven weekdays or twelve months, in whatever order they are given."""
    kinds: tuple[tuple[By, tuple[str, ...]], ...] = (("weekday", DAYS), ("month", MONTHS))
    for by, names in kinds:
        found = {_full_name(name, names): _values(values, name) for name, values in named}
        if set(found) == set(names) and len(named) == len(names):
            return HourTable(by, tuple(found[name] for name in names), zone, source)
    given = ", ".join(name for name, _ in named)
    raise ValueError(
        f"{given!r:.80} are neither the seven weekdays mon to sun nor the twelve months jan to dec, "
        "each once"
    )


def _full_name(name: str, names: Sequence[str]) -> str | None:
    """Return which of the names this is, three letters at least; None for none of them."""
    text = name.casefold()
    return next((full for full in names if len(text) >= 3 and full.startswith(text)), None)


def _values(given: object, name: str) -> tuple[float, ...]:
    if not isinstance(given, list) or len(given) != len(HOURS):
        raise ValueError(f"{name!r:.40} has no list of 24 values, for the hours 0 to 23")
    return tuple(_value(value, f"{name:.40}, hour {hour}") for hour, value in enumerate(given))


def _value(value: object, where: str) -> float:
    try:
        number = float(value) if isinstance(value, str | int | float) else math.nan
    except (ValueError, OverflowError):
        number = math.nan
    if isinstance(value, bool) or not 0 <= number <= HIGHEST_G_PER_KWH:
        raise ValueError(
            f"{where}: {value!r:.40} is no carbon intensity from 0 to {HIGHEST_G_PER_KWH:g} g/kWh"
        )
    return number


def _zone(name: object) -> tzinfo:
    if name is None or name == "UTC":
        return UTC
    try:
        return ZoneInfo(str(name))
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise ValueError(
            f"time zone {str(name)!r:.60} is not known here; write one such as Europe/Amsterdam, and "
            "see that the system's tzdata is installed"
        ) from error


def _source(given: object, name: str) -> str:
    text = str(given) if given else name
    if not text.isprintable() or len(text) > 200:
        raise ValueError("its source is not 1 to 200 printable characters on one line")
    return f"schedule: {text}"


def _timed(rows: Sequence[Mapping[str, Any]], zone: tzinfo) -> tuple[Span, ...]:
    """Read values with a time each.

    One without an end lasts until the next begins; the last one as long as the one before it.
    """
    starts = _instants([row.get("start") for row in rows], zone)
    if not starts:
        raise ValueError("it has no values")
    spans: list[Span] = []
    for index, (row, start_s) in enumerate(zip(rows, starts, strict=True)):
        where = f"value {index + 1}, {row['start']}"
        next_s = starts[index + 1] if index + 1 < len(starts) else math.inf
        if row.get("end"):
            (end_s,) = _instants([row["end"]], zone, after_s=start_s)
        elif next_s < math.inf:
            end_s = next_s
        elif spans:
            end_s = start_s + spans[-1].end_s - spans[-1].start_s
        else:
            raise ValueError(f"{where}: a single value needs an end")
        if end_s > next_s:
            raise ValueError(f"{where}: it ends after the start of the next")
        spans.append(Span(start_s, end_s, _value(row.get(VALUE), where), "scheduled"))
    return tuple(spans)


def _instants(texts: Sequence[object], zone: tzinfo, after_s: float = -math.inf) -> list[float]:
    """Return times as seconds since the epoch, each after the one before.

    A local time that summer time's end makes twofold is taken for its second where the first is not
    after the time before; one that its beginning leaves out is refused.
    """
    found: list[float] = []
    for text in texts:
        at_s = _instant(text, zone, after_s)
        if at_s <= after_s:
            raise ValueError(f"{text!r:.40} is not after the time before it")
        found.append(at_s)
        after_s = at_s
    return found


def _instant(text: object, zone: tzinfo, after_s: float) -> float:
    try:
        moment = datetime.fromisoformat(str(text))
    except ValueError:
        raise ValueError(f"{text!r:.40} is no time such as 2026-11-22T00:00:00Z") from None
    if moment.year not in YEARS:
        raise ValueError(f"{text!r:.40} is not of a year from {YEARS[0]} to {YEARS[-1]}")
    if moment.tzinfo is not None:
        return moment.timestamp()
    local = moment.replace(tzinfo=zone)
    at_s = local.timestamp()
    if datetime.fromtimestamp(at_s, UTC).astimezone(zone).replace(tzinfo=None) != moment:
        raise ValueError(f"{text!r:.40} does not exist in {zone}: clocks go forward there")
    return local.replace(fold=1).timestamp() if at_s <= after_s else at_s
