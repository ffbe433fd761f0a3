"""`emissions-sidecar when`: the cleanest start in a forecast of carbon intensity."""

import json
import logging
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from sidecar.amounts import amount
from sidecar.carbon.choose import (
    CACHE,
    EVERYWHERE,
    WITHOUT_TIME,
    collected,
    intensity_api,
    intensity_keeper,
    schedule_of,
    zones_of,
)
from sidecar.carbon.cleanest import Choice, Start, cleanest_start, published
from sidecar.carbon.keeper import IntensityKeeper
from sidecar.carbon.series import AHEAD_MAX_S, Series, Timeline, matched
from sidecar.catalogue.lookup import Catalogue
from sidecar.cli.logs import set_up_logs
from sidecar.cli.options import add_settings, command_parser, settings_from
from sidecar.settings import (
    Settings,
    SettingsError,
    declared_settings,
    duration_between,
    number_between,
)

EXIT_NO_FORECAST: Final = 1

HOURS_MAX: Final = 168.0

_OFFERED: Final = (
    "region", "volume", "collector_url", "collector_token_file", "collector_ca_file",
)  # fmt: skip


class _NoForecastError(Exception):
    """There is no forecast, or it does not reach far enough; one line."""


@dataclass(frozen=True, slots=True)
class _Wish:
    """How long it runs, and within which time it has to end; seconds."""

    duration_s: float
    within_s: float


@dataclass(frozen=True, slots=True)
class _Place:
    region: str | None
    zone: str


def main(argv: Sequence[str], clock: Callable[[], float] = time.time) -> int:
    """Name the cleanest start. Exit codes: 0, 1 where no forecast is to be had, 2 for usage."""
    arguments = _parser().parse_args(argv)
    settings = settings_from(arguments)
    set_up_logs(settings, quiet=True)
    logging.getLogger().setLevel(logging.ERROR)  # what fails is told below, in one line
    wish = _wish(arguments.hours, arguments.within)
    place = _place(settings)
    now_s = clock()
    try:
        timeline = _timeline(settings, place, clock)
        choice = _choice(timeline, now_s, wish)
    except _NoForecastError as error:
        print(f"emissions-sidecar when: {error}", file=sys.stderr)
        return EXIT_NO_FORECAST
    row = _row(choice, place, timeline, wish)
    print(json.dumps(row, indent=2, ensure_ascii=False) if arguments.json else _as_text(row))
    return 0


