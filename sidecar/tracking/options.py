"""CodeCarbon 3.3.2's parameters, in its order: the same here, different, or not offered.

The how-to "migrate from CodeCarbon" shows `RULES`; a test holds both to the signatures of CodeCarbon.
"""

import functools
import logging
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final, Literal, TypedDict

from sidecar.phases import phase_named

# ruff: noqa: PLC0415 - the tables and the settings are loaded where a parameter asks for them

Verdict = Literal["same", "different", "not offered"]

SHORTEST_S: Final = 1.0
LONGEST_S: Final = 3600.0
"""A window is no shorter and no longer, whatever `measure_power_secs` says."""

_log = logging.getLogger(__name__)


class OutputMethod(StrEnum):
    """Where results go, by CodeCarbon's names."""

    CSV = "csv"
    API = "api"
    LOGGER = "logger"
    PROMETHEUS = "prometheus"
    LOGFIRE = "logfire"
    BOAMPS = "boamps"


class TrackerOptions(TypedDict, total=False):
    """The parameters of `EmissionsTracker`, in the order they may be given in without names."""

    project_name: str | None
    measure_power_secs: float | None
    api_call_interval: int | None
    api_endpoint: str | None
    api_key: str | None
    output_dir: str | os.PathLike[str] | None
    output_file: str | None
    output_methods: Iterable[OutputMethod | str] | str | None
    save_to_file: bool | None
    save_to_api: bool | None
    save_to_logger: bool | None
    logging_logger: Any
    save_to_prometheus: bool | None
    save_to_logfire: bool | None
    prometheus_url: str | None
    output_handlers: Iterable[Any] | None
    gpu_ids: Iterable[int | str] | str | None
    emissions_endpoint: str | None
    experiment_id: str | None
    experiment_name: str | None
    electricitymaps_api_token: str | None
    co2_signal_api_token: str | None
    tracking_mode: str | None
    log_level: int | str | None
    on_csv_write: str | None
    logger_preamble: str | None
    force_cpu_power: float | None
    force_ram_power: float | None
    pue: float | None
    wue: float | None
    force_carbon_intensity_g_co2e_kwh: float | None
    force_mode_cpu_load: bool | None
    allow_multiple_runs: bool | None
    rapl_include_dram: bool | None
    rapl_prefer_psys: bool | None
    metadata: dict[str, Any] | str | None


class OfflineOptions(TrackerOptions, total=False):
    """The parameters of `OfflineEmissionsTracker`."""

    country_iso_code: str | None
    region: str | None
    cloud_provider: str | None
    cloud_region: str | None
    country_2letter_iso_code: str | None


class DecoratorOptions(OfflineOptions, total=False):
    """The parameters of `track_emissions`."""

    offline: bool | None


@dataclass(frozen=True, slots=True)
class Rule:
    """What a parameter is here. `note` says how it differs, or what to do instead.

    `setting` is ours that it stands for, `text` spells its value as that setting is written. Values in
    `quiet` ask for nothing that is not offered.
    """

    verdict: Verdict
    note: str = ""
    setting: str | None = None
    text: Callable[[Any], str] = str
    quiet: tuple[object, ...] = (False, "")


def _project(value: object) -> str:
    from sidecar.identity.downward import valid_project_name

    return valid_project_name(str(value))


def _interval(value: Any) -> str:  # noqa: ANN401 - whatever a program gives
    seconds = float(value)
    if not SHORTEST_S <= seconds <= LONGEST_S:
        bounded = min(max(seconds, SHORTEST_S), LONGEST_S)
        _log.warning(
            "measure_power_secs=%r: a window is %g s to 1 h long; %g s is taken",
            value, SHORTEST_S, bounded,
        )  # fmt: skip
        seconds = bounded
    return f"{seconds}s"


def _path(value: Any) -> str:  # noqa: ANN401
    return str(os.fspath(value))


def _gpus(value: Any) -> str:  # noqa: ANN401
    return value if isinstance(value, str) else ",".join(str(one) for one in value)


def _attribution(value: object) -> str:
    modes = {"machine": "whole-node", "process": "process-tree"}
    if value not in modes:
        raise ValueError(f"{value!r} is neither 'machine' nor 'process'")
    return modes[str(value)]


