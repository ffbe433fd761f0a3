"""`emissions-sidecar report serve`: shows a report on this machine."""

from collections.abc import Sequence
from pathlib import Path

from sidecar.cli.failures import tell
from sidecar.cli.options import command_parser
from sidecar.report.source import REPORTS
from sidecar.settings import SettingsError


def main(argv: Sequence[str]) -> int:
    """Serve until Ctrl-C; returns the exit code."""
    parser = command_parser(
        "report serve",
        "Show a report's pages on this machine, until Ctrl-C.",
        ("./emissions/reports/v1", "out --port 8000"),
    )
    parser.add_argument(
        "directory", metavar="DIR", help="where a report was written, or its volume"
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on [127.0.0.1]")
    parser.add_argument("--port", type=int, default=0, help="port; 0 is any free one [0]")
    arguments = parser.parse_args(argv)
    from sidecar.report.serve import NoReportError, serve  # noqa: PLC0415 - only here

    directory = Path(arguments.directory)
    if not (directory / "index.html").is_file() and (directory / REPORTS).is_dir():
        directory /= REPORTS
    try:
        serve(directory, arguments.host, arguments.port)
    except NoReportError as error:
        raise SettingsError(str(error)) from error
    except OverflowError as error:
        raise SettingsError(f"flag --port: {arguments.port} is no port; give 0 to 65535") from error
    except OSError as error:
        return tell(f"cannot serve {directory}: {error.strerror or error}")
    return 0
