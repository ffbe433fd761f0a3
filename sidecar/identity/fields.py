"""`Identity`: everything known of who runs where, and how each field became known."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

AttemptOutcome = Literal["ok", "failed", "pending", "skipped"]


@dataclass(frozen=True, slots=True)
class Attempt:
    """One source that was asked, and what came of it, in words for `detect` and the log."""

    source: str
    outcome: AttemptOutcome
    detail: str


@dataclass(frozen=True, slots=True)
class Sourced:
    """A value and the source that said it, such as `downward-api:POD_NAME`."""

    value: str
    source: str


Findings = Mapping[str, Sourced]
"""What one source says of `Identity`, by field name; what it does not know is absent."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Where and for whom this process meters. None = unknown, never a guess.

    `sources` names for each field that is not None where it came from: `setting`, `imds`,
    `downward-api`, `azureml`, `hardware`, ….
    """

    project: str | None = None
    experiment: str | None = None
    run_id: str | None = None
    cluster: str | None = None
    namespace: str | None = None
    pod: str | None = None
    pod_uid: str | None = None
    workload: str | None = None
    node: str | None = None
    provider: str | None = None
    azure_environment: str | None = None
    vm_size: str | None = None
    vm_id: str | None = None
    region: str | None = None
    zone: str | None = None
    country_iso3: str | None = None
    subscription_id: str | None = None
    resource_group: str | None = None
    vm_scale_set: str | None = None
    priority: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    sources: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Hardware:
    """What the kernel says of this machine; None where it says nothing.

    `cpu_model` is spelled as in `/proc/cpuinfo`; Arm names none there: its core, as lscpu names it.
    """

    cpu_model: str | None = None
    cpu_vendor: str | None = None
    cpu_family: int | None = None
    cpu_model_number: int | None = None
    architecture: str | None = None
    logical_cpus: int | None = None
    threads_per_core: int | None = None
    sockets: int | None = None
    memory_total_gib: float | None = None


@dataclass(frozen=True, slots=True)
class Resolution:
    """The identity as far as it is known; `settled` is False while a source may still answer."""

    identity: Identity
    hardware: Hardware
    attempts: tuple[Attempt, ...]
    settled: bool
