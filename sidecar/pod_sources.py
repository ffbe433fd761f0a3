"""Which sources of the pod's part there are here, best first, from settings and the downward API."""

import os
from collections.abc import Mapping, Sequence

from sidecar.kubernetes_http import KubernetesHttp
from sidecar.meters.node_meter_client import NodeMeterClient
from sidecar.meters.pod.cgroup import CgroupSource
from sidecar.meters.pod.kubelet import KubeletSource
from sidecar.meters.pod.metrics_api import MetricsApiSource
from sidecar.meters.pod.node_meter import NodeMeterSource
from sidecar.meters.pod.ourselves import Ourselves
from sidecar.meters.pod.shared_pid import SharedPidSource
from sidecar.meters.pod.source import PodSource
from sidecar.settings import Settings

KUBELET_PORT = 10250


def node_meter_client(settings: Settings, environ: Mapping[str, str]) -> NodeMeterClient | None:
    """Return who is asked at the node meter of this node, where there is one."""
    if settings.node_meter_url is None:
        return None
    node = environ.get("NODE_NAME") or None
    return NodeMeterClient(
        settings.node_meter_url, settings.collector_token_file, settings.collector_ca_file, node
    )


def pod_sources(
    settings: Settings, environ: Mapping[str, str], node_meter: NodeMeterClient | None = None
) -> Sequence[PodSource]:
    """Return the sources that may measure this pod; none outside a pod.

    `environ` is where the downward API says which pod this is (POD_UID, POD_NAME, POD_NAMESPACE) and
    where its node is (HOST_IP).
    """
    pod_uid = environ.get("POD_UID")
    if not pod_uid:
        return ()
    root = settings.cgroup_root or settings.sys_root / "fs" / "cgroup"
    ourselves = Ourselves(settings.proc_root)
    return (
        *(() if node_meter is None else (NodeMeterSource(node_meter, ourselves),)),
        CgroupSource(pod_uid, root, ourselves),
        *_kubelet(settings, environ, pod_uid),
        SharedPidSource(os.getpid(), settings.proc_root),
        *_metrics_api(settings, environ),
    )


def _kubelet(
    settings: Settings, environ: Mapping[str, str], pod_uid: str
) -> tuple[KubeletSource, ...]:
    url = settings.kubelet_url
    if url is None and (host := environ.get("HOST_IP")):
        url = f"https://{f'[{host}]' if ':' in host else host}:{KUBELET_PORT}"
    return () if url is None else (KubeletSource(_kubernetes(url, settings), pod_uid),)


def _metrics_api(settings: Settings, environ: Mapping[str, str]) -> tuple[MetricsApiSource, ...]:
    namespace, pod = environ.get("POD_NAMESPACE"), environ.get("POD_NAME")
    if not namespace or not pod:
        return ()
    return (MetricsApiSource(_kubernetes(settings.kubernetes_url, settings), namespace, pod),)


def _kubernetes(url: str, settings: Settings) -> KubernetesHttp:
    return KubernetesHttp(url, settings.kubernetes_token_file, settings.kubernetes_ca_file)