def _country(value: object) -> str:
    from sidecar.catalogue.lookup import Catalogue

    country = Catalogue().country(str(value))
    if country is None:
        near = Catalogue().suggest("country", str(value))
        hint = f"did you mean {', '.join(near)}?" if near else "give its ISO 3166 code, such as NLD"
        raise ValueError(f"{value!r} is no country of the catalogue; {hint}")
    return country.iso3


_API: Final = (
    "CodeCarbon's service is not used: `emissions-sidecar report` makes pages from the records"
)
_PUSHED: Final = (
    "metrics are served, not pushed: run the sidecar with `--listen`, and scrape /metrics"
)
_COUNTERS: Final = "counters are read wherever they are; the model only where there is none"
_LIVE: Final = (
    "no token is taken from the code: set EMISSIONS_INTENSITY_SOURCE=electricity-maps and "
    "EMISSIONS_INTENSITY_TOKEN_FILE"
)

RULES: Final[Mapping[str, Rule]] = {
    "project_name": Rule(
        "same", "without it EMISSIONS_PROJECT, else `default`", "project", _project
    ),
    "measure_power_secs": Rule(
        "different",
        "length of a window, 1 s to 1 h; energy comes from counters and is no finer for shorter ones",
        "interval",
        _interval,
    ),
    "api_call_interval": Rule("not offered", _API, quiet=(8, -1, 0)),
    "api_endpoint": Rule("not offered", _API, quiet=("https://api.codecarbon.io", "")),
    "api_key": Rule("not offered", _API, quiet=("api_key", "")),
    "output_dir": Rule(
        "different",
        "gets `records/` and `summary.json`, too, and is made where it is missing; without it, and "
        "EMISSIONS_VOLUME, `emissions.csv` is in the working directory, the rest in `./emissions`",
        "volume",
        _path,
    ),
    "output_file": Rule("same", "in `output_dir`"),
    "output_methods": Rule(
        "different",
        "`csv` and `logger` are there, for the others see below; without `csv` no file is kept",
    ),
    "save_to_file": Rule("same", "False keeps no file: records neither"),
    "save_to_api": Rule("not offered", _API),
    "save_to_logger": Rule(
        "same", "hands results to `logging_logger` when they are flushed or final"
    ),
    "logging_logger": Rule("same", "its `out` is called at `flush` and `stop`"),
    "save_to_prometheus": Rule("not offered", _PUSHED),
    "save_to_logfire": Rule(
        "not offered", "Logfire takes OpenTelemetry metrics: EMISSIONS_EXPORT=otlp"
    ),
    "prometheus_url": Rule("not offered", _PUSHED, quiet=("localhost:9091", "")),
    "output_handlers": Rule(
        "different",
        "`out` and `task_out` are called at `flush` and `stop`, `exit` at `stop`; `live_out` is not: "
        "EMISSIONS_EXPORT hands each window to MLflow, Comet or OpenTelemetry",
    ),
    "gpu_ids": Rule("same", "indexes or UUIDs", "gpus", _gpus),
    "emissions_endpoint": Rule(
        "not offered", "nothing is posted: EMISSIONS_TRANSPORT ships the records, without loss"
    ),
    "experiment_id": Rule(
        "different", "taken for the experiment where there is no `experiment_name`", "experiment"
    ),
    "experiment_name": Rule("same", "", "experiment"),
    "electricitymaps_api_token": Rule("not offered", _LIVE),
    "co2_signal_api_token": Rule("not offered", _LIVE),
    "tracking_mode": Rule(
        "different",
        "without it `process`: this process and its children, so that two programs on a machine are not "
        "both charged for all of it; in a managed AzureML job, which has its machine alone, `machine`",
        "attribution",
        _attribution,
    ),
    "log_level": Rule("same", "of the logger `sidecar`; it has no handler of its own"),
    "on_csv_write": Rule(
        "not offered",
        "the row of a run is replaced, as with `update`: a run counts once, however often it is flushed",
        quiet=("update",),
    ),
    "logger_preamble": Rule(
        "not offered", "give the logger `sidecar` a handler with the format you want"
    ),
    "force_cpu_power": Rule(
        "different", "constant power of all CPUs in W, not the top of a load curve", "cpu_power"
    ),
    "force_ram_power": Rule("different", "constant power of all memory in W", "ram_power"),
    "pue": Rule(
        "different", "1 to 5; without it that of the Azure region, where it is known", "pue"
    ),
    "wue": Rule(
        "different",
        "litres per kWh of IT energy, before PUE; without it that of the Azure region",
        "wue",
    ),
    "force_carbon_intensity_g_co2e_kwh": Rule("same", "0 to 5000", "carbon_intensity"),
    "force_mode_cpu_load": Rule("not offered", _COUNTERS),
    "allow_multiple_runs": Rule(
        "not offered",
        "several runs are always allowed, and each is charged its own part",
        quiet=(True,),
    ),
    "rapl_include_dram": Rule("not offered", "memory has its own model; RAPL counts the packages"),
    "rapl_prefer_psys": Rule("not offered", _COUNTERS),
    "metadata": Rule("not offered", "`emissions-sidecar report` writes BoAmps from the records"),
    "country_iso_code": Rule(
        "different",
        "offline it decides, as nobody is asked for a region; three or two letters",
        "country",
        _country,
    ),
    "region": Rule(
        "not offered",
        "there is no table of states and provinces: give `force_carbon_intensity_g_co2e_kwh`",
    ),
    "cloud_provider": Rule("different", "`azure` alone", quiet=("azure",)),
    "cloud_region": Rule("different", "of Azure: its grid zone decides, not its country", "region"),
    "country_2letter_iso_code": Rule(
        "different", "taken where there is no `country_iso_code`", "country", _country
    ),
    "offline": Rule("same", "asks nobody: neither IMDS nor a service of carbon intensity"),
}
"""Every parameter of CodeCarbon 3.3.2's trackers and decorators."""

