"""Choose the trackers that the settings name; their libraries load only where they are opened."""

import importlib.util
import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from sidecar.settings import Settings, SettingsError, origin_of

# ruff: noqa: PLC0415 - what shows a run is loaded only where it is chosen

if TYPE_CHECKING:
    from sidecar.exporters.tracker_feed import Opener, TrackerFeed

_log = logging.getLogger(__name__)

EXTRAS: Final = {
    "mlflow": ("mlflow", "mlflow"),
    "comet": ("comet", "comet_ml"),
    "otlp": ("otel", "opentelemetry.exporter.otlp.proto.http"),
}
"""Name of the tracker; the extra that it needs, and the module that shows whether it is there."""


def tracker_feeds(
    settings: Settings, environ: Mapping[str, str], *, owns_process: bool
) -> "tuple[TrackerFeed, ...]":
    """Return the queues before the trackers that are chosen. Raises SettingsError for a missing extra.

    `owns_process`: this process is ours. In somebody's training a missing extra is told, and no more.
    """
    if not settings.export:
        return ()
    from sidecar.exporters.tracker_feed import TrackerFeed

    feeds = []
    for name in settings.export:
        try:
            _require(name, origin_of("export", settings.origins))
        except SettingsError as error:
            if owns_process:
                raise
            _log.error("%s; the run is not shown there", error)
            continue
        opener = _opener(name, environ, owns_process=owns_process)
        feeds.append(TrackerFeed(name, opener, settings.export_deadline))
    return tuple(feeds)


def _opener(name: str, environ: Mapping[str, str], *, owns_process: bool) -> "Opener":
    if name == "mlflow":
        from sidecar.exporters.mlflow import mlflow_opener as opener
    elif name == "comet":
        from sidecar.exporters.comet import comet_opener as opener
    else:
        from sidecar.exporters.otlp import otlp_opener as opener
    return opener(environ, owns_process=owns_process)


def _require(name: str, origin: str) -> None:
    extra, module = EXTRAS[name]
    try:
        is_there = importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # a package above it is missing
        is_there = False
    if not is_there:
        raise SettingsError(
            f"{origin}: export {name!r} needs {module}; install the extra {extra!r}, from a clone: "
            f"pip install '.[{extra}]'"
        )
