"""Wire the parts of an agent from settings: identity, meters, catalogue.

Whatever is wrong with the settings is told here, before anything is metered.
"""

import contextlib
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from sidecar.agent import Parts
from sidecar.carbon.intensity import IntensityFeed
from sidecar.catalogue.lookup import Catalogue
from sidecar.exporters.trackers import tracker_feeds
from sidecar.factors import choose_carbon_intensity, refuse_unknown_country
from sidecar.gpu_meters import GpuFacts, Purpose, gpu_meter
from sidecar.identity.downward import valid_annotations
from sidecar.identity.resolve import IdentityResolver, ResolverConfig
from sidecar.meters.node import NodeMeter
from sidecar.meters.node_meter_client import NodeMeterClient
from sidecar.meters.pod.ladder import PodLadder
from sidecar.meters.pod.process_tree import ProcessTreeSource
from sidecar.meters.pod.requests import RequestsSource, Reservation
from sidecar.meters.pod.source import PodSource
from sidecar.meters.pod.whole_node import WholeNodeSource
from sidecar.meters.proc import ProcMeter
from sidecar.meters.rapl import RaplMeter
from sidecar.pod_sources import node_meter_client, pod_sources
from sidecar.settings import (
    Settings,
    SettingsError,
    environment_name,
    origin_of,
    parse_interval_s,
)
from sidecar.transport.choose import transport_opener

_log = logging.getLogger(__name__)


def assemble(
    settings: Settings,
    environ: Mapping[str, str],
    purpose: Purpose,
    *,
    owns_process: bool = True,
    tables: Callable[[Path | None], Catalogue] = Catalogue,
) -> Parts:
    """Wire identity, meters and catalogue for these settings. Raises SettingsError.

    `environ` is where the downward API and AzureML speak from, and the GPU selection where the
    setting is silent. `owns_process` is False in a program that is metered from within; `tables` opens
    the catalogue.
    """
    with _blamed(settings, "requests_cpu", "requests_memory", "requests_gpu"):
        reservation = _reservation(settings)
    with _blamed(settings, "vm_sizes_file"):
        catalogue = tables(settings.vm_sizes_file)
    with _blamed(settings, "project", "region"):
        resolver = IdentityResolver(_resolver_config(settings, environ))
    refuse_unknown_country(settings, catalogue)
    opener = transport_opener(settings, environ)
    followers = tracker_feeds(settings, environ, owns_process=owns_process)
    node_meter = node_meter_client(settings, environ)
    ladder = pod_ladder(settings, environ, reservation, purpose, node_meter)
    now = resolver.current()
    settings = _annotated(settings, now.identity.annotations)
    with _blamed(settings, "energy_mix", "carbon_intensity"):
        choose_carbon_intensity(now.identity, settings, catalogue)
    intensity = _intensity(settings, catalogue)
    _warn_of_untold_requests(ladder, reservation)
    return Parts(
        settings=settings,
        identity=resolver,
        meter=NodeMeter(
            ProcMeter(settings.proc_root),
            RaplMeter(settings.sys_root),
            gpu_meter(settings, environ, purpose, GpuFacts(catalogue, reservation, node_meter)),
            ladder,
        ),
        catalogue=catalogue,
        reserved=reservation.of_shared_gpus(settings.gpu_replicas),
        open_transport=opener,
        intensity=intensity,
        followers=followers,
    )


def _intensity(settings: Settings, catalogue: Catalogue) -> IntensityFeed | None:
    """Open the source of carbon intensity over time; loaded only where one is chosen."""
    if settings.intensity_source == "catalogue":
        return None
    from sidecar.carbon.choose import intensity_feed  # noqa: PLC0415

    return intensity_feed(settings, catalogue)


def _annotated(settings: Settings, annotations: Mapping[str, str]) -> Settings:
    """Take the pod's `emissions/interval`, unless a flag speaks; a bad one was warned of.

    The environment of a sidecar is the cluster's default for all pods, the annotation this pod's wish.
    """
    valid, _ = valid_annotations(annotations)
    if "interval" not in valid or settings.origins.get("interval", "default").startswith("flag"):
        return settings
    return replace(
        settings,
        interval=parse_interval_s(valid["interval"]),
        origins={**settings.origins, "interval": "annotation emissions/interval"},
    )


