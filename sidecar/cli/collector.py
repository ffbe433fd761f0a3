"""`emissions-sidecar collector`: the service that takes segments from sidecars."""

import importlib.util
import logging
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

from sidecar.cli.logs import set_up_logs
from sidecar.cli.options import add_settings, command_parser, settings_from
from sidecar.settings import Settings, SettingsError, declared_settings

if TYPE_CHECKING:
    from sidecar.serving import Service, TlsFiles

LISTEN: Final = ("0.0.0.0", 8080)  # noqa: S104 - a service of a cluster, reached through its Service
_MODULES: Final = ("kubernetes", "prometheus_client", "pydantic", "starlette", "uvicorn")

_log = logging.getLogger(__name__)


def main(argv: Sequence[str]) -> int:
    """Serve until SIGTERM, finish what is in flight, exit 0."""
    parser = command_parser(
        "collector",
        "Take segments from sidecars over HTTP and commit them to Azure Blob or a directory, until "
        "SIGTERM or SIGINT. Callers are pods, known by their projected tokens.",
        (
            "--blob-account-url https://NAME.blob.core.windows.net",
            "--backend directory --transport-directory /srv/emissions --listen 0.0.0.0:8080",
        ),
    )
    own = ("listen", "log_format", "log_level", "transport_directory")
    add_settings(parser, (*own, *(item.name for item in declared_settings("blob", "collector"))))
    settings = settings_from(parser.parse_args(argv))
    _require_modules()
    set_up_logs(settings)
    service = _service(settings, os.environ)
    service.run()
    _log.info("ended")
    return 0


def _require_modules() -> None:
    for module in _MODULES:
        if importlib.util.find_spec(module) is None:
            raise SettingsError(
                f"collector needs {module}; install the extra 'collector', from a clone: "
                "pip install '.[collector]'"
            )


def _service(settings: Settings, environ: Mapping[str, str]) -> "Service":
    # Loaded late, so that what is missing is told in one line.
    from sidecar.collector.app import Parts, collector_app  # noqa: PLC0415
    from sidecar.collector.backend import open_backend  # noqa: PLC0415
    from sidecar.collector.cluster import open_cluster  # noqa: PLC0415
    from sidecar.collector.handover import open_receipts  # noqa: PLC0415
    from sidecar.serving import Service, Serving  # noqa: PLC0415

    key_file = settings.handover_key_file
    host, port = settings.listen or LISTEN
    tls = _tls(settings)
    parts = Parts(
        backend=open_backend(settings, environ),
        cluster=open_cluster(environ),
        audience=settings.audience,
        receipts=open_receipts(key_file) if key_file else None,
        uploads=settings.uploads,
    )
    return Service(collector_app(parts), Serving(host=host, port=port, tls=tls), parts.readiness)


def _tls(settings: Settings) -> "TlsFiles | None":
    from sidecar.serving import TlsFiles  # noqa: PLC0415

    if settings.tls_cert is None and settings.tls_key is None:
        return None
    if settings.tls_cert is None or settings.tls_key is None:
        raise SettingsError("tls_cert and tls_key belong together; give both, or neither")
    return TlsFiles(settings.tls_cert, settings.tls_key)
