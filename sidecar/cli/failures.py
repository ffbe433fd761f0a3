"""What ended a report before its end, in one line with what to do; never a traceback."""

import errno
import sys
import tempfile
from typing import Final

EXIT_FAILED: Final = 1


def engine_errors() -> tuple[type[Exception], ...]:
    """Return what the engines raise where memory, disk or Java do not suffice.

    For an `except` clause, which is looked at only then: what is not loaded has raised nothing.
    """
    found: list[type[Exception]] = []
    if "duckdb" in sys.modules:
        import duckdb  # noqa: PLC0415 - the extra may be missing

        found.append(duckdb.Error)
    if "pyspark" in sys.modules:
        from py4j.protocol import Py4JError  # noqa: PLC0415
        from pyspark.errors import PySparkException  # noqa: PLC0415

        found += [PySparkException, Py4JError]
    return tuple(found)


def engine_failure(error: Exception, memory: str) -> str:
    """Say what an engine lacked. `memory` is what `--memory` allows it."""
    said = _first_line(error)
    name = type(error).__name__
    if "JAVA_GATEWAY_EXITED" in said or "Java" in said:
        return f"engine spark did not start: {said}; install Java 17 or newer, or set JAVA_HOME"
    if name == "OutOfMemoryException":
        return f"{memory} of memory do not suffice: {said}; give more with --memory"
    if name == "IOException":
        return (
            f"{said}; temporary files go to {tempfile.gettempdir()}: set TMPDIR where there is room"
        )
    return f"the engine failed: {name}: {said}"


def disk_failure(error: OSError) -> str:
    """Say that temporary files could not be written: sources and output tell their own."""
    where = error.filename or tempfile.gettempdir()
    advice = (
        "set TMPDIR where there is room" if error.errno in _FULL else "set TMPDIR to another one"
    )
    return f"temporary files cannot be written to {where}: {error.strerror or error}; {advice}"


_FULL: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def tell(text: str) -> int:
    """Print one line on standard error; returns the exit code."""
    print(f"emissions-sidecar report: {' '.join(text.split())}", file=sys.stderr)
    return EXIT_FAILED


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(" .") if lines else type(error).__name__
