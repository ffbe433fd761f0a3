"""CodeCarbon 3.3.2's configuration as settings of ours: same, different, not offered.

CodeCarbon reads `~/.codecarbon.config`, then `./.codecarbon.config` (INI, section `codecarbon`), then
`CODECARBON_*` of the environment, the later over the earlier (its `core/config.py`, release 3.3.2).
Values that may be secrets are neither taken over nor repeated.
"""

import configparser
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from sidecar.settings import declared_settings

SECTION: Final = "codecarbon"
FILE_NAME: Final = ".codecarbon.config"
ENVIRONMENT_PREFIX: Final = "codecarbon_"

LINE_CHARACTERS_MAX: Final = 1000

Verdict = Literal["same", "different", "not offered"]

Keys = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Rule:
    """What becomes of one key. `setting` None: there is no counterpart; `note` says what to know."""

    verdict: Verdict
    setting: str | None
    note: str
    convert: Callable[[str], str] = str.strip


@dataclass(frozen=True, slots=True)
class Outcome:
    """One key of a configuration and what became of it. `text` is the value for our setting, or None."""

    key: str
    verdict: Verdict
    setting: str | None
    text: str | None
    note: str


def _seconds(text: str) -> str:
    return f"{text.strip()}s"


def _tracking_mode(text: str) -> str:
    return {"machine": "whole-node", "process": "process-tree"}[text.strip().lower()]


def _log_level(text: str) -> str:
    level = text.strip().lower()
    return "error" if level == "critical" else level


def _not_offered(note: str) -> Rule:
    return Rule("not offered", None, note)


_API: Final = "CodeCarbon's web service is not used; 'report' makes pages from records"
_METRICS: Final = "metrics are served, not pushed: --listen and /metrics"
_ALWAYS: Final = "records, summary.json and emissions.csv are always written"
_COUNTERS: Final = "counters go first where they are; --cpu-power and --power-model choose a model"

RULES: Final[Mapping[str, Rule]] = {
    "project_name": Rule("same", "project", ""),
    "experiment_name": Rule("same", "experiment", ""),
    "measure_power_secs": Rule(
        "different",
        "interval",
        "length of a window, 1s to 1h; energy comes from counters and is no finer for shorter ones",
        _seconds,
    ),
    "output_dir": Rule(
        "different", "volume", "a directory of records, with emissions.csv and summary.json in it"
    ),
    "country_iso_code": Rule(
        "different", "country", "used where the Azure region is unknown, never over it"
    ),
    "cloud_region": Rule("same", "region", "of Azure"),
    "pue": Rule("different", "pue", "1 to 5; not given, that of the Azure region"),
    "wue": Rule(
        "different",
        "wue",
        "litres per kWh of IT energy, not of IT energy times PUE; not given, that of the Azure region",
    ),
    "force_carbon_intensity_g_co2e_kwh": Rule("same", "carbon_intensity", ""),
    "force_cpu_power": Rule(
        "different",
        "cpu_power",
        "constant power in W; with --power-model codecarbon the TDP of the load curve, as there",
    ),
    "force_ram_power": Rule("different", "ram_power", "constant power in W, PUE not in it"),
    "gpu_ids": Rule("same", "gpus", ""),
    "tracking_mode": Rule(
        "different",
        "attribution",
        "machine is whole-node, process is process-tree (for 'exec'); not given, the best that answers",
        _tracking_mode,
    ),
    "log_level": Rule("different", "log_level", "critical is error", _log_level),
    "cloud_provider": _not_offered("Azure is what is known; the region is taken from cloud_region"),
    "region": _not_offered("a state or province there; here --region is the Azure region"),
    "country_2letter_iso_code": _not_offered("give --country with three letters"),
    "experiment_id": _not_offered(_API),
    "output_file": _not_offered("the file is always called emissions.csv"),
    "output_methods": _not_offered(_ALWAYS),
    "save_to_file": _not_offered(_ALWAYS),
    "on_csv_write": _not_offered("the row of a run is replaced at each window, as with 'update'"),
    "save_to_api": _not_offered(_API),
    "api_call_interval": _not_offered(_API),
    "api_endpoint": _not_offered(_API),
    "api_key": _not_offered(_API),
    "organization_id": _not_offered(_API),
    "project_id": _not_offered(_API),
    "emissions_endpoint": _not_offered("records are shipped with --transport; see 'run --help'"),
    "electricitymaps_api_token": _not_offered(
        "a secret is not taken over; see 'run --help' for the sources of carbon intensity"
    ),
    "co2_signal_api_token": _not_offered(
        "a secret is not taken over; see 'run --help' for the sources of carbon intensity"
    ),
    "save_to_prometheus": _not_offered(_METRICS),
    "prometheus_url": _not_offered(_METRICS),
    "save_to_logfire": _not_offered("Logfire takes OpenTelemetry metrics: --export otlp"),
    "save_to_logger": _not_offered("logs are JSON lines on standard error: --log-format json"),
    "logging_logger": _not_offered("a Python object; not for a file"),
    "logger_preamble": _not_offered("log lines are JSON with a logger's name"),
    "output_handlers": _not_offered("a Python object; not for a file"),
    "metadata": _not_offered("labels and annotations of the pod are recorded"),
    "force_mode_cpu_load": _not_offered(_COUNTERS),
    "allow_multiple_runs": _not_offered("several runs side by side are always allowed"),
    "rapl_include_dram": _not_offered("the RAM model covers memory; RAPL's packages the CPU"),
    "rapl_prefer_psys": _not_offered("RAPL's packages are read, psys is not"),
}
"""Every parameter that CodeCarbon 3.3.2 reads from its configuration, and three of its command line."""

