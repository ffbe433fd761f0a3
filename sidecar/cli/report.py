"""`emissions-sidecar report`: from records to tables and pages per project."""

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sidecar.amounts import amount, counted
from sidecar.cli.extras import require_extra
from sidecar.cli.options import add_settings, command_parser, settings_from
from sidecar.cli.source import CREDENTIALS
from sidecar.identity.bounded import shown
from sidecar.report.source import BLOB_SCHEME, REPORTS, SourceUnreadable
from sidecar.settings import Settings, SettingsError, parse_bytes

if TYPE_CHECKING:
    from sidecar.report.dataset import Resources
    from sidecar.report.figures.inputs import PodWithoutRecords
    from sidecar.report.making import Asked, Made
    from sidecar.report.places import Place

EXIT_FAILED: Final = 1

_MODULES: Final = ("duckdb", "ibis", "jinja2", "pyarrow", "pydantic", "rich")
_KUBERNETES: Final = ("kubernetes_url", "kubernetes_token_file", "kubernetes_ca_file")


def main(argv: Sequence[str]) -> int:
    """Report, or do what its first word says: compact, serve."""
    others = {"compact": _compact, "serve": _serve}
    if argv and argv[0] in others:
        return others[argv[0]](argv[1:])
    arguments = _parser().parse_args(argv)
    try:
        return _report(arguments)
    except SourceUnreadable as error:
        return _tell(str(error))


# -- report ------------------------------------------------------------------------------------------


def _report(arguments: argparse.Namespace) -> int:
    _require(arguments)
    from sidecar.report.making import make_report, with_pods  # noqa: PLC0415

    asked = _asked(arguments)
    with ExitStack() as stack:
        places = [stack.enter_context(closing(place)) for place in _places(arguments)]
        made = make_report(places, asked)
        if arguments.tracked_pods:
            made = with_pods(made, _untold_pods(arguments, made))
    if arguments.json:
        print(json.dumps(made.model, indent=2, ensure_ascii=False))
    else:
        _print(made)
    if made.is_empty:
        return _nothing(arguments, made)
    return _write(arguments, made)


def _asked(arguments: argparse.Namespace) -> "Asked":
    from sidecar.report.aggregate import Selection  # noqa: PLC0415
    from sidecar.report.figures.budget import parse_budgets  # noqa: PLC0415
    from sidecar.report.figures.reconcile import ExportUnreadable, read_export  # noqa: PLC0415
    from sidecar.report.making import Asked  # noqa: PLC0415

    selection = Selection(
        frozenset(arguments.project),
        _moment("--since", arguments.since),
        _moment("--until", arguments.until),
    )
    try:
        budgets = parse_budgets(arguments.budget)
    except ValueError as error:
        raise SettingsError(f"flag --budget: {error}") from error
    try:
        export = read_export(Path(arguments.azure_export)) if arguments.azure_export else None
    except ExportUnreadable as error:
        raise SettingsError(f"flag --azure-export: {error}") from error
    return Asked(
        now=datetime.now(UTC),
        selection=selection,
        engine=arguments.engine,
        budgets=budgets,
        azure=export,
        resources=_resources(arguments),
    )


def _untold_pods(arguments: argparse.Namespace, made: "Made") -> "Sequence[PodWithoutRecords]":
    """Ask Kubernetes for pods that asked to be tracked and have no records; [] where it cannot say."""
    from sidecar.kubernetes_http import KubernetesHttp, KubernetesHttpError  # noqa: PLC0415
    from sidecar.report.tracked_pods import pods_without_records  # noqa: PLC0415

    settings = settings_from(arguments)
    api = KubernetesHttp(
        settings.kubernetes_url, settings.kubernetes_token_file, settings.kubernetes_ca_file
    )
    try:
        return pods_without_records(api, made.pods)
    except KubernetesHttpError as error:
        raise SourceUnreadable(f"pods that asked to be tracked: {error}") from error


