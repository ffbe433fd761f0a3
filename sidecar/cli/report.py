"""`emissions-sidecar report`: add up records per project."""

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from sidecar.amounts import amount, counted
from sidecar.cli.options import command_parser
from sidecar.cli.source import add_source, source_of
from sidecar.identity.bounded import shown
from sidecar.report.source import REPORTS, DirectorySource, Source, SourceUnreadable
from sidecar.settings import SettingsError

if TYPE_CHECKING:
    from sidecar.report.aggregate import Report
    from sidecar.report.read import ReadReport


def main(argv: Sequence[str]) -> int:
    """Read the records, print totals per project, write them as JSON and CSV."""
    arguments = _parser().parse_args(argv)
    with closing(source_of(arguments)) as source:
        try:
            return _report(source, arguments)
        except SourceUnreadable as error:
            return _tell(str(error))


def _report(source: Source, arguments: argparse.Namespace) -> int:
    # pydantic and rich load late: no other command pays for them.
    from sidecar.report.aggregate import Selection, aggregate  # noqa: PLC0415
    from sidecar.report.read import ReadReport, read_records  # noqa: PLC0415
    from sidecar.report.write import report_mapping  # noqa: PLC0415

    selection = Selection(
        frozenset(arguments.project),
        _moment("--since", arguments.since),
        _moment("--until", arguments.until),
    )
    seen = ReadReport()
    report = aggregate(read_records(source, seen), selection)
    if arguments.json:
        print(json.dumps(report_mapping(report, seen), indent=2, ensure_ascii=False))
    else:
        _print(report, seen)
    if not (report.projects or report.nodes):
        if arguments.allow_empty and not seen.records and not seen.left_out:
            print(f"no records under {source} yet")
            return 0
        return _tell(_nothing(source, seen.records, seen.left_out))
    # A selection does not replace the report of the whole.
    out = Path(arguments.out) if arguments.out else _usual_place(source)
    if out is None:
        said = "not written: give a directory with --out"
    elif arguments.out is None and selection != Selection():
        said = "not written: this is a selection; give a directory with --out"
    else:
        try:
            said = _written(out, report, seen)
        except OSError as error:
            return _tell(
                f"cannot write to {out}: {error.strerror}; "
                "the totals are above, give another directory with --out"
            )
    if not arguments.json:
        print(said)
    return 0


def _print(report: "Report", seen: "ReadReport") -> None:
    from sidecar.cli.tables import print_projects  # noqa: PLC0415

    if report.projects:
        print_projects(report.projects, seen)
    for line in _balance_lines(report):
        print(line)


def _usual_place(source: Source) -> Path | None:
    """Return where the report of a volume is written; of a container it is nowhere, unless told."""
    return source.root / REPORTS if isinstance(source, DirectorySource) else None


def _balance_lines(report: "Report") -> Iterator[str]:
    """Say what was taken off where pods claimed more than their nodes had, and what no pod used."""
    from sidecar.report.balance import NOTEWORTHY, balance_lines  # noqa: PLC0415

    for project in report.projects:
        if project.energy_taken_off_kwh > NOTEWORTHY * (project.energy_kwh or 0.0):
            taken_off = amount(project.energy_taken_off_kwh * 1000)
            yield f"settled: {taken_off} Wh taken off project {shown(project.project)}"
    yield from balance_lines(report.nodes or [])


def _written(out: Path, report: "Report", seen: "ReadReport") -> str:
    from sidecar.report.write import write_report  # noqa: PLC0415

    return "written: " + ", ".join(map(str, write_report(out, report, seen)))


def _tell(text: str) -> int:
    print(f"emissions-sidecar report: {text}", file=sys.stderr)
    return 1


def _nothing(source: Source, records: int, left_out: Mapping[str, int]) -> str:
    """Say why there is nothing to report."""
    if records:
        return f"none of {counted(records, 'record')} under {source} is of the selection"
    reasons = "".join(f"; left out: {count} × {reason}" for reason, count in left_out.items())
    return f"no records under {source}: *.ndjson or *.ndjson.gz are expected at any depth{reasons}"


def _parser() -> argparse.ArgumentParser:
    parser = command_parser(
        "report",
        "Add up the records under SOURCE per project; print the totals and write summary.json and "
        "projects.csv.",
        (
            "./emissions",
            "./emissions --project demo --since 2026-11-01 --json",
            "/mnt/all --out out",
            "az://emissions/records/v1 --blob-account-url https://NAME.blob.core.windows.net --out out",
        ),
    )
    add_source(parser)
    parser.add_argument(
        "--out",
        metavar="DIR",
        help="where to write (default SOURCE/reports/v1; a selection, and what is read from az://, is "
        "written only there)",
    )
    parser.add_argument(
        "--project", action="append", default=[], metavar="P", help="only this project; repeatable"
    )
    parser.add_argument("--since", metavar="T", help="only windows from this time on (UTC)")
    parser.add_argument("--until", metavar="T", help="only windows before this time (UTC)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument(
        "--allow-empty",
        action="store_true",
        help="exit with 0 where there are no record files yet (for a schedule)",
    )
    return parser


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