_ELSEWHERE: Final = _not_offered("CodeCarbon 3.3.2 has no such parameter either")


def read_section(text: str) -> Keys:
    """Return the keys of `[codecarbon]`. Raises ValueError with one line for what is no such file."""
    if any(len(line) > LINE_CHARACTERS_MAX for line in text.splitlines()):
        # configparser takes time by the square of the blanks on a line.
        raise ValueError(f"a line of more than {LINE_CHARACTERS_MAX} characters")
    parser = configparser.RawConfigParser()  # an interpolated value could carry a secret along
    try:
        parser.read_string(text)
        return dict(parser[SECTION]) if parser.has_section(SECTION) else {}
    except configparser.Error as error:
        # Its text repeats lines of the file, which may hold keys.
        raise ValueError(f"not a configuration of CodeCarbon: {type(error).__name__}") from None


def environment_keys(environ: Mapping[str, str]) -> Keys:
    """Return what `CODECARBON_*` of an environment says, as CodeCarbon reads it."""
    return {
        name.lower().removeprefix(ENVIRONMENT_PREFIX): text
        for name, text in environ.items()
        if name.lower().startswith(ENVIRONMENT_PREFIX)
    }


def converted(keys: Keys) -> tuple[Outcome, ...]:
    """Say of each key what becomes of it, in the order of the keys."""
    return tuple(_outcome(key, text, keys) for key, text in keys.items())


def _outcome(key: str, text: str, keys: Keys) -> Outcome:
    rule = RULES.get(key, _ELSEWHERE)
    if rule.setting is None:
        return Outcome(key, rule.verdict, None, None, rule.note)
    if key == "cloud_region" and keys.get("cloud_provider", "").strip().lower() != "azure":
        return Outcome(key, "not offered", None, None, "only regions of Azure are known")
    if "%(" in text:
        return Outcome(key, "not offered", rule.setting, None, "it refers to another key")
    try:
        value = rule.convert(text.replace("%%", "%"))
        _declared(rule.setting)["parse"](value)
    except (KeyError, ValueError):
        note = f"its value is none that {rule.setting} takes; set it yourself"
        return Outcome(key, "not offered", rule.setting, None, note)
    return Outcome(key, rule.verdict, rule.setting, value, rule.note)


def _declared(name: str) -> Mapping[str, Any]:
    return next(item.metadata for item in declared_settings() if item.name == name)


def toml_lines(outcomes: Iterable[Outcome]) -> Iterator[str]:
    """Yield the lines of `emissions.toml`, what differs with a comment."""
    for outcome in outcomes:
        if outcome.text is not None:
            if outcome.verdict == "different":
                yield f"# {outcome.key}: {outcome.note}"
            yield f"{outcome.setting} = {_toml_value(outcome.setting or '', outcome.text)}"


def _toml_value(setting: str, text: str) -> str:
    """Spell a number as one, where the setting is one and TOML would read it the same."""
    is_number = isinstance(_declared(setting)["parse"](text), float)
    return text if is_number and re.fullmatch(r"(0|[1-9]\d*)(\.\d+)?", text) else toml_text(text)


def toml_text(text: str) -> str:
    """Spell a text as a basic string of TOML 1.0: JSON's, with DEL escaped too."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
