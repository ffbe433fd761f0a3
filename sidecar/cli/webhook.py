"""`emissions-sidecar webhook`: the service that puts the sidecar into pods."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sidecar.cli.extras import require_extra, tls_files
from sidecar.cli.logs import set_up_logs
from sidecar.cli.options import add_settings, command_parser, settings_from
from sidecar.settings import Settings

if TYPE_CHECKING:
    from sidecar.serving import Service

LISTEN: Final = ("0.0.0.0", 9443)  # noqa: S104 - a service of a cluster, reached through its Service
KEEP_ALIVE_S: Final = 120
"""Longer than the API server keeps an idle connection (90 s, Go's default): it ends it, not we."""

CONNECTIONS: Final = 256
REQUESTS: Final = 64
"""Requests at a time whose bodies have not come whole; those of an API server come in one piece.

Anybody in the cluster may connect. A connection takes 0.3 MiB for TLS, one whose body is long and slow
some 1 MiB: together less than the chart's limit, and far more than an API server makes.
"""

_MODULES: Final = ("cryptography", "jsonpatch", "prometheus_client", "starlette", "uvicorn")

_log = logging.getLogger(__name__)


def main(argv: Sequence[str]) -> int:
    """Serve until SIGTERM, finish what is in flight, exit 0."""
    parser = command_parser(
        "webhook",
        "Answer the admission requests of a Kubernetes API server: annotated pods get the sidecar, and "
        "no pod is ever refused. Until SIGTERM or SIGINT.",
        (
            "--config /etc/emissions/injector.json --tls-cert tls.crt --tls-key tls.key",
            "--config injector.json --listen 127.0.0.1:9443",
        ),
    )
    parser.add_argument(
        "--config",
        required=True,
        type=Path,
        metavar="FILE",
        help="container and volumes to inject, JSON, as the Helm chart renders it",
    )
    add_settings(parser, ("listen", "log_format", "log_level", "tls_cert", "tls_key"))
    arguments = parser.parse_args(argv)
    settings = settings_from(arguments)
    require_extra("webhook", "injector", _MODULES)
    set_up_logs(settings)
    service = _service(settings, arguments.config)
    service.run()
    _log.info("ended")
    return 0


def _service(settings: Settings, config: Path) -> "Service":
    # Loaded late, so that what is missing is told in one line.
    from sidecar.injector.certificate import Certificate  # noqa: PLC0415
    from sidecar.injector.config import load_config  # noqa: PLC0415
    from sidecar.injector.metrics import InjectorMetrics  # noqa: PLC0415
    from sidecar.injector.webhook import Parts, webhook_app  # noqa: PLC0415
    from sidecar.serving import Service, Serving  # noqa: PLC0415

    host, port = settings.listen or LISTEN
    tls = tls_files(settings)
    parts = Parts(
        config=load_config(config),
        certificate=Certificate(tls.certificate, tls.key) if tls else None,
        metrics=InjectorMetrics(with_certificate=tls is not None),
    )
    return Service(
        webhook_app(parts),
        Serving(
            host=host,
            port=port,
            tls=tls,
            keep_alive_s=KEEP_ALIVE_S,
            connections=CONNECTIONS,
            requests=REQUESTS,
        ),
        parts.readiness,
    )