_METHODS: Final = {
    OutputMethod.API: "save_to_api",
    OutputMethod.PROMETHEUS: "save_to_prometheus",
    OutputMethod.LOGFIRE: "save_to_logfire",
    OutputMethod.BOAMPS: "metadata",
}

TRACKER: Final = tuple(TrackerOptions.__annotations__)
OFFLINE: Final = tuple(OfflineOptions.__annotations__)
DECORATOR: Final = (
    *TRACKER[:26], "offline", *OFFLINE[len(TRACKER):], *TRACKER[26:31], *TRACKER[32:35],
)  # fmt: skip
"""The parameters that each takes without names, in CodeCarbon's order."""


def bound(
    caller: str, names: tuple[str, ...], positional: tuple[object, ...], named: Mapping[str, object]
) -> dict[str, Any]:
    """Give values without names their names, and leave None out. Raises TypeError as any call does."""
    if len(positional) > len(names):
        raise TypeError(
            f"{caller}() takes at most {len(names)} arguments, {len(positional)} were given"
        )
    given = dict(zip(names, positional, strict=False))
    for name, value in named.items():
        if name not in names:
            raise TypeError(f"{caller}() got an unexpected keyword argument {name!r}")
        if name in given:
            raise TypeError(f"{caller}() got multiple values for argument {name!r}")
        given[name] = value
    return {name: value for name, value in given.items() if value is not None}


@dataclass(frozen=True, slots=True)
class Plan:
    """What the parameters ask for. `flags` are texts of settings, `csv_name` a name for the CSV.

    `label` is the name of the phase that a tracker is beside a sidecar, or inside another tracker.
    """

    flags: Mapping[str, str] = field(default_factory=dict)
    csv_name: str | None = None
    keeps_files: bool = True
    handlers: tuple[Any, ...] = ()
    label: str = "tracker"
    experiment: str = "base"