def _parser() -> Any:  # noqa: ANN401 - argparse's
    parser = command_parser(
        "when",
        "Name the cleanest start of a run in the forecast of carbon intensity: the least mean over its "
        "hours, for power that is constant. It asks the collector where one is named, else the service.",
        [
            "--hours 6 --region uksouth --intensity-source uk",
            "--hours 6 --within 24h --intensity-source uk --intensity-zone GB-13",
            "--hours 2.5 --intensity-source schedule --intensity-file schedule.csv --json",
        ],
    )
    parser.add_argument("--hours", required=True, metavar="H", help="how long the run takes")
    parser.add_argument(
        "--within",
        metavar="DURATION",
        help="it has to end within this time, such as 24h (default: as far as the forecast reaches)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    add_settings(parser, (*_OFFERED, *(item.name for item in declared_settings("intensity"))))
    return parser


def _wish(hours: str, within: str | None) -> _Wish:
    try:
        duration_s = number_between(1 / 60, HOURS_MAX, "h")(hours) * 3600
    except ValueError as error:
        raise SettingsError(f"flag --hours: {error}") from error
    if within is None:
        return _Wish(duration_s, float("inf"))
    try:
        return _Wish(duration_s, duration_between(duration_s, 30 * 86400)(within))
    except ValueError as error:
        raise SettingsError(f"flag --within: {error}; it is not shorter than --hours") from error


def _place(settings: Settings) -> _Place:
    """Return the region and its zone. Raises SettingsError."""
    source = settings.intensity_source
    if source == WITHOUT_TIME:
        raise SettingsError(
            "the catalogue has averages of a year, which hold at every hour; choose a source with "
            "--intensity-source or EMISSIONS_INTENSITY_SOURCE"
        )
    catalogue = Catalogue()
    row = catalogue.region(settings.region) if settings.region else None
    if settings.region and row is None:
        near = ", ".join(catalogue.suggest("region", settings.region))
        hint = f"did you mean {near}?" if near else "'catalogue regions' lists all"
        raise SettingsError(f"{settings.region!r} is not in the catalogue of regions; {hint}")
    region = None if row is None else row.name
    zone = zones_of(settings, catalogue)(region)
    if zone is None:
        raise SettingsError(
            f"{source} has no zone for {f'region {region}' if region else 'an unknown region'}; give "
            "--region, or --intensity-zone"
        )
    return _Place(region, zone)


def _timeline(settings: Settings, place: _Place, clock: Callable[[], float]) -> Timeline:
    """Return what is foreseen. Raises _NoForecastError, and SettingsError."""
    if settings.intensity_source == EVERYWHERE and settings.intensity_file is not None:
        return schedule_of(settings)
    asks_collector = settings.collector_url is not None
    api = collected(settings) if asks_collector else intensity_api(settings)
    # Not in a directory that is not there: a question leaves nothing behind.
    directory = settings.volume / CACHE if settings.volume.is_dir() else None
    keeper = intensity_keeper(settings, api, directory, clock)
    return _foreseen(keeper, place.zone, clock())


def _foreseen(keeper: IntensityKeeper, zone: str, now_s: float) -> Series:
    series = keeper.renew(zone, "forecast")
    ahead = series is not None and any(
        span.end_s > now_s for span in (*series.foreseen, *series.known)
    )
    if series is None or not ahead:
        why = keeper.why_not(zone, "forecast") or "it has no values for the time to come"
        raise _NoForecastError(f"no forecast of {keeper.provider} for zone {zone}: {why}")
    present = matched(series, now_s, now_s + 60.0)
    if present is None or present.kind == "carried":
        series = keeper.renew(zone, "observed") or series
    return series


def _choice(timeline: Timeline, now_s: float, wish: _Wish) -> Choice:
    choice = cleanest_start(timeline, now_s, wish.duration_s, now_s + wish.within_s)
    if choice is None:
        foreseen = published(timeline.spans_over(now_s, now_s + AHEAD_MAX_S))
        reach = "there is no value for the time to come"
        if foreseen:
            reach = f"it ends {_time(foreseen[-1].end_s)}"
        hours = amount(wish.duration_s / 3600)
        raise _NoForecastError(
            f"the forecast has no {hours} h without a gap: {reach}; give fewer --hours"
        )
    return choice


def _row(choice: Choice, place: _Place, timeline: Timeline, wish: _Wish) -> dict[str, Any]:
    now, then = choice.earliest.matched, choice.cleanest.matched
    is_other = choice.earliest.start_s != choice.cleanest.start_s  # else it is the same run
    return {
        "region": place.region,
        "zone": place.zone,
        "source": timeline.source,
        "duration_s": wish.duration_s,
        "now": _start_row(choice.earliest),
        "cleanest": _start_row(choice.cleanest),
        "saving_percent": _saving(now.g_per_kwh, then.g_per_kwh),
        "saving_low_percent": _saving(now.low, then.high if is_other else now.low),
        "saving_high_percent": _saving(now.high, then.low if is_other else now.high),
        "foreseen_until": _time(choice.foreseen_until_s),
    }


def _start_row(start: Start) -> dict[str, Any]:
    found = start.matched
    return {
        "start": _time(start.start_s),
        "end": _time(start.end_s),
        "g_per_kwh": found.g_per_kwh,
        "low_g_per_kwh": found.low,
        "high_g_per_kwh": found.high,
        "kind": found.kind,
    }


def _saving(now: float, then: float) -> float | None:
    return None if now <= 0 else 100 * (1 - then / now)


def _time(at_s: float) -> str:
    return datetime.fromtimestamp(at_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _as_text(row: dict[str, Any]) -> str:
    hours = amount(row["duration_s"] / 3600)
    place = f"{row['region']}, zone {row['zone']}" if row["region"] else f"zone {row['zone']}"
    lines = [f"cleanest start for {hours} h ({place})"]
    lines += [_start_line(name, row[name]) for name in ("now", "cleanest")]
    saving, low, high = (row[f"saving_{name}percent"] for name in ("", "low_", "high_"))
    if saving is not None and row["now"] != row["cleanest"]:
        span = f"{low:.0f} to {high:.0f} % where the power is not constant"
        lines.append(f"  {'saves':<10}{saving:.0f} % ({span})")
    if row["now"] == row["cleanest"]:
        lines.append(f"  {'saves':<10}nothing: no later start is cleaner")
    lines.append(f"  {'foreseen':<10}until {row['foreseen_until']}")
    lines.append(f"  {'source':<10}{row['source']}")
    return "\n".join(lines)


def _start_line(name: str, start: dict[str, Any]) -> str:
    values = f"{amount(start['g_per_kwh'])} g/kWh"
    bounds = f"{amount(start['low_g_per_kwh'])} to {amount(start['high_g_per_kwh'])}"
    return f"  {name:<10}{start['start']}  {values} ({bounds}), {start['kind']}"
