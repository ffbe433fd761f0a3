"""Every `EMISSIONS_*` setting, declared once: name, unit, default, check and help.

The flag, the environment variable, `--help` and the reference page all follow from the fields of
`Settings`: `carbon_intensity` is `--carbon-intensity` and `EMISSIONS_CARBON_INTENSITY`.
Precedence: flag > environment > file > default; `Settings.origins` remembers which one spoke.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields
from pathlib import Path
from typing import Any, Final, Literal
from urllib.parse import urlsplit

from sidecar.near_names import hint, near_names

ENVIRONMENT_PREFIX: Final = "EMISSIONS_"

_SERVICE_LINK = re.compile(
    r"EMISSIONS_\w*?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_(TCP|UDP)(_\w+)?)?)$"
)
"""Kubernetes puts such variables for every Service of the namespace into a pod: not settings."""

_DURATION = re.compile(r"(?P<number>\d+(\.\d+)?)\s*(?P<unit>ms|s|m|h|d|)")
_BYTES = re.compile(r"(?P<number>\d+(\.\d+)?)\s*(?P<unit>Ki|Mi|Gi|Ti|k|M|G|T|)")
_UNIT_BYTES: Final = {
    "": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12,
    "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40,
}  # fmt: skip
_CONTAINER = re.compile(r"(?=.{3,63}$)[a-z0-9](-?[a-z0-9])*")
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


def whole_number_between(low: int, high: int) -> Callable[[str], int]:
    """Make a parser of whole numbers from `low` to `high`, both included."""

    def parse(text: str) -> int:
        word = text.strip()
        if not word.isdecimal() or len(word) > 20 or not low <= int(word) <= high:
            raise ValueError(f"{_shortened(text)} is not a whole number from {low} to {high}")
        return int(word)

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
    value = text.strip()
    if value.lower() == "none":
        return value
    if not value.startswith("http://"):
        raise ValueError(f"{_shown_address(value)} is neither an http:// address nor 'none'")
    return parse_url(value)


def one_of(*choices: str) -> Callable[[str], str]:
    """Make a parser that takes exactly the given words, in any case."""

    def parse(text: str) -> str:
        word = text.strip().lower()
        if word not in choices:
            raise ValueError(f"{_shortened(text)} is not one of: {', '.join(choices)}")
        return word

    return parse


def some_of(*choices: str) -> Callable[[str], tuple[str, ...]]:
    """Make a parser that takes some of the given words, in any case, with commas between them."""

    def parse(text: str) -> tuple[str, ...]:
        words = [word.strip().lower() for word in text.split(",") if word.strip()]
        for word in words:
            if word not in choices:
                raise ValueError(f"{_shortened(word)} is not one of: {', '.join(choices)}")
        if not words:
            raise ValueError(f"{_shortened(text)} names none of: {', '.join(choices)}")
        return tuple(dict.fromkeys(words))

    return parse


def parse_url(text: str) -> str:
    """Address of a service, http:// or https://, without a user, query or fragment."""
    try:
        value = parse_text(text)
        parts = urlsplit(value)
        known = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        known = False
    if not known:
        raise ValueError(
            f"{_shown_address(text.strip())} is neither an http:// nor an https:// address"
        )
    if parts.query or parts.fragment or parts.username is not None:
        raise ValueError(
            f"{_shown_address(value)}: an address without user, query and fragment is "
            "wanted; a SAS is given in EMISSIONS_BLOB_SAS"
        )
    return value.rstrip("/")


def parse_listen(text: str) -> tuple[str, int]:
    """Address to listen on, `HOST:PORT`; an IPv6 host in brackets, port 0 takes a free one."""
    host, _, port = text.strip().rpartition(":")
    if not host or not port.isdecimal() or len(port) > 5 or int(port) > 65535:
        raise ValueError(f"{_shortened(text)} is not HOST:PORT; write it like 0.0.0.0:9877")
    return host.removeprefix("[").removesuffix("]"), int(port)


def parse_bytes(text: str) -> int:
    """Bytes of a size such as `48Mi`, `1G` or plain `65536`."""
    match = _BYTES.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{_shortened(text)} is not a size; write it like 512Ki, 48Mi or 1Gi")
    return int(float(match["number"]) * _UNIT_BYTES[match["unit"]])


