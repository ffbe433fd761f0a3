"""`emissions-sidecar collector`: the service that takes segments from sidecars."""

import logging
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

from sidecar.cli.extras import require_extra, tls_files
from sidecar.cli.logs import set_up_logs
from sidecar.cli.options import add_settings, command_parser, settings_from
from sidecar.settings import Settings, declared_settings

if TYPE_CHECKING:
    from sidecar.serving import Service

LISTEN: Final = ("0.0.0.0", 8080)  # noqa: S104 - a service of a cluster, reached through its Service
_MODULES: Final = ("kubernetes", "prometheus_client", "pydantic", "starlette", "uvicorn")

_log = logging.getLogger(__name__)


def main(argv: Sequence[str]) -> int:
    """Serve until SIGTERM, finish what is in flight, exit 0."""
    parser = command_parser(
        "collector",
        "Take segments from sidecars over HTTP and commit them to Azure Blob or a directory, and tell "
        "them the carbon intensity over time, until SIGTERM or SIGINT. Callers are pods, known by their "
        "projected tokens.",
        (
            "--blob-account-url https://NAME.blob.core.windows.net",
            "--backend directory --transport-directory /srv/emissions --listen 0.0.0.0:8080",
            "--backend directory --transport-directory /srv/emissions --intensity-source uk",
        ),
    )
    own = ("listen", "log_format", "log_level", "transport_directory")
    declared = declared_settings("blob", "intensity", "collector")
    add_settings(parser, (*own, *(item.name for item in declared)))
    settings = settings_from(parser.parse_args(argv))
    require_extra("collector", "collector", _MODULES)
    set_up_logs(settings)
    service = _service(settings, os.environ)
    service.run()
    _log.info("ended")
    return 0


def _service(settings: Settings, environ: Mapping[str, str]) -> "Service":
    # Loaded late, so that what is missing is told in one line.
    from sidecar.collector.app import Parts, collector_app  # noqa: PLC0415
    from sidecar.collector.backend import open_backend  # noqa: PLC0415
    from sidecar.collector.cluster import open_cluster  # noqa: PLC0415
    from sidecar.collector.handover import open_receipts  # noqa: PLC0415
    from sidecar.collector.intensity import open_intensity  # noqa: PLC0415
    from sidecar.collector.shared_series import open_shared_series  # noqa: PLC0415
    from sidecar.serving import Service, Serving  # noqa: PLC0415

    key_file = settings.handover_key_file
    host, port = settings.listen or LISTEN
    tls = tls_files(settings)
    parts = Parts(
        backend=open_backend(settings, environ),
        cluster=open_cluster(environ),
        audience=settings.audience,
        receipts=open_receipts(key_file) if key_file else None,
        intensity=open_intensity(settings, open_shared_series(settings, environ)),
        node_meter=settings.node_meter_account,
        uploads=settings.uploads,
    )
    return Service(collector_app(parts), Serving(host=host, port=port, tls=tls), parts.readiness)