@contextlib.contextmanager
def _blamed(settings: Settings, *names: str) -> Iterator[None]:
    """Turn a ValueError into a SettingsError that says which of these settings were given, and where."""
    try:
        yield
    except ValueError as error:
        given = [origin_of(name, settings.origins) for name in names]
        origins = ", ".join(origin for origin in given if origin != "default")
        raise SettingsError(f"{origins}: {error}" if origins else str(error)) from error


def pod_ladder(
    settings: Settings,
    environ: Mapping[str, str],
    reservation: Reservation,
    purpose: Purpose,
    node_meter: NodeMeterClient | None = None,
) -> PodLadder:
    """Return how the pod's part is found: the sources to try, and the one that always answers.

    `auto`: a command, or a program from within, is metered by its process tree, unless it is a managed
    AzureML job, which has the VM for itself; a sidecar takes the best source that answers, then the
    share of the pod's requests, the whole node where none are told. Raises SettingsError.
    """
    wanted = settings.attribution
    if wanted == "process-tree" and purpose == "run":
        raise SettingsError(
            f"{origin_of('attribution', settings.origins)}: process-tree needs a command of ours: use "
            "'exec', or whole-node or requests"
        )
    if wanted == "process-tree" or (purpose != "run" and wanted == "auto"):
        in_kubernetes = "POD_UID" in environ or "KUBERNETES_SERVICE_HOST" in environ
        managed_job = "AZUREML_RUN_ID" in environ and not in_kubernetes
        if managed_job and wanted == "auto":
            return PodLadder((), WholeNodeSource())
        itself = purpose == "program"
        tree = ProcessTreeSource(os.getpid(), settings.proc_root, include_root=itself)
        return PodLadder((), tree)
    by_requests = wanted == "requests" or (wanted != "whole-node" and reservation.is_known)
    last: PodSource = RequestsSource(reservation) if by_requests else WholeNodeSource()
    measured = pod_sources(settings, environ, node_meter)
    return PodLadder([source for source in measured if wanted in ("auto", source.name)], last)


def _resolver_config(settings: Settings, environ: Mapping[str, str]) -> ResolverConfig:
    chosen = {
        "project": settings.project,
        "experiment": settings.experiment,
        "run_id": settings.run_id,
        "cluster": settings.cluster,
        "region": settings.region,
        "vm_size": settings.vm_size,
        "country_iso3": settings.country,
    }
    return ResolverConfig(
        settings={name: value for name, value in chosen.items() if value is not None},
        environ=environ,
        podinfo_dir=settings.podinfo,
        proc_root=settings.proc_root,
        imds_endpoint=settings.imds_endpoint,
        collector_url=settings.collector_url,
        collector_token_file=settings.collector_token_file,
        collector_ca_file=settings.collector_ca_file,
    )


def _reservation(settings: Settings) -> Reservation:
    return Reservation.from_environment(
        {
            environment_name(name): getattr(settings, name) or ""
            for name in ("requests_cpu", "requests_memory", "requests_gpu")
        }
    )


def _warn_of_untold_requests(ladder: PodLadder, reservation: Reservation) -> None:
    """Warn that a share of an unknown request is unknown, so that the record lacks its energy."""
    told = {
        "requests_cpu": reservation.cpus,
        "requests_memory": reservation.memory_gib,
        "requests_gpu": reservation.gpus,
    }
    missing = [environment_name(name) for name, value in told.items() if value is None]
    *_, last = ladder.rungs()
    method = last.method
    if method == "requests" and not missing and not any(told.values()):
        _log.warning(
            "the pod requests no CPU, memory or GPU: its share of the node is 0; give it requests"
        )
    if method == "requests" and missing:
        _log.warning(
            "%s not given: the pod's share of that energy is unknown and stays null; give 0 where "
            "the pod requests none",
            ", ".join(missing),
        )