def parse_container(text: str) -> str:
    """Name of a blob container, as Azure allows it."""
    name = text.strip()
    if not _CONTAINER.fullmatch(name):
        raise ValueError(
            f"{_shortened(text)} is no container name: 3 to 63 lower-case letters, digits and single "
            "dashes"
        )
    return name


def parse_account(text: str) -> str:
    """Service account as NAMESPACE/NAME, each as Kubernetes allows it."""
    account = text.strip()
    if not re.fullmatch(r"[a-z0-9-]{1,63}/[a-z0-9.-]{1,253}", account, re.ASCII):
        raise ValueError(
            f"{_shortened(text)} is no service account; write it as NAMESPACE/NAME, such as "
            "emissions/node-meter"
        )
    return account


def parse_zone(text: str) -> str:
    """Zone of an electricity grid, such as DE or GB-13, or a location, such as westeurope."""
    zone = text.strip()
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}", zone, re.ASCII):
        raise ValueError(
            f"{_shortened(text)} is no zone: 1 to 64 letters, digits and dashes, such as DE or GB-13"
        )
    return zone


def parse_text(text: str) -> str:
    """Short printable text, as identities and names are."""
    value = text.strip()
    if not value or len(value) > 200 or not value.isprintable():
        raise ValueError(f"{_shortened(text)} must be 1 to 200 printable characters on one line")
    return value


def _shown_address(text: str) -> str:
    """Show an address that is refused, without what may be a secret: user, query and fragment."""
    visible = re.split(r"[?#]", text, maxsplit=1)[0]
    user, _, rest = visible.rpartition("@")
    return _shortened(f"…@{rest}" if user else visible)


def _shortened(text: str) -> str:
    return repr(text) if len(text) <= 60 else f"{text[:40]!r}… ({len(text)} characters)"


Group = Literal["meter", "intensity", "track", "ship", "blob", "collector", "program"]
"""What a setting is about: metering, carbon intensity over time, trackers, shipping, Azure Blob, the
collector service, or the Python API."""


