"""The ordered chain: setting, IMDS, labels of the node, downward API, AzureML, hardware, unknown.

Starting never waits for IMDS: a daemon thread asks it, and where it fails and there is a collector,
asks that for the labels of the node; `current` tells what is known so far. Nothing is guessed: a
field that no source names stays None.
"""

import logging
import random
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Final

from sidecar.collector_client import CollectorClient
from sidecar.identity.azureml import read_azureml
from sidecar.identity.bounded import normal_region, shown
from sidecar.identity.downward import PODINFO_DIR, PodInfo, read_podinfo, valid_project_name
from sidecar.identity.fields import Attempt, Findings, Identity, Resolution, Sourced
from sidecar.identity.hardware import read_hardware
from sidecar.identity.imds import DEFAULT_ENDPOINT, ImdsClient, ImdsDocument, ImdsError
from sidecar.identity.node_labels import SOURCE as NODE_LABELS
from sidecar.identity.node_labels import NodeLabelsError, NodeLabelsSource

_log = logging.getLogger(__name__)

MAX_START_DELAY_S: Final = 5.0
"""Many pods of a node start together and share IMDS' 5 requests a second."""

DEFAULT_PROJECT: Final = "default"

_TEXT_FIELDS: Final = tuple(
    item.name for item in fields(Identity) if item.name not in {"labels", "annotations", "sources"}
)
_OF_THE_WORKSPACE: Final = ("region", "azure_environment", "subscription_id", "resource_group")
"""What AzureML's variables say of the workspace, not of the machine that runs the job."""

_IMDS: Final = "imds"
_CLOSED: Final = "closed before it answered"
_BUG: Final = "ended unexpectedly, which is a bug; see the log"


@dataclass(frozen=True, slots=True)
class ResolverConfig:
    """Where the resolver looks. `settings` are values chosen by the user, by field of `Identity`.

    `imds_endpoint` None or `none` = IMDS is never asked. Inside a pod the first request waits a
    random time up to `start_delay_s` seconds. Where IMDS is not asked or fails, the collector is,
    if its address and token file are given.
    """

    settings: Mapping[str, str] = field(default_factory=dict)
    environ: Mapping[str, str] = field(default_factory=dict)
    podinfo_dir: Path = PODINFO_DIR
    proc_root: Path = Path("/proc")
    imds_endpoint: str | None = DEFAULT_ENDPOINT
    start_delay_s: float = MAX_START_DELAY_S
    collector_url: str | None = None
    collector_token_file: Path | None = None
    collector_ca_file: Path | None = None


