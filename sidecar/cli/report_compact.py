"""`emissions-sidecar report compact`: from records of closed days to Parquet."""

from collections.abc import Sequence
from contextlib import closing
from datetime import UTC, datetime

from sidecar.cli.dataset import add_places, places, require, resources
from sidecar.cli.failures import engine_errors, engine_failure, tell
from sidecar.cli.options import command_parser
from sidecar.cli.progress import steps_shown
from sidecar.report.source import SourceUnreadable


def main(argv: Sequence[str]) -> int:
    """Compact each place; returns the exit code."""
    parser = command_parser(
        "report compact",
        "Turn the records of closed days under SOURCE into Parquet, settled and each once. What was "
        "compacted is verified before its files are removed; kill it whenever you like.",
        ("/mnt/all", "az://emissions --blob-account-url https://NAME.blob.core.windows.net"),
    )
    add_places(parser)
    parser.add_argument(
        "--older-than",
        type=int,
        default=2,
        metavar="DAYS",
        help="days that ended so many days ago or earlier [default 2]",
    )
    arguments = parser.parse_args(argv)
    require(arguments)
    from sidecar.report.compact import compact  # noqa: PLC0415 - the extra may be missing
    from sidecar.report.stores import CompactionStopped, store_of  # noqa: PLC0415

    today = datetime.now(UTC).date()
    try:
        with steps_shown() as show:
            allowed = resources(arguments, show)
            for place in places(arguments):
                with closing(place):
                    done = compact(store_of(place), today, arguments.older_than, allowed)
                    print(f"{place}: {done}")
    except (CompactionStopped, SourceUnreadable) as error:
        return tell(str(error))
    except OSError as error:
        return tell(f"compaction stopped: {error.strerror or error}; nothing that counts is lost")
    except engine_errors() as error:
        return tell(f"compaction stopped: {engine_failure(error, arguments.memory)}")
    return 0
