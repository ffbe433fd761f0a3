"""`emissions-sidecar report`: add up records per project."""

import argparse
import json
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from sidecar.cli.options import command_parser
from sidecar.settings import SettingsError


def main(argv: Sequence[str]) -> int:
    """Read the records, print totals per project, write them as JSON and CSV."""
    arguments = _parser().parse_args(argv)
    source = _source(arguments.source)
    try:
        from sidecar.cli.tables import print_projects  # noqa: PLC0415 - pydantic and rich load late
        from sidecar.report.aggregate import Selection, aggregate  # noqa: PLC0415
        from sidecar.report.read import ReadReport, read_records  # noqa: PLC0415
        from sidecar.report.write import report_mapping, write_report  # noqa: PLC0415
    except ImportError as error:
        raise SettingsError(
            f"report needs {error.name}; install it with: pip install 'emissions-sidecar[report]'"
        ) from error
    selection = Selection(
        frozenset(arguments.project),
        _moment("--since", arguments.since),
        _moment("--until", arguments.until),
    )
    seen = ReadReport()
    projects = aggregate(read_records(source, seen), selection)
    if arguments.json:
        print(json.dumps(report_mapping(projects, seen), indent=2, ensure_ascii=False))
    else:
        print_projects(projects, seen)
    out = Path(arguments.out) if arguments.out else source / "reports" / "v1"
    try:
        paths = write_report(out, projects, seen)
    except OSError as error:
        print(
            f"emissions-sidecar report: cannot write to {out}: {error.strerror}; "
            "the totals are above, give another directory with --out",
            file=sys.stderr,
        )
        return 1
    if not arguments.json:
        print("written: " + ", ".join(map(str, paths)))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = command_parser(
        "report",
        "Add up the records under SOURCE per project; print the totals and write summary.json and "
        "projects.csv.",
        (
            "./emissions",
            "./emissions --project demo --since 2026-11-01 --json",
            "/mnt/all --out out",
        ),
    )
    parser.add_argument("source", metavar="SOURCE", help="a volume, or a directory of volumes")
    parser.add_argument("--out", metavar="DIR", help="where to write (default SOURCE/reports/v1)")
    parser.add_argument(
        "--project", action="append", default=[], metavar="P", help="only this project; repeatable"
    )
    parser.add_argument("--since", metavar="T", help="only windows from this time on (UTC)")
    parser.add_argument("--until", metavar="T", help="only windows before this time (UTC)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    return parser


def _source(text: str) -> Path:
    if text.startswith("az://"):
        raise SettingsError(f"{text}: this version reads directories; copy the container first")
    source = Path(text)
    if not source.is_dir():
        raise SettingsError(f"{text}: there is no such directory; give the volume of a run")
    return source


def _moment(flag: str, text: str | None) -> str:
    """Normalise a date or time to the format of `window_start`."""
    if text is None:
        return ""
    try:
        moment = datetime.fromisoformat(text)
        moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError):
        raise SettingsError(
            f"flag {flag}: {text!r} is not a date or time; write it like 2026-11-22 or "
            "2026-11-22T08:00:00Z"
        ) from None
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