class IdentityResolver:
    """Resolves the identity: at once from what is local, and again when a far source answers.

    The local sources are read once, on construction, which raises `ValueError` for settings that
    are no fields of `Identity` or hold no valid project or region; nothing else ever raises.
    """

    def __init__(self, config: ResolverConfig) -> None:
        self._config = config
        self._settings = _settings(config.settings)
        self._pod = read_podinfo(config.environ, config.podinfo_dir)
        self._azureml, self._azureml_attempts = _azureml(config.environ, self._pod.findings)
        self._hardware, self._hardware_attempts = read_hardware(config.proc_root)
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._settled = threading.Event()
        self._thread: threading.Thread | None = None
        endpoint = (config.imds_endpoint or "none").strip()
        self._endpoint = None if endpoint.lower() == "none" else endpoint
        self._collector = _collector(config)
        self._imds: Findings = {}
        self._labels: Findings = {}
        self._asked = {attempt.source: attempt for attempt in self._first_attempts()}
        self._resolution = self._resolved(settled=False)
        if self._endpoint is None and self._collector is None:
            self._settle(_CLOSED)

    @property
    def config(self) -> ResolverConfig:
        """What it was made from."""
        return self._config

    def start(self) -> None:
        """Begin to ask in the background; once only, and not at all where there is nobody to ask."""
        if self._thread is not None or self._settled.is_set():
            return
        self._thread = threading.Thread(target=self._ask, name="identity", daemon=True)
        try:
            self._thread.start()
        except RuntimeError as error:  # no more threads allowed here
            self._settle(f"could not be asked: {error}")

    def current(self) -> Resolution:
        """Return what is known now, without waiting."""
        return self._resolution

    def wait(self, timeout_s: float) -> Resolution:
        """Wait at most `timeout_s` seconds for IMDS and the collector, not at all if closed."""
        self._settled.wait(timeout_s)
        return self._resolution

    def close(self) -> None:
        """Stop asking, without waiting for a request under way: its daemon thread ends soon."""
        self._stop.set()
        self._settle(_CLOSED)

    def _first_attempts(self) -> tuple[Attempt, ...]:
        imds = Attempt(_IMDS, "skipped", "the endpoint is set to none")
        if self._endpoint is not None:
            detail = f"{shown(self._endpoint)} has not answered yet"
            imds = Attempt(_IMDS, "pending", detail)
        if self._collector is None:
            return (imds,)
        return imds, Attempt(NODE_LABELS, "pending", "the collector has not answered yet")

    def _ask(self) -> None:
        try:
            if self._stop.wait(self._start_delay_s()):
                return
            if self._endpoint is not None:
                self._ask_imds(self._endpoint)
            if self._collector is not None and not self._stop.is_set():
                self._ask_collector(self._collector)
        finally:
            self._settle(_CLOSED if self._stop.is_set() else _BUG)

    def _ask_imds(self, endpoint: str) -> None:
        try:
            document = ImdsClient(endpoint, wait=self._stop.wait).fetch()
        except ImdsError as error:
            self._note(Attempt(_IMDS, "failed", str(error)))
            return
        told = "; ".join((_described(document), *document.notes))
        self._note(Attempt(_IMDS, "ok", told), imds=imds_findings(document))

    def _ask_collector(self, collector: CollectorClient) -> None:
        if self._imds:
            self._note(Attempt(NODE_LABELS, "skipped", "IMDS answered"))
            return
        try:
            labels = NodeLabelsSource(collector, self._stop.wait).fetch(
                lambda why: self._note(Attempt(NODE_LABELS, "pending", why))
            )
        except NodeLabelsError as error:
            self._note(Attempt(NODE_LABELS, "failed", str(error)))
            return
        self._note(Attempt(NODE_LABELS, "ok", str(labels)), labels=labels.findings)

    def _start_delay_s(self) -> float:
        if "pod_uid" not in self._pod.findings:
            return 0.0
        return random.uniform(0, self._config.start_delay_s)  # noqa: S311 - to spread, not to hide

    def _note(
        self, attempt: Attempt, imds: Findings | None = None, labels: Findings | None = None
    ) -> None:
        """Take what a far source says; nothing once it is closed."""
        with self._lock:
            if self._stop.is_set():
                return
            self._asked[attempt.source] = attempt
            self._imds = self._imds if imds is None else imds
            self._labels = self._labels if labels is None else labels
            self._resolution = self._resolved(settled=False)

    def _settle(self, why: str) -> None:
        """Take what is known as the last word; who has not answered failed, and `why`."""
        with self._lock:
            if self._settled.is_set():
                return
            for source, attempt in self._asked.items():
                if attempt.outcome == "pending":
                    self._asked[source] = Attempt(source, "failed", why)
            self._resolution = self._resolved(settled=True)
            self._settled.set()
        for attempt in self._asked.values():
            _log.info("%s: %s: %s", attempt.source, attempt.outcome, attempt.detail)

    def _resolved(self, *, settled: bool) -> Resolution:
        local = self._pod.findings
        chosen = choose(self._settings, self._imds, self._labels, local, self._azureml)
        return Resolution(
            identity=_identity(chosen, self._pod),
            hardware=self._hardware,
            attempts=(
                *_contradictions(self._settings, self._imds, self._labels, local),
                *self._asked.values(),
                *self._pod.attempts,
                *self._azureml_attempts,
                *self._hardware_attempts,
            ),
            settled=settled,
        )


def choose(
    settings: Findings, imds: Findings, labels: Findings, downward: Findings, azureml: Findings
) -> dict[str, Sourced]:
    """Choose each field from the first source that names it: pure, the heart of the chain.

    Two deviations: the node's name is Kubernetes' own (IMDS may spell the host differently), and
    the project falls back to the namespace and then to `default`. The provider is Azure if IMDS
    answered, or a VM size of Azure's naming is set or labelled, or AzureML says where its machine
    runs.
    """
    chosen: dict[str, Sourced] = {}
    for name in _TEXT_FIELDS:
        chain = [settings, imds, labels, downward, azureml]
        if name == "node":
            chain = [settings, downward, labels, imds]
        found = next((source[name] for source in chain if name in source), None)
        if found is not None:
            chosen[name] = found
    if "zone" in chosen and "region" in chosen:
        zone = chosen["zone"]
        bare = zone.value.removeprefix(f"{chosen['region'].value}-")
        chosen["zone"] = replace(zone, value=bare)
    chosen.setdefault("project", chosen.get("namespace", Sourced(DEFAULT_PROJECT, "default")))
    size = chosen.get("vm_size")
    if size is not None and size.value.lower().startswith(("standard_", "basic_")):
        chosen.setdefault("provider", Sourced("azure", size.source))
    if "region" in azureml:
        chosen.setdefault("provider", Sourced("azure", azureml["region"].source))
    return chosen


