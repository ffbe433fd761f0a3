"""Which sources of the pod's part there are here, best first, from settings and the downward API."""

from collections.abc import Mapping, Sequence

from sidecar.meters.pod.source import PodSource
from sidecar.settings import Settings


def pod_sources(settings: Settings, environ: Mapping[str, str]) -> Sequence[PodSource]:
    """Return the sources that may measure this pod; none outside a pod."""
    del settings, environ
    return ()
