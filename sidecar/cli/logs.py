"""Log lines on standard error: JSON in a container, text on a terminal."""

import contextlib
import json
import logging
import sys
from collections.abc import Iterator
from datetime import UTC, datetime

from sidecar.settings import Settings, SettingsError


class JsonFormatter(logging.Formatter):
    """One JSON object per line: time (UTC), level, logger, message, and the error if there is one."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        moment = datetime.fromtimestamp(record.created, UTC)
        row = {
            "time": moment.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            row["error"] = self.formatException(record.exc_info)
        return json.dumps(row, ensure_ascii=False)


def set_up_logs(settings: Settings, *, quiet: bool = False) -> None:
    """Send the log of this process to standard error in the chosen format.

    `quiet` commands share standard error with a person or a command: they tell only what is wrong,
    unless another level is set.
    """
    wanted = settings.log_format
    as_json = wanted == "json" or (wanted == "auto" and not sys.stderr.isatty())
    handler = logging.StreamHandler(sys.stderr)
    text = logging.Formatter("emissions-sidecar %(levelname)s: %(message)s")
    handler.setFormatter(JsonFormatter() if as_json else text)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    by_default = settings.origins.get("log_level", "default") == "default"
    root.setLevel("WARNING" if quiet and by_default else settings.log_level.upper())
    # Third parties speak only when something is wrong: urllib3 logs every request otherwise, and the
    # kubernetes client whole bodies, tokens in them.
    quiet_from = {
        "urllib3": "ERROR",  # who retries tells the outcome
        "azure": "WARNING",
        "kubernetes": "WARNING",
        "mlflow": "WARNING",
        "alembic": "WARNING",
        "comet_ml": "WARNING",
        "opentelemetry": "CRITICAL",  # each failure is raised to us, and told once
        "uvicorn": "ERROR",
    }
    for name, level in quiet_from.items():
        logging.getLogger(name).setLevel(level)


class _Holding(logging.Handler):
    """Keeps what is logged; logging.handlers, which has one such, loads pickle and more."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep it."""
        self.records.append(record)


@contextlib.contextmanager
def logs_held() -> Iterator[None]:
    """Hold log lines back until the block ends; none is shown before a setting that is refused."""
    root = logging.getLogger()
    handlers = root.handlers[:]
    held = _Holding()
    root.handlers[:] = [held]
    try:
        yield
    except SettingsError:
        held.records.clear()
        raise
    finally:
        root.handlers[:] = handlers
        for record in held.records:
            root.handle(record)