def imds_findings(document: ImdsDocument) -> Findings:
    """Return the fields of `Identity` that IMDS names."""
    values = {
        "provider": "azure",
        "azure_environment": document.azure_environment,
        "cluster": document.cluster,
        "node": document.computer_name or document.name,
        "vm_size": document.vm_size,
        "vm_id": document.vm_id,
        "region": document.location,
        "zone": document.zone,
        "subscription_id": document.subscription_id,
        "resource_group": document.resource_group_name,
        "vm_scale_set": document.vm_scale_set_name,
        "priority": document.priority,
    }
    return {name: Sourced(value, "imds") for name, value in values.items() if value is not None}


def _collector(config: ResolverConfig) -> CollectorClient | None:
    if config.collector_url is None or config.collector_token_file is None:
        return None
    return CollectorClient(
        config.collector_url, config.collector_token_file, config.collector_ca_file
    )


def _settings(settings: Mapping[str, str]) -> Findings:
    unknown = sorted(set(settings) - set(_TEXT_FIELDS))
    if unknown:
        raise ValueError(f"{', '.join(unknown)}: not among {', '.join(_TEXT_FIELDS)}")
    values = {name: value.strip() for name, value in settings.items() if value.strip()}
    if "project" in values:
        values["project"] = valid_project_name(values["project"])
    if "region" in values:
        values["region"] = normal_region(values["region"])
    if "country_iso3" in values:
        values["country_iso3"] = values["country_iso3"].upper()
    return {name: Sourced(value, "setting") for name, value in values.items()}


def _azureml(
    environ: Mapping[str, str], downward: Findings
) -> tuple[Findings, tuple[Attempt, ...]]:
    """Read AzureML's variables; in a pod, the workspace's place is not the machine's.

    A Kubernetes compute may be in another region than its workspace, or on premises (Arc).
    Its own priority and size are null there, and its cluster is the name of the attachment.
    """
    findings, attempts = read_azureml(environ)
    in_kubernetes = "pod_uid" in downward or "KUBERNETES_SERVICE_HOST" in environ
    if not in_kubernetes or not findings.keys() & set(_OF_THE_WORKSPACE):
        return findings, attempts
    detail = "region and subscription of the workspace are not taken for those of this node"
    kept = {name: found for name, found in findings.items() if name not in _OF_THE_WORKSPACE}
    return kept, (*attempts, Attempt("azureml:workspace", "skipped", detail))


def _identity(chosen: Mapping[str, Sourced], pod: PodInfo) -> Identity:
    sources = {name: found.source for name, found in chosen.items()}
    for name, found in (("labels", pod.labels), ("annotations", pod.annotations)):
        if found:
            sources[name] = f"downward-api:file {name}"
    return Identity(
        **{name: found.value for name, found in chosen.items()},
        labels=dict(pod.labels),
        annotations=dict(pod.annotations),
        sources=sources,
    )


def _contradictions(*sources: Findings) -> tuple[Attempt, ...]:
    """Tell where a setting, or a far source, overrides what a later one says of the same thing."""
    told = []
    for name in ("region", "vm_size"):
        said = [source[name] for source in sources if name in source]
        for other in said[1:]:
            if other.value.lower() != said[0].value.lower():
                detail = (
                    f"{name} {shown(said[0].value)} wins over {shown(other.value)} "
                    f"from {other.source}; check which is right"
                )
                told.append(Attempt(said[0].source, "ok", detail))
    return tuple(told)


def _described(document: ImdsDocument) -> str:
    size, region = document.vm_size or "unknown size", document.location or "unknown region"
    return f"{size} in {region}, {document.priority or 'unknown priority'}"
