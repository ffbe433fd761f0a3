"""The ordered chain: setting, IMDS, downward API, AzureML, hardware, unknown.

Starting never waits for IMDS: a daemon thread asks it, and `current` tells what is known so far.
Nothing is guessed: a field that no source names stays None.
"""

import logging
import random
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Final

from sidecar.identity.azureml import read_azureml
from sidecar.identity.bounded import normal_region, shown
from sidecar.identity.downward import PODINFO_DIR, PodInfo, read_podinfo, valid_project_name
from sidecar.identity.fields import Attempt, Findings, Identity, Resolution, Sourced
from sidecar.identity.hardware import read_hardware
from sidecar.identity.imds import DEFAULT_ENDPOINT, ImdsClient, ImdsDocument, ImdsError

_log = logging.getLogger(__name__)

MAX_START_DELAY_S: Final = 5.0
"""Many pods of a node start together and share IMDS' 5 requests a second."""

DEFAULT_PROJECT: Final = "default"

_TEXT_FIELDS: Final = tuple(
    item.name for item in fields(Identity) if item.name not in {"labels", "annotations", "sources"}
)
_OF_THE_WORKSPACE: Final = ("region", "azure_environment", "subscription_id", "resource_group")
"""What AzureML's variables say of the workspace, not of the machine that runs the job."""


_CLOSED: Final = Attempt("imds", "failed", "closed before it answered")


@dataclass(frozen=True, slots=True)
class ResolverConfig:
    """Where the resolver looks. `settings` are values chosen by the user, by field of `Identity`.

    `imds_endpoint` None or `none` = IMDS is never asked. Inside a pod the first request waits a
    random time up to `start_delay_s` seconds.
    """

    settings: Mapping[str, str] = field(default_factory=dict)
    environ: Mapping[str, str] = field(default_factory=dict)
    podinfo_dir: Path = PODINFO_DIR
    proc_root: Path = Path("/proc")
    imds_endpoint: str | None = DEFAULT_ENDPOINT
    start_delay_s: float = MAX_START_DELAY_S


class IdentityResolver:
    """Resolves the identity: at once from what is local, and again when IMDS answers.

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
        if self._endpoint is None:
            self._settle(None, Attempt("imds", "skipped", "the endpoint is set to none"))
        else:
            pending = Attempt("imds", "pending", f"{shown(self._endpoint)} has not answered yet")
            self._resolution = self._resolved(None, pending, settled=False)

    def start(self) -> None:
        """Begin to ask IMDS in the background; once only, and not at all if it is set to none."""
        if self._thread is not None or self._settled.is_set():
            return
        self._thread = threading.Thread(target=self._ask_imds, name="imds", daemon=True)
        try:
            self._thread.start()
        except RuntimeError as error:  # no more threads allowed here
            self._settle(None, Attempt("imds", "failed", f"could not be asked: {error}"))

    def current(self) -> Resolution:
        """Return what is known now, without waiting."""
        return self._resolution

    def wait(self, timeout_s: float) -> Resolution:
        """Wait at most `timeout_s` seconds for IMDS, not at all if it is not asked or closed."""
        self._settled.wait(timeout_s)
        return self._resolution

    def close(self) -> None:
        """Stop asking, without waiting for a request under way: its daemon thread ends soon."""
        self._stop.set()
        self._settle(None, _CLOSED)

    def _ask_imds(self) -> None:
        document, attempt = None, _CLOSED
        try:
            if self._stop.wait(self._start_delay_s()):
                return
            attempt = Attempt("imds", "failed", "ended unexpectedly, which is a bug; see the log")
            document = ImdsClient(self._endpoint or "", wait=self._stop.wait).fetch()
            attempt = Attempt("imds", "ok", "; ".join((_described(document), *document.notes)))
        except ImdsError as error:
            attempt = Attempt("imds", "failed", str(error))
        finally:
            self._settle(document, attempt)

    def _start_delay_s(self) -> float:
        if "pod_uid" not in self._pod.findings:
            return 0.0
        return random.uniform(0, self._config.start_delay_s)  # noqa: S311 - to spread, not to hide

    def _settle(self, document: ImdsDocument | None, attempt: Attempt) -> None:
        """Take the last word of IMDS; what comes after the first call is too late."""
        with self._lock:
            if self._settled.is_set():
                return
            self._resolution = self._resolved(document, attempt, settled=True)
            self._settled.set()
        _log.info("imds: %s: %s", attempt.outcome, attempt.detail)

    def _resolved(
        self, document: ImdsDocument | None, imds_attempt: Attempt, *, settled: bool
    ) -> Resolution:
        imds = {} if document is None else imds_findings(document)
        chosen = choose(self._settings, imds, self._pod.findings, self._azureml)
        return Resolution(
            identity=_identity(chosen, self._pod),
            hardware=self._hardware,
            attempts=(
                *_contradictions(self._settings, imds, self._pod.findings),
                imds_attempt,
                *self._pod.attempts,
                *self._azureml_attempts,
                *self._hardware_attempts,
            ),
            settled=settled,
        )


def choose(
    settings: Findings, imds: Findings, downward: Findings, azureml: Findings
) -> dict[str, Sourced]:
    """Choose each field from the first source that names it: pure, the heart of the chain.

    Two deviations: the node's name is Kubernetes' own (IMDS may spell the host differently), and
    the project falls back to the namespace and then to `default`. The provider is Azure if IMDS
    answered, or a VM size of Azure's naming is set, or AzureML says where its machine runs.
    """
    chosen: dict[str, Sourced] = {}
    for name in _TEXT_FIELDS:
        chain = [settings, imds, downward, azureml]
        if name == "node":
            chain = [settings, downward, imds]
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


def _contradictions(settings: Findings, imds: Findings, downward: Findings) -> tuple[Attempt, ...]:
    """Tell where a setting, or IMDS, overrides what a later source says of the same thing."""
    told = []
    for name in ("region", "vm_size"):
        said = [source[name] for source in (settings, imds, downward) if name in source]
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
