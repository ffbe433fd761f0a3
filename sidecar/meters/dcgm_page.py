"""Reads what dcgm-exporter answers: Prometheus text, by far the most of it not for us. Pure.

Names of metrics and labels: NVIDIA DCGM documentation, "DCGM Exporter Metrics", and the exporter's
default-counters.csv. Whoever answers is not trusted: lines, rows and devices are bounded, and a value
that no GPU can have is no value.
"""

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from sidecar.meters.gpu_tally import LARGEST_BOARD_POWER_W
from sidecar.meters.mig import profile_slices

ENERGY: Final = "DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION"
POWER: Final = "DCGM_FI_DEV_POWER_USAGE"
UTILIZATION: Final = "DCGM_FI_DEV_GPU_UTIL"
ENFORCED_LIMIT: Final = "DCGM_FI_DEV_ENFORCED_POWER_LIMIT"
MANAGED_LIMIT: Final = "DCGM_FI_DEV_POWER_MGMT_LIMIT"
ACTIVITY: Final = "DCGM_FI_PROF_GR_ENGINE_ACTIVE"

LINE_BYTES_MAX: Final = 16 * 1024
DEVICES_MAX: Final = 64
INSTANCES_MAX: Final = 16
HOLDERS_MAX: Final = 256
"""Containers that share one device; no device plugin offers that many replicas."""

ENERGY_MJ_MAX: Final = 0x7FFFFFFFFFFFFFF0
"""DCGM_INT64_BLANK of dcgm_fields.h: from here on a value means that there is none."""

_WANTED: Final = frozenset(
    name.encode() for name in (ENERGY, POWER, UTILIZATION, ENFORCED_LIMIT, MANAGED_LIMIT, ACTIVITY)
)
_MOST: Final = {
    ENERGY: float(ENERGY_MJ_MAX),
    POWER: LARGEST_BOARD_POWER_W,
    UTILIZATION: 100.0,
    ENFORCED_LIMIT: LARGEST_BOARD_POWER_W,
    MANAGED_LIMIT: LARGEST_BOARD_POWER_W,
    ACTIVITY: 1.1,  # rounding of the hardware's counters; above 1 it is 1
}
_ROW: Final = re.compile(
    r"(?P<name>[A-Za-z_:][A-Za-z0-9_:]*)[ \t]*\{(?P<labels>.*)\}[ \t]*"
    r"(?P<value>[0-9A-Za-z.+-]+)(?:[ \t]+-?[0-9]+)?[ \t\r]*",
    re.DOTALL,
)
_LABEL: Final = re.compile(
    r'[ \t]*(?P<name>[A-Za-z_][A-Za-z0-9_]*)[ \t]*=[ \t]*"(?P<text>[^"\\]*(?:\\.[^"\\]*)*)"[ \t]*'
    r"(?:,|$)",
    re.DOTALL,
)
_ESCAPE: Final = re.compile(r'\\([\\n"])')
_UUID: Final = re.compile(r"GPU-[0-9A-Za-z-]{1,80}", re.ASCII)
_MODEL_CHARACTERS_MAX: Final = 128


class PageError(Exception):
    """The page cannot be used; the text says why."""


@dataclass(frozen=True, slots=True)
class Row:
    """One sample: metric, labels, and its value as it is written."""

    metric: str
    labels: Mapping[str, str]
    value: str


class Holder(NamedTuple):
    """A container that a device (or one `replica` of it) was given to; an unknown `uid` is empty."""

    namespace: str
    pod: str
    uid: str
    container: str
    replica: str


@dataclass(slots=True)
class InstancePage:
    """One MIG instance: compute slices (None: a profile that is none), activity, and holders."""

    slices: int | None
    activity: float | None = None
    holders: set[Holder] = field(default_factory=set)