def _write(arguments: argparse.Namespace, made: "Made") -> int:
    from sidecar.report.aggregate import Selection  # noqa: PLC0415

    if (arguments.out or "").startswith(BLOB_SCHEME):
        return _upload(arguments, made)
    out = Path(arguments.out) if arguments.out else _usual_place(arguments)
    if out is None:
        said = "not written: give a directory with --out"
    elif arguments.out is None and made.inputs.selection != Selection():
        # A selection does not replace the report of the whole.
        said = "not written: this is a selection; give a directory with --out"
    else:
        try:
            written = made.write(out)
        except OSError as error:
            return _tell(
                f"cannot write to {out}: {error.strerror}; "
                "the totals are above, give another directory with --out"
            )
        said = f"written: {counted(len(written), 'file')} in {out}; open {out / 'index.html'}"
    if not arguments.json:
        print(said)
    return 0


def _upload(arguments: argparse.Namespace, made: "Made") -> int:
    from sidecar.report.blob_place import BlobPlace  # noqa: PLC0415
    from sidecar.report.places import open_place  # noqa: PLC0415
    from sidecar.report.upload import upload_report  # noqa: PLC0415

    with (
        closing(open_place(arguments.out, settings_from(arguments), os.environ)) as place,
        tempfile.TemporaryDirectory(prefix="emissions-report-") as directory,
    ):
        if not isinstance(place, BlobPlace):
            raise TypeError(f"{arguments.out} is no container")
        made.write(Path(directory))
        count = upload_report(place.container, place.folder, Path(directory))
    if not arguments.json:
        print(f"written: {counted(count, 'file')} to {arguments.out}")
    return 0


def _print(made: "Made") -> None:
    from sidecar.cli.tables import print_report  # noqa: PLC0415

    print_report(made.model)
    for line in _balance_lines(made):
        print(line)


def _balance_lines(made: "Made") -> Iterator[str]:
    """Say what was taken off where pods claimed more than their nodes had, and what no pod used."""
    from sidecar.report.balance import NOTEWORTHY, balance_lines  # noqa: PLC0415

    for project in made.model["projects"]:
        taken_off_kwh = project["energy_taken_off_kwh"]
        if taken_off_kwh > NOTEWORTHY * (project["energy_kwh"] or 0.0):
            name = shown(project["project"])
            yield f"settled: {amount(taken_off_kwh * 1000)} Wh taken off project {name}"
    yield from balance_lines(made.inputs.nodes or [])


def _usual_place(arguments: argparse.Namespace) -> Path | None:
    """Return where the report of a volume is written; of a container it is nowhere, unless told."""
    first: str = arguments.source[0]
    if len(arguments.source) > 1 or first.startswith(BLOB_SCHEME):
        return None
    return Path(first) / REPORTS


def _nothing(arguments: argparse.Namespace, made: "Made") -> int:
    """Say why there is nothing to report."""
    read = made.inputs.read
    where = ", ".join(arguments.source)
    if arguments.allow_empty and not read.records and not read.left_out:
        print(f"no records under {where} yet")
        return 0
    if read.records:
        return _tell(f"none of {counted(read.records, 'record')} under {where} is of the selection")
    reasons = "".join(f"; left out: {count} × {why}" for why, count in read.left_out.items())
    return _tell(
        f"no records under {where}: *.ndjson or *.ndjson.gz are expected at any depth{reasons}"
    )


# -- compact, serve ------------------------------------------------------------------------------------


def _compact(argv: Sequence[str]) -> int:
    parser = command_parser(
        "report compact",
        "Turn the records of closed days under SOURCE into Parquet, settled and each once. What was "
        "compacted is verified before its files are removed; kill it whenever you like.",
        ("/mnt/all", "az://emissions --blob-account-url https://NAME.blob.core.windows.net"),
    )
    _add_places(parser)
    parser.add_argument(
        "--older-than",
        type=int,
        default=2,
        metavar="DAYS",
        help="days that ended so many days ago or earlier [default 2]",
    )
    arguments = parser.parse_args(argv)
    _require(arguments)
    from sidecar.report.compact import compact  # noqa: PLC0415
    from sidecar.report.stores import CompactionStopped, store_of  # noqa: PLC0415

    today = datetime.now(UTC).date()
    try:
        for place in _places(arguments):
            with closing(place):
                done = compact(store_of(place), today, arguments.older_than, _resources(arguments))
                print(f"{place}: {done}")
    except (CompactionStopped, SourceUnreadable) as error:
        return _tell(str(error))
    except OSError as error:
        return _tell(f"compaction stopped: {error.strerror or error}; nothing that counts is lost")
    return 0


