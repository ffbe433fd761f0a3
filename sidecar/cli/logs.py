"""Log lines on standard error: JSON in a container, text on a terminal.

Much of what is logged is text of others. Wherever it comes from, it stays on its line, within bounds,
and holds nothing that a terminal would obey.
"""

import contextlib
import json
import logging
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, Final

from sidecar.settings import Settings, SettingsError

CHARACTERS_MAX: Final = 8192
"""Of a message, and of an error; more of it tells no more."""


class JsonFormatter(logging.Formatter):
    """One JSON object per line: time (UTC), level, logger, message, and the error if there is one."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        moment = datetime.fromtimestamp(record.created, UTC)
        row: dict[str, Any] = {
            "time": moment.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": _cut(record.getMessage()),
        }
        if record.exc_info:
            row["error"] = _cut(self.formatException(record.exc_info))
        return _visible(json.dumps(row, ensure_ascii=False))


class TextFormatter(logging.Formatter):
    """One line for a message; only the traceback of an error has more."""

    def __init__(self) -> None:
        super().__init__("emissions-sidecar %(levelname)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the base class calls it so
        """Return the line."""
        return _visible(_cut(super().formatMessage(record)))

    def formatException(self, ei: Any) -> str:  # noqa: ANN401, N802 - as the base class has it
        """Return the traceback."""
        return "\n".join(map(_visible, _cut(super().formatException(ei)).split("\n")))


def formatter_of(log_format: str) -> logging.Formatter:
    """Return who writes lines in this format: json or text."""
    return JsonFormatter() if log_format == "json" else TextFormatter()


def _cut(text: str) -> str:
    return text if len(text) <= CHARACTERS_MAX else f"{text[:CHARACTERS_MAX]}…"


def _visible(text: str) -> str:
    """Escape what is not printable as JSON does: controls, line breaks, overrides of direction."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in text)


def set_up_logs(settings: Settings, *, quiet: bool = False) -> None:
    """Send the log of this process to standard error in the chosen format.

    `quiet` commands share standard error with a person or a command: they tell only what is wrong,
    unless another level is set.
    """
    wanted = settings.log_format
    as_json = wanted == "json" or (wanted == "auto" and not sys.stderr.isatty())
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter_of("json" if as_json else "text"))
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