@dataclass(slots=True)
class DevicePage:
    """One device: what the page says of it; None = nothing.

    Rows of one metric repeat the board's value for every instance and every holder; the largest
    counts. `crowded`: more holders or instances than are kept.
    """

    uuid: str
    model: str
    energy_mj: int | None = None
    power_w: float | None = None
    enforced_limit_w: float | None = None
    managed_limit_w: float | None = None
    utilization: float | None = None
    holders: set[Holder] = field(default_factory=set)
    instances: dict[str, InstancePage] = field(default_factory=dict)
    crowded: bool = False

    @property
    def all_holders(self) -> Iterator[Holder]:
        """Return the holders of the device and of its instances."""
        yield from self.holders
        for instance in self.instances.values():
            yield from instance.holders

    def take(self, row: Row, number: float) -> None:
        """Take a row whose value is this finite number within bounds."""
        holders = self.holders
        if row.labels.get("GPU_I_PROFILE"):
            instance = self._instance(row.labels)
            if instance is None:
                return
            holders = instance.holders
            if row.metric == ACTIVITY:
                instance.activity = max(instance.activity or 0.0, min(1.0, number))
        holder = _holder(row.labels)
        if holder is not None and len(holders) >= HOLDERS_MAX and holder not in holders:
            self.crowded = True
        elif holder is not None:
            holders.add(holder)
        self._take_value(row, number)

    def _instance(self, labels: Mapping[str, str]) -> InstancePage | None:
        name = labels.get("GPU_I_ID", "")
        if name not in self.instances:
            if len(self.instances) >= INSTANCES_MAX:
                self.crowded = True
                return None
            self.instances[name] = InstancePage(profile_slices(labels["GPU_I_PROFILE"]))
        return self.instances[name]

    def _take_value(self, row: Row, number: float) -> None:
        match row.metric:
            case "DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION":
                exact_mj = int(row.value) if row.value.isdecimal() else int(number)
                self.energy_mj = max(self.energy_mj or 0, exact_mj)
            case "DCGM_FI_DEV_POWER_USAGE":
                self.power_w = max(self.power_w or 0.0, number)
            case "DCGM_FI_DEV_GPU_UTIL":
                self.utilization = max(self.utilization or 0.0, number / 100)
            case "DCGM_FI_DEV_ENFORCED_POWER_LIMIT":
                self.enforced_limit_w = number
            case "DCGM_FI_DEV_POWER_MGMT_LIMIT":
                self.managed_limit_w = number


def read_page(pieces: Iterable[bytes], bytes_max: int) -> dict[str, DevicePage]:
    """Return the devices of a page by UUID, in its order. Raises PageError if it is too long."""
    devices: dict[str, DevicePage] = {}
    for line in _lines(pieces, bytes_max):
        row = parse_row(line)
        if row is None:
            continue
        number, uuid = _number(row), row.labels.get("UUID") or row.labels.get("uuid", "")
        if number is None or not _UUID.fullmatch(uuid):
            continue
        if uuid not in devices:
            if len(devices) >= DEVICES_MAX:
                continue
            devices[uuid] = DevicePage(uuid, _model(row.labels.get("modelName", "")))
        devices[uuid].take(row, number)
    return devices


def parse_row(line: bytes) -> Row | None:
    """Take a line apart (Prometheus, "Exposition formats"); None for what is not wanted or torn.

    Of labels that repeat the last one counts: the exporter writes labels that a pod chose first.
    """
    if line.partition(b"{")[0].strip() not in _WANTED:
        return None
    match = _ROW.fullmatch(line.decode("utf-8", "replace"))
    labels = None if match is None else _labels(match["labels"])
    if match is None or labels is None:
        return None
    return Row(match["name"], labels, match["value"])


def _labels(text: str) -> dict[str, str] | None:
    labels: dict[str, str] = {}
    position = 0
    while position < len(text):
        match = _LABEL.match(text, position)
        if match is None:
            return None
        labels[match["name"]] = _ESCAPE.sub(_unescaped, match["text"])
        position = match.end()
    return labels


def _unescaped(match: re.Match[str]) -> str:
    return "\n" if match[1] == "n" else match[1]


def _lines(pieces: Iterable[bytes], bytes_max: int) -> Iterator[bytes]:
    """Cut into lines; one that is over-long is left out and never kept whole."""
    rest, taken, is_cut = b"", 0, False
    for piece in pieces:
        taken += len(piece)
        if taken > bytes_max:
            raise PageError(f"the page is longer than {bytes_max} bytes")
        *lines, rest = (rest + piece).split(b"\n")
        if lines and is_cut:
            del lines[0]
            is_cut = False
        yield from (line for line in lines if len(line) <= LINE_BYTES_MAX)
        if is_cut or len(rest) > LINE_BYTES_MAX:
            rest, is_cut = b"", True
    if not is_cut:
        yield rest


def _number(row: Row) -> float | None:
    try:
        number = float(row.value)
    except ValueError:
        return None
    usable = math.isfinite(number) and 0 <= number <= _MOST[row.metric]
    return number if usable and (row.metric != ENERGY or number < ENERGY_MJ_MAX) else None


def _holder(labels: Mapping[str, str]) -> Holder | None:
    """Return the pod's container; the names with `_name` are those of `--use-old-namespace`."""
    pod = labels.get("pod") or labels.get("pod_name", "")
    if not pod:
        return None
    return Holder(
        namespace=labels.get("namespace") or labels.get("pod_namespace", ""),
        pod=pod,
        uid=labels.get("pod_uid", ""),
        container=labels.get("container") or labels.get("container_name", ""),
        replica=labels.get("vgpu", ""),
    )


def _model(text: str) -> str:
    usable = 0 < len(text) <= _MODEL_CHARACTERS_MAX and text.isprintable()
    return text if usable else "unknown"