def plan_of(options: Mapping[str, Any], *, offline: bool = False) -> Plan:
    """Return what the parameters ask for. Never raises: what is wrong is told, and its default holds."""
    flags = _flags(options)
    if offline or options.get("offline"):
        flags |= {"imds_endpoint": "none", "intensity_source": "catalogue"}
    methods = _methods(options)
    _warn_of_what_is_not_offered(options, methods)
    label = options.get("experiment_name") or options.get("project_name") or "tracker"
    return Plan(
        flags=flags,
        csv_name=_csv_name(options.get("output_file")),
        keeps_files=OutputMethod.CSV in methods,
        handlers=_handlers(options, methods),
        label=phase_named(label) or "tracker",
        experiment=phase_named(options.get("experiment_name", "base")) or "base",
    )


def _flags(options: Mapping[str, Any]) -> dict[str, str]:
    if not options:
        return {}
    from sidecar.settings import declared_settings

    parsers = {item.name: item.metadata["parse"] for item in declared_settings()}
    flags: dict[str, str] = {}
    for name, rule in RULES.items():
        setting, value = rule.setting, options.get(name)
        if setting is None or value is None or (setting in flags and name in _SECOND_CHOICE):
            continue
        try:
            text = rule.text(value)
            parsers[setting](text)
        except Exception as error:  # noqa: BLE001 - whatever a program gives, it runs on
            _log.warning("%s=%.60r: %s; the default holds", name, value, error)
        else:
            flags[setting] = text
    if str(options.get("cloud_provider", "azure")).lower() != "azure":
        flags.pop("region", None)
    return flags


_SECOND_CHOICE: Final = ("country_2letter_iso_code",)


def _methods(options: Mapping[str, Any]) -> set[OutputMethod]:
    asked = options.get("output_methods")
    if asked is None:
        is_kept = options.get("save_to_file") is not False
        methods = {OutputMethod.CSV} if is_kept else set()
        return methods | ({OutputMethod.LOGGER} if options.get("save_to_logger") else set())
    words = asked.split(",") if isinstance(asked, str) else asked
    try:
        names = [str(getattr(word, "value", word)).strip().lower() for word in words]
        return {OutputMethod(name) for name in names if name}
    except (TypeError, ValueError) as error:
        _log.warning("output_methods=%.60r: %s; the default holds", asked, error)
        return {OutputMethod.CSV}


def _warn_of_what_is_not_offered(
    options: Mapping[str, Any], methods: Iterable[OutputMethod]
) -> None:
    for name, value in options.items():
        rule = RULES[name]
        is_foreign = name == "cloud_provider" and str(value).lower() != "azure"
        is_asked = rule.verdict == "not offered" and not _is_quiet(value, rule)
        if is_asked or is_foreign:
            _warn_once(name)
    for method in methods:
        if method in _METHODS:
            _warn_once(_METHODS[method])


def _is_quiet(value: object, rule: Rule) -> bool:
    return any(type(value) is type(one) and value == one for one in rule.quiet)


@functools.cache
def _warn_once(name: str) -> None:
    """Say once in a process that a parameter does nothing here, and what to do."""
    note = RULES[name].note if name != "cloud_provider" else (
        "only regions of Azure are known; give `country_iso_code`, or "
        "`force_carbon_intensity_g_co2e_kwh`"
    )  # fmt: skip
    _log.warning("%s has no effect: %s", name, note)


def set_log_level(level: object) -> None:
    """Set the level of our loggers, where one is given. Never raises."""
    if level is None:
        return
    name = level.upper() if isinstance(level, str) else level
    try:
        logging.getLogger("sidecar").setLevel(name)  # type: ignore[arg-type]  # checked by itself
    except (TypeError, ValueError) as error:
        _log.warning("log_level=%.60r: %s; the default holds", level, error)


def _csv_name(name: object) -> str | None:
    if name is None or (isinstance(name, str) and name.strip()):
        return name
    _log.warning("output_file=%.60r: is no name of a file; the default holds", name)
    return None


def _handlers(options: Mapping[str, Any], methods: Iterable[OutputMethod]) -> tuple[Any, ...]:
    try:
        handlers = tuple(options.get("output_handlers") or ())
    except TypeError as error:
        _log.warning("output_handlers: %s; none is called", error)
        handlers = ()
    logger = options.get("logging_logger")
    if OutputMethod.LOGGER in methods and logger is not None:
        handlers = (*handlers, logger)
    return handlers
