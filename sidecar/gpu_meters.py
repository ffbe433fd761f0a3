"""Which meters of GPUs there are here, best first, and how a GPU's share of this pod is found."""

import functools
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Literal

from sidecar.catalogue.lookup import Catalogue
from sidecar.meters.amd import AmdMeter
from sidecar.meters.dcgm import DcgmMeter, exporter_urls
from sidecar.meters.dcgm_gpu import PodName
from sidecar.meters.gpu_ladder import GpuLadder
from sidecar.meters.gpu_meter import GpuMeter
from sidecar.meters.gpu_scope import ScopedGpus
from sidecar.meters.node_meter_client import NodeMeterClient
from sidecar.meters.node_meter_gpus import NodeMeterGpus
from sidecar.meters.nvml import NvmlMeter
from sidecar.meters.pod.node_meter import NEEDS
from sidecar.meters.pod.requests import Reservation
from sidecar.meters.visible_devices import parse_visible_devices, pod_visible_devices
from sidecar.settings import Settings

Purpose = Literal["run", "exec", "program"]

MODELS_MAX: Final = 64

GPU_NEEDS: Final[Mapping[str, str]] = {
    "node-meter": NEEDS,
    "dcgm": (
        "a dcgm-exporter on the node that pods may reach (port 9400, or 19400 of AKS), or "
        "EMISSIONS_DCGM_URL; nothing of the pod"
    ),
    "nvml": (
        "the NVIDIA driver in the sidecar's container: chart value sidecar.gpu.source=nvml, which shows "
        "it all GPUs of the node, and which hardened nodes refuse"
    ),
    "amd": "amdsmi, /dev/kfd and /dev/dri in the sidecar's container",
    "table": "",
}
"""The ways to meter GPUs, best first, with what each needs of the platform's owner."""
"""A sidecar, a command of ours, or a program that meters itself from within."""


@dataclass(frozen=True, slots=True)
class GpuFacts:
    """What is known of GPUs besides the settings.

    Their idle power, how many the pod requests, and who is asked at the node meter.
    """

    catalogue: Catalogue
    reserved: Reservation
    node_meter: NodeMeterClient | None = None

    def idle_w(self) -> Callable[[str], float | None]:
        """Return a look-up of a model's idle power, which reads the table once for each model.

        It remembers some: the name is from whoever answers for the GPUs.
        """

        @functools.lru_cache(MODELS_MAX)
        def look_up(model: str) -> float | None:
            gpu = self.catalogue.gpu(model)
            return None if gpu is None else gpu.idle.value

        return look_up


def gpu_meter(
    settings: Settings, environ: Mapping[str, str], purpose: Purpose, facts: GpuFacts
) -> GpuMeter:
    """Return the meters that may answer here, as one.

    A command of ours uses the GPUs that CUDA_VISIBLE_DEVICES leaves it. In a pod that is
    NVIDIA_VISIBLE_DEVICES of its other containers, where their processes can be seen.
    """
    inherited = environ.get("CUDA_VISIBLE_DEVICES") if purpose != "run" else None
    selected = parse_visible_devices(inherited if settings.gpus is None else settings.gpus)

    def named_devices() -> str | None:
        if purpose != "run":
            return None
        return pod_visible_devices(settings.proc_root, os.getpid())

    meters: list[GpuMeter] = []
    asked = settings.gpus is None and settings.gpu_source in ("auto", "node-meter")
    if facts.node_meter is not None and asked:
        meters.append(NodeMeterGpus(facts.node_meter))
    if settings.gpus is None and settings.gpu_source in ("auto", "dcgm"):
        meters += _dcgm(settings, environ, facts)
    if settings.gpu_source == "none":
        selected = ()
    if settings.gpu_source in ("auto", "nvml", "none"):
        meters += [
            NvmlMeter(selected=selected, pod_devices=named_devices, lazy=True),
            AmdMeter(selected=selected, lazy=True),
        ]
    requested = facts.reserved.gpus if purpose == "run" else None
    return ScopedGpus(
        GpuLadder(meters), requested, visible_devices=named_devices, replicas=settings.gpu_replicas
    )


def _dcgm(settings: Settings, environ: Mapping[str, str], facts: GpuFacts) -> tuple[DcgmMeter, ...]:
    """Return the meter of the node's dcgm-exporter, where this pod and its node are told.

    A pod that requests no GPU has no part in any: the exporter is spared.
    """
    namespace, name = environ.get("POD_NAMESPACE"), environ.get("POD_NAME")
    host = environ.get("HOST_IP")
    urls = (settings.dcgm_url,) if settings.dcgm_url else exporter_urls(host) if host else ()
    if not urls or not namespace or not name or facts.reserved.gpus == 0:
        return ()
    pod = PodName(namespace, name, environ.get("POD_UID"))
    return (DcgmMeter(urls, pod, idle_w=facts.idle_w(), replicas=settings.gpu_replicas),)