def setting(  # noqa: PLR0913 - one declaration, every word of it named
    parse: Callable[[str], Any],
    description: str,
    *,
    metavar: str,
    default: Any = None,  # noqa: ANN401 - one helper for fields of every type
    group: Group = "meter",
    secret: bool = False,
    in_project_file: bool | None = None,
) -> Any:  # noqa: ANN401
    """Declare one field of `Settings`. A secret has no flag (others could see it) and is never shown.

    `in_project_file`: whether a configuration file that was found in the working directory may set it.
    Such a file may be a stranger's. Unless said otherwise it may set what says neither where data or
    credentials go nor which file holds one.
    """
    if in_project_file is None:
        reaches_out = metavar in ("URL", "FILE", "HOST:PORT")
        in_project_file = group in ("meter", "track") and not reaches_out and not secret
    about = {
        "in_project_file": in_project_file,
        "parse": parse,
        "help": description,
        "metavar": metavar,
        "group": group,
        "secret": secret,
    }
    return field(default=default, metadata=about, repr=not secret)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """All settings, parsed and checked.

    `origins[name]` is `default`, `file NAME`, `environment EMISSIONS_X` or `flag --x`.
    """

    config: str | None = setting(
        parse_text,
        "configuration file (TOML) instead of those that are found; 'none' reads none",
        metavar="FILE",
    )

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
    intensity_source: str = setting(
        one_of("catalogue", "schedule", "electricity-maps", "carbon-aware", "uk"),
        "where carbon intensity comes from: averages of a year (catalogue), a file that says when which "
        "holds (schedule), or a service, hour by hour; with transport collector, that is asked for it",
        metavar="NAME",
        default="catalogue",
        group="intensity",
        in_project_file=True,
    )
    intensity_zone: str | None = setting(
        parse_zone,
        "zone of the grid, or location, that the source is asked about; without it, that of the region",
        metavar="ZONE",
        group="intensity",
        in_project_file=True,
    )
    intensity_file: Path | None = setting(
        parse_path,
        "schedule of carbon intensity, CSV or JSON, in g/kWh",
        metavar="FILE",
        group="intensity",
        in_project_file=True,
    )
    intensity_url: str | None = setting(
        parse_url,
        "address of the service, instead of the public one; carbon-aware has none",
        metavar="URL",
        group="intensity",
    )
    intensity_token_file: Path | None = setting(
        parse_path,
        "file with the token of electricity-maps, read anew each time",
        metavar="FILE",
        group="intensity",
    )
    intensity_refresh: float = setting(
        duration_between(3600, 86400),
        "a service is asked once in this time, 1h to 24h, by the wall clock",
        metavar="DURATION",
        default=3600.0,
        group="intensity",
        in_project_file=True,
    )
    intensity_cache: Path | None = setting(
        parse_path,
        "directory for the last answers, which several processes may share; without it, intensity/ on "
        "the volume; for the collector intensity/v1/ in its container, or none",
        metavar="DIR",
        group="intensity",
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
        one_of(
            "auto", "node-meter", "cgroup", "kubelet", "shared-pid", "metrics-api", "process-tree",
            "requests", "whole-node",
        ),
        "how the pod's part of the node is found: by the best source that answers (auto), or by this "
        "one; where it fails, by the pod's requests, or the whole node where none are told",
        metavar="METHOD",
        default="auto",
    )  # fmt: skip
    node_meter_url: str | None = setting(
        parse_url,
        "the node meter of this node; asked with the collector's token file",
        metavar="URL",
    )
    cgroup_root: Path | None = setting(
        parse_path,
        "where the node's cgroups are mounted; without it, fs/cgroup below sys-root",
        metavar="DIR",
    )
    kubelet_url: str | None = setting(
        parse_url,
        "the node's kubelet; without it, https://HOST_IP:10250 where HOST_IP is told",
        metavar="URL",
    )
    kubernetes_url: str = setting(
        parse_url,
        "the Kubernetes API, asked for metrics.k8s.io",
        metavar="URL",
        default="https://kubernetes.default.svc",
    )
    kubernetes_token_file: Path = setting(
        parse_path,
        "service account token for kubelet and Kubernetes API, read anew when it rotates",
        metavar="FILE",
        default=Path("/var/run/secrets/emissions-api/token"),
    )
    kubernetes_ca_file: Path = setting(
        parse_path,
        "certificates (PEM) that kubelet and Kubernetes API are verified with",
        metavar="FILE",
        default=Path("/var/run/secrets/emissions-api/ca.crt"),
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
        one_of("auto", "node-meter", "dcgm", "nvml", "none"),
        "where GPU energy comes from: the best that answers, else the VM size's table (auto); one "
        "source alone; no GPUs",
        metavar="SOURCE",
        default="auto",
    )
    dcgm_url: str | None = setting(
        parse_url,
        "dcgm-exporter of this node; without it, http://HOST_IP:19400 and :9400 where HOST_IP is told",
        metavar="URL",
    )
    gpu_replicas: int = setting(
        whole_number_between(1, 1000),
        "containers that share each GPU by time-slicing or MPS, as the node's label "
        "nvidia.com/gpu.replicas says",
        metavar="N",
        default=1,
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
    export: tuple[str, ...] = setting(
        some_of("mlflow", "comet", "otlp"),
        "trackers to hand the figures of each window to: mlflow, comet, otlp (OpenTelemetry metrics); "
        "where they are is set as their own clients want it",
        metavar="LIST",
        default=(),
        group="track",
    )
    export_deadline: float = setting(
        duration_between(0, 600),
        "time to hand a tracker's server what is left at the end, 0s to 10m",
        metavar="DURATION",
        default=5.0,
        group="track",
    )
    listen: tuple[str, int] | None = setting(
        parse_listen,
        "serve /healthz, /metrics and /terminating (the end is near: ship at once) on this address",
        metavar="HOST:PORT",
        group="ship",
    )
    transport: str = setting(
        one_of("none", "directory", "blob", "collector"),
        "how records leave the volume: not at all (none), to another directory, to Azure Blob, or to "
        "the collector",
        metavar="NAME",
        default="none",
        group="ship",
    )
    flush_interval: float = setting(
        duration_between(1, 86400),
        "records are shipped this often, 1s to 24h, or when there are 256 KiB of them (15 s windows: "
        "about 17 minutes); at once when the end is near",
        metavar="DURATION",
        default=300.0,
        group="ship",
    )
    ship_deadline: float = setting(
        duration_between(0, 600),
        "time to ship what is left at the end, 0s to 10m; the rest stays on the volume",
        metavar="DURATION",
        default=20.0,
        group="ship",
    )
    volume_share: float = setting(
        number_between(0.001, 1, ""),
        "part of the volume that this process's records may fill, 0.001 to 1",
        metavar="RATIO",
        default=0.5,
        group="ship",
    )
    volume_limit: int | None = setting(
        parse_bytes,
        "bytes of the volume that this process's records may fill, such as 48Mi; below an emptyDir's "
        "sizeLimit, which the volume does not tell",
        metavar="SIZE",
        group="ship",
    )
    termination_log: Path = setting(
        parse_path,
        "file for the totals at the end, written if it is there (Kubernetes makes it)",
        metavar="FILE",
        default=Path("/dev/termination-log"),
        group="ship",
    )
    transport_directory: Path | None = setting(
        parse_path,
        "where transport 'directory' and a collector without Blob put the records",
        metavar="DIR",
        group="ship",
    )
    collector_url: str | None = setting(
        parse_url,
        "the collector: where transport 'collector' sends records, and who is asked for VM size and "
        "region when IMDS is blocked",
        metavar="URL",
        group="ship",
    )
    collector_token_file: Path = setting(
        parse_path,
        "projected service account token for the collector, read anew when it rotates",
        metavar="FILE",
        default=Path("/var/run/secrets/emissions/token"),
        group="ship",
    )
    collector_ca_file: Path | None = setting(
        parse_path,
        "certificates (PEM) to trust for an https:// collector, instead of the well-known ones",
        metavar="FILE",
        group="ship",
    )
    blob_account_url: str | None = setting(
        parse_url,
        "storage account, such as https://NAME.blob.core.windows.net",
        metavar="URL",
        group="blob",
    )
    blob_container: str = setting(
        parse_container,
        "container of the records",
        metavar="NAME",
        default="emissions",
        group="blob",
    )
    blob_connection_string: str | None = setting(
        str.strip,
        "connection string of the storage account; instead of its address",
        metavar="TEXT",
        group="blob",
        secret=True,
    )
    blob_sas: str | None = setting(
        str.strip,
        "shared access signature of the container; create (c) is enough to ship",
        metavar="TEXT",
        group="blob",
        secret=True,
    )
    blob_credential: str = setting(
        one_of("workload-identity", "azure-cli"),
        "identity for the storage account where there is neither connection string nor SAS",
        metavar="NAME",
        default="workload-identity",
        group="blob",
    )
    backend: str = setting(
        one_of("blob", "directory"),
        "where the collector commits segments",
        metavar="NAME",
        default="blob",
        group="collector",
    )
    audience: str = setting(
        parse_text,
        "audience that callers' tokens must have",
        metavar="NAME",
        default="emissions-collector",
        group="collector",
    )
    uploads: int = setting(
        whole_number_between(1, 256),
        "segments stored at the same time, 1 to 256; four times as many may wait, more come again",
        metavar="N",
        default=16,
        group="collector",
    )
    node_meter_account: str | None = setting(
        parse_account,
        "service account of the node meter, NAMESPACE/NAME: who alone may tell what a node used that no "
        "pod did",
        metavar="NAMESPACE/NAME",
        group="collector",
    )
    handover_key_file: Path | None = setting(
        parse_path,
        "key (any 32 bytes or more, the same for all replicas) for receipts that let a pod hand over "
        "what a pod before it left on their volume",
        metavar="FILE",
        group="collector",
    )
    tls_cert: Path | None = setting(
        parse_path,
        "certificate chain (PEM) to serve https, read anew when it changes",
        metavar="FILE",
        group="collector",
    )
    tls_key: Path | None = setting(
        parse_path, "private key (PEM) of the certificate", metavar="FILE", group="collector"
    )
    sidecar_url: str = setting(
        parse_endpoint,
        "the sidecar of this pod, which a Python program marks its phases at instead of metering "
        "itself; 'none' asks nobody",
        metavar="URL",
        default="http://127.0.0.1:9877",
        group="program",
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


def declared_settings(*groups: Group) -> tuple[Field[Any], ...]:
    """Return the fields that are settings, of these groups or all, in the order of `--help`."""
    declared = (item for item in fields(Settings) if "parse" in item.metadata)
    return tuple(item for item in declared if not groups or item.metadata["group"] in groups)


def flag_name(name: str) -> str:
    """Flag of a setting: `vm_size` is `--vm-size`."""
    return "--" + name.replace("_", "-")


def environment_name(name: str) -> str:
    """Environment variable of a setting: `vm_size` is `EMISSIONS_VM_SIZE`."""
    return ENVIRONMENT_PREFIX + name.upper()


def default_text(item: Field[Any]) -> str:
    """Default of a setting as a user would write it; empty where there is none."""
    if item.default in (None, (), MISSING):
        return ""
    if item.metadata["metavar"] == "DURATION":
        return f"{item.default:g}s"
    return str(item.default)


@dataclass(frozen=True, slots=True)
class FileLayer:
    """What one configuration file says: the texts of settings by name; `origin` is `file NAME`."""

    origin: str
    values: Mapping[str, str]


def load_settings(
    flags: Mapping[str, str | None], environ: Mapping[str, str], files: Sequence[FileLayer] = ()
) -> Settings:
    """Parse flags, environment and configuration files into `Settings`.

    `flags` maps setting names to the text given, None where the flag was not given. An empty
    environment variable counts as unset. Of the files the first one that names a setting speaks.
    Raises `SettingsError` with one line that names the flag, variable or file, the value and what
    would be right.
    """
    _refuse_unknown(environ)
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for item in declared_settings():
        found = _given(item.name, flags, environ, files)
        origins[item.name] = "default"
        if found is not None:
            text, origins[item.name] = found
            values[item.name] = _parsed(item, text, origin_of(item.name, origins))
    settings = Settings(**values, origins=origins)
    _refuse_contradictions(settings)
    return settings


def origin_of(name: str, origins: Mapping[str, str]) -> str:
    """Say where a setting was given so that it can be found: of a file, with the key."""
    origin = origins.get(name, "default")
    return f"{origin}, {name}" if origin.startswith("file ") else origin


def _given(
    name: str,
    flags: Mapping[str, str | None],
    environ: Mapping[str, str],
    files: Sequence[FileLayer],
) -> tuple[str, str] | None:
    """Return the text of a setting and who gave it; None for the default."""
    flag = flags.get(name)
    if flag is not None:
        return flag, f"flag {flag_name(name)}"
    variable = environment_name(name)
    if environ.get(variable):
        return environ[variable], f"environment {variable}"
    found = (layer for layer in files if name in layer.values)
    return next(((layer.values[name], layer.origin) for layer in found), None)


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
        near = near_names(name, sorted(known), cutoff=0.75)
        advice = hint(near, "see 'emissions-sidecar run --help'")
        raise SettingsError(f"environment {name}: there is no such setting; {advice}")


def _refuse_contradictions(settings: Settings) -> None:
    if settings.carbon_intensity is not None and settings.energy_mix is not None:
        raise SettingsError(
            "carbon_intensity and energy_mix are both given; keep one, each decides the intensity alone"
        )
    source = settings.intensity_source
    for name in ("carbon_intensity", "energy_mix"):
        if source != "catalogue" and getattr(settings, name) is not None:
            raise SettingsError(
                f"{name} and intensity_source {source} are both given; keep one, each decides the "
                "intensity alone"
            )
    _refuse_what_no_source_reads(settings)


_READERS: Final = {
    "intensity_file": ("schedule",),
    "intensity_url": ("electricity-maps", "carbon-aware", "uk"),
    "intensity_token_file": ("electricity-maps",),
    "intensity_zone": ("electricity-maps", "carbon-aware", "uk"),
}
"""Which sources of carbon intensity read a setting."""


def _refuse_what_no_source_reads(settings: Settings) -> None:
    source, origin = settings.intensity_source, settings.origins.get("intensity_source", "default")
    if source == "catalogue" and origin != "default":
        return  # said on purpose, over what a file or the cluster says
    for name, sources in _READERS.items():
        if getattr(settings, name) is not None and source not in sources:
            raise SettingsError(
                f"{origin_of(name, settings.origins)}: {name} is read by intensity_source "
                f"{' or '.join(sources)} alone, and it is {source}; set --intensity-source or "
                "EMISSIONS_INTENSITY_SOURCE"
            )