def _serve(argv: Sequence[str]) -> int:
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
    from sidecar.report.serve import NoReportError, serve  # noqa: PLC0415

    directory = Path(arguments.directory)
    if not (directory / "index.html").is_file() and (directory / REPORTS).is_dir():
        directory /= REPORTS
    try:
        serve(directory, arguments.host, arguments.port)
    except NoReportError as error:
        raise SettingsError(str(error)) from error
    except OSError as error:
        return _tell(f"cannot serve {directory}: {error.strerror or error}")
    return 0


# -- arguments -----------------------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    parser = command_parser(
        "report",
        "Add up the records under SOURCE; print totals per project, and write tables, summary.json and "
        "pages. 'report compact' and 'report serve' are commands of their own.",
        (
            "./emissions",
            "./emissions --project demo --since 2026-11-01 --json",
            "/mnt/all --out out --budget demo=250kg",
            "az://emissions --blob-account-url https://NAME.blob.core.windows.net --out out",
        ),
    )
    _add_places(parser)
    parser.add_argument(
        "--out",
        metavar="DIR",
        help="where to write, a directory or az://CONTAINER/PREFIX (default SOURCE/reports/v1; a "
        "selection, and what is read from az://, is written only there)",
    )
    parser.add_argument(
        "--project", action="append", default=[], metavar="P", help="only this project; repeatable"
    )
    parser.add_argument("--since", metavar="T", help="only windows from this time on (UTC)")
    parser.add_argument("--until", metavar="T", help="only windows before this time (UTC)")
    parser.add_argument(
        "--budget",
        action="append",
        default=[],
        metavar="PROJECT=AMOUNT",
        help="of a calendar month, such as demo=250kg or demo=20kWh; repeatable; comes before "
        "the annotation emissions/budget",
    )
    parser.add_argument(
        "--azure-export", metavar="FILE", help="export of Azure Carbon Optimization to compare with"
    )
    parser.add_argument(
        "--engine",
        choices=("duckdb", "spark"),
        default="duckdb",
        help="what adds up: DuckDB in this process, or Spark, where one machine is outgrown [duckdb]",
    )
    parser.add_argument(
        "--tracked-pods",
        action="store_true",
        help="ask Kubernetes for pods that asked to be tracked and have no records",
    )
    add_settings(parser, _KUBERNETES)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument(
        "--allow-empty",
        action="store_true",
        help="exit with 0 where there are no record files yet (for a schedule)",
    )
    return parser


def _add_places(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "source",
        metavar="SOURCE",
        nargs="+",
        help="a volume, a directory of volumes, or az://CONTAINER[/PREFIX]; several are one dataset",
    )
    parser.add_argument(
        "--memory",
        default="1536Mi",
        metavar="SIZE",
        help="memory that adding up may take; more goes to disk [1536Mi]",
    )
    add_settings(parser, CREDENTIALS)


def _require(arguments: argparse.Namespace) -> None:
    require_extra("reports", "report", _MODULES)
    named = [*arguments.source, getattr(arguments, "out", None) or ""]
    if any(name.startswith(BLOB_SCHEME) for name in named):
        require_extra("reading Azure Blob", "blob", ("azure.storage.blob", "azure.identity"))
    if getattr(arguments, "engine", "duckdb") == "spark":
        require_extra("engine spark", "spark", ("pyspark",))


def _places(arguments: argparse.Namespace) -> "Iterator[Place]":
    from sidecar.report.places import open_place  # noqa: PLC0415

    is_blob = any(source.startswith(BLOB_SCHEME) for source in arguments.source)
    settings = settings_from(arguments) if is_blob else Settings()
    for source in arguments.source:
        yield open_place(source, settings, os.environ)


def _resources(arguments: argparse.Namespace) -> "Resources":
    from sidecar.cli.progress import steps_shown  # noqa: PLC0415
    from sidecar.report.dataset import Resources  # noqa: PLC0415

    try:
        memory_mib = max(256, parse_bytes(arguments.memory) // 1024**2)
    except ValueError as error:
        raise SettingsError(f"flag --memory: {error}") from error
    return replace(Resources(), memory_mib=memory_mib, progress=steps_shown())


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


def _tell(text: str) -> int:
    print(f"emissions-sidecar report: {text}", file=sys.stderr)
    return EXIT_FAILED
