"""Every `EMISSIONS_*` setting, declared once: name, unit, default, check and help.

The flag, the environment variable, `--help` and the reference page all follow from the fields of
`Settings`: `carbon_intensity` is `--carbon-intensity` and `EMISSIONS_CARBON_INTENSITY`.
Precedence: flag > environment > default; `Settings.origins` remembers which one spoke.
"""

import difflib
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from pathlib import Path
from typing import Any, Final

ENVIRONMENT_PREFIX: Final = "EMISSIONS_"

_SERVICE_LINK = re.compile(
    r"EMISSIONS_\w*?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_(TCP|UDP)(_\w+)?)?)$"
)
"""Kubernetes puts such variables for every Service of the namespace into a pod: not settings."""

_DURATION = re.compile(r"(?P<number>\d+(\.\d+)?)\s*(?P<unit>ms|s|m|h|d|)")
_SECONDS: Final = {"ms": 0.001, "": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


class SettingsError(ValueError):
    """A setting that is unknown, malformed or out of range: one line for the user, exit code 2."""


def parse_duration_s(text: str) -> float:
    """Seconds of a duration such as `15s`, `1m`, `500ms`, `2h` or plain `15` (seconds)."""
    match = _DURATION.fullmatch(text.strip().lower())
    if match is None:
        raise ValueError(f"{_shortened(text)} is not a duration; write it like 15s, 1m or 2h")
    return float(match["number"]) * _SECONDS[match["unit"]]


def duration_between(low_s: float, high_s: float) -> Callable[[str], float]:
    """Make a parser of durations from `low_s` to `high_s` seconds."""

    def parse(text: str) -> float:
        value_s = parse_duration_s(text)
        if not low_s <= value_s <= high_s:
            raise ValueError(f"{text!r} is outside {low_s:g}s to {high_s:g}s")
        return value_s

    return parse


def parse_interval_s(text: str) -> float:
    """Length of a window in seconds, from 1 s to 1 h."""
    return duration_between(1, 3600)(text)


def number_between(low: float, high: float, unit: str) -> Callable[[str], float]:
    """Make a parser of finite numbers from `low` to `high`, both included."""

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            raise ValueError(f"{_shortened(text)} is not a number ({unit})") from None
        if not math.isfinite(value) or not low <= value <= high:
            raise ValueError(f"{_shortened(text)} is outside {low:g} to {high:g} {unit}".rstrip())
        return value

    return parse


def parse_project(text: str) -> str:
    """Name of a project; what characters it may hold is checked with the identity."""
    if not text.strip():
        raise ValueError("a project name must not be empty")
    return text.strip()


def parse_path(text: str) -> Path:
    """Path of a file or directory; nothing is no path."""
    if not text.strip() or "\0" in text:
        raise ValueError(f"{_shortened(text)} is no path")
    return Path(text)


def parse_endpoint(text: str) -> str:
    """URL of a service, or `none`."""
    value = parse_text(text)
    if value.lower() != "none" and not value.startswith("http://"):
        raise ValueError(f"{_shortened(value)} is neither an http:// address nor 'none'")
    return value


def one_of(*choices: str) -> Callable[[str], str]:
    """Make a parser that takes exactly the given words, in any case."""

    def parse(text: str) -> str:
        word = text.strip().lower()
        if word not in choices:
            raise ValueError(f"{_shortened(text)} is not one of: {', '.join(choices)}")
        return word

    return parse


def parse_transport(text: str) -> str:
    """Name of the transport; only `none` (records stay on the volume) exists in this version."""
    word = one_of("none", "directory", "blob", "collector")(text)
    if word != "none":
        raise ValueError(
            f"transport {word!r} is not available in this version: use 'none', "
            "records stay on the volume"
        )
    return word


def parse_text(text: str) -> str:
    """Short printable text, as identities and names are."""
    value = text.strip()
    if not value or len(value) > 200 or not value.isprintable():
        raise ValueError(f"{_shortened(text)} must be 1 to 200 printable characters on one line")
    return value


def _shortened(text: str) -> str:
    return repr(text) if len(text) <= 60 else f"{text[:40]!r}… ({len(text)} characters)"


def setting(
    parse: Callable[[str], Any],
    description: str,
    *,
    metavar: str,
    default: Any = None,  # noqa: ANN401 - one helper for fields of every type
) -> Any:  # noqa: ANN401
    """Declare one field of `Settings`."""
    return field(
        default=default, metadata={"parse": parse, "help": description, "metavar": metavar}
    )


@dataclass(frozen=True, kw_only=True)
class Settings:
    """All settings, parsed and checked.

    `origins[name]` is `default`, `flag --x` or `environment EMISSIONS_X`.
    """

    volume: Path = setting(
        parse_path,
        "where records, summary and emissions.csv are written",
        metavar="DIR",
        default=Path("emissions"),
    )
    project: str | None = setting(
        parse_project, "what the emissions are charged to", metavar="NAME"
    )
    experiment: str | None = setting(parse_text, "experiment within the project", metavar="NAME")
    run_id: str | None = setting(parse_text, "id of this run (default: a new uuid)", metavar="ID")
    cluster: str | None = setting(parse_text, "name of the cluster", metavar="NAME")
    interval: float = setting(
        parse_interval_s, "length of a window, 1s to 1h", metavar="DURATION", default=15.0
    )
    region: str | None = setting(parse_text, "Azure region, overrides detection", metavar="REGION")
    vm_size: str | None = setting(parse_text, "Azure VM size, overrides detection", metavar="SIZE")
    country: str | None = setting(
        parse_text, "ISO 3166 alpha-3 country, used where the region is unknown", metavar="ISO3"
    )
    pue: float | None = setting(
        number_between(1, 5, ""),
        "power usage effectiveness of the data centre, 1 to 5",
        metavar="RATIO",
    )
    wue: float | None = setting(
        number_between(0, 50, "L/kWh"),
        "water usage effectiveness in litres per kWh of IT energy",
        metavar="L_PER_KWH",
    )
    carbon_intensity: float | None = setting(
        number_between(0, 5000, "g/kWh"),
        "carbon intensity in gCO2e/kWh, instead of the catalogue's",
        metavar="G_PER_KWH",
    )
    energy_mix: str | None = setting(
        parse_text,
        "energy mix to compute the intensity from, such as coal=20,gas=30,wind=50; "
        "'country' takes the country's own",
        metavar="MIX",
    )
    intensity_table: str = setting(
        one_of("electricity-maps", "ember"),
        "primary carbon intensity: zone averages (electricity-maps) or country averages (ember)",
        metavar="TABLE",
        default="electricity-maps",
    )
    power_model: str = setting(
        one_of("vm-share", "codecarbon"),
        "power model where no counter exists: vm-share, or codecarbon to compare with CodeCarbon 3.3.2",
        metavar="MODEL",
        default="vm-share",
    )
    cpu_power: float | None = setting(
        number_between(0, 20000, "W"),
        "constant CPU power of the node in W, instead of the model",
        metavar="W",
    )
    ram_power: float | None = setting(
        number_between(0, 20000, "W"),
        "constant RAM power of the node in W, instead of the model",
        metavar="W",
    )
    attribution: str = setting(
        one_of("auto", "whole-node", "requests", "process-tree"),
        "whose energy is recorded: the whole node, the share of the pod's requests, or the process tree",
        metavar="METHOD",
        default="auto",
    )
    requests_cpu: str | None = setting(
        parse_text,
        "CPU requests of the pod, a Kubernetes quantity such as 500m",
        metavar="QUANTITY",
    )
    requests_memory: str | None = setting(
        parse_text,
        "memory requests of the pod, a Kubernetes quantity such as 16Gi",
        metavar="QUANTITY",
    )
    requests_gpu: str | None = setting(parse_text, "GPUs requested by the pod", metavar="QUANTITY")
    gpu_source: str = setting(
        one_of("auto", "nvml", "none"),
        "where GPU energy comes from: NVML, else the VM size's table (auto); NVML only; no GPUs",
        metavar="SOURCE",
        default="auto",
    )
    gpus: str | None = setting(
        str.strip, "GPUs to meter, as in CUDA_VISIBLE_DEVICES: indexes or UUIDs", metavar="LIST"
    )
    vm_sizes_file: Path | None = setting(
        parse_path,
        "CSV file of VM sizes made by 'catalogue refresh', asked before the shipped table",
        metavar="FILE",
    )
    imds_endpoint: str = setting(
        parse_endpoint,
        "Azure instance metadata service, or 'none' to never ask it",
        metavar="URL",
        default="http://169.254.169.254",
    )
    proc_root: Path = setting(parse_path, "root of procfs", metavar="DIR", default=Path("/proc"))
    sys_root: Path = setting(parse_path, "root of sysfs", metavar="DIR", default=Path("/sys"))
    podinfo: Path = setting(
        parse_path,
        "directory of the downward API volume",
        metavar="DIR",
        default=Path("/etc/podinfo"),
    )
    transport: str = setting(
        parse_transport,
        "how records leave the volume; in this version: none",
        metavar="NAME",
        default="none",
    )
    log_format: str = setting(
        one_of("auto", "json", "text"),
        "log lines as JSON or text (auto: text on a terminal)",
        metavar="FORMAT",
        default="auto",
    )
    log_level: str = setting(
        one_of("debug", "info", "warning", "error"),
        "least severe log line shown",
        metavar="LEVEL",
        default="info",
    )
    origins: Mapping[str, str] = field(default_factory=dict)


def declared_settings() -> tuple[Field[Any], ...]:
    """Return the fields of `Settings` that are settings, in the order of `--help`."""
    return tuple(item for item in fields(Settings) if "parse" in item.metadata)


def flag_name(name: str) -> str:
    """Flag of a setting: `vm_size` is `--vm-size`."""
    return "--" + name.replace("_", "-")


def environment_name(name: str) -> str:
    """Environment variable of a setting: `vm_size` is `EMISSIONS_VM_SIZE`."""
    return ENVIRONMENT_PREFIX + name.upper()


def default_text(item: Field[Any]) -> str:
    """Default of a setting as a user would write it; empty where there is none."""
    if item.default is None or item.default is MISSING:
        return ""
    return f"{item.default:g}s" if isinstance(item.default, float) else str(item.default)


def load_settings(flags: Mapping[str, str | None], environ: Mapping[str, str]) -> Settings:
    """Parse flags and environment into `Settings`.

    `flags` maps setting names to the text given, None where the flag was not given. An empty
    environment variable counts as unset. Raises `SettingsError` with one line that names the flag
    or variable, the value and what would be right.
    """
    _refuse_unknown(environ)
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for item in declared_settings():
        given = flags.get(item.name)
        text, origin = given, f"flag {flag_name(item.name)}"
        if text is None:
            variable = environment_name(item.name)
            text, origin = environ.get(variable) or None, f"environment {variable}"
        origins[item.name] = "default" if text is None else origin
        if text is not None:
            values[item.name] = _parsed(item, text, origin)
    settings = Settings(**values, origins=origins)
    _refuse_contradictions(settings)
    return settings


def _parsed(item: Field[Any], text: str, origin: str) -> object:
    try:
        return item.metadata["parse"](text)
    except ValueError as error:
        raise SettingsError(f"{origin}: {error}") from error


def _refuse_unknown(environ: Mapping[str, str]) -> None:
    known = {environment_name(item.name) for item in declared_settings()}
    for name in sorted(environ):
        if not name.startswith(ENVIRONMENT_PREFIX) or name in known or _SERVICE_LINK.match(name):
            continue
        near = difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.75)
        hint = f"did you mean {near[0]}?" if near else "see 'emissions-sidecar run --help'"
        raise SettingsError(f"environment {name}: there is no such setting; {hint}")


def _refuse_contradictions(settings: Settings) -> None:
    if settings.carbon_intensity is not None and settings.energy_mix is not None:
        raise SettingsError(
            "carbon_intensity and energy_mix are both given; keep one, each decides the intensity alone"
        )
