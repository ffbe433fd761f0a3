"""`emissions-sidecar report`: from records to tables and pages per project."""

import argparse
import json
import os
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from sidecar.amounts import counted
from sidecar.cli import report_compact, report_serve
from sidecar.cli.dataset import add_places, places, require, resources
from sidecar.cli.failures import disk_failure, engine_errors, engine_failure, tell
from sidecar.cli.options import add_settings, command_parser, settings_from
from sidecar.cli.progress import Step, steps_shown
from sidecar.report.source import BLOB_SCHEME, REPORTS, SourceUnreadable
from sidecar.settings import SettingsError

if TYPE_CHECKING:
    from sidecar.report.figures.reconcile import AzureExport
    from sidecar.report.making import Asked, Made

_KUBERNETES: Final = ("kubernetes_url", "kubernetes_token_file", "kubernetes_ca_file")


def main(argv: Sequence[str]) -> int:
    """Report, or do what its first word says: compact, serve."""
    others = {"compact": report_compact.main, "serve": report_serve.main}
    if argv and argv[0] in others:
        return others[argv[0]](argv[1:])
    arguments = _parser().parse_args(argv)
    try:
        return _report(arguments)
    except SourceUnreadable as error:
        return tell(str(error))
    except OSError as error:
        return tell(disk_failure(error))
    except engine_errors() as error:
        return tell(engine_failure(error, arguments.memory))


def _report(arguments: argparse.Namespace) -> int:
    require(arguments)
    from sidecar.report.making import make_report  # noqa: PLC0415 - the extra may be missing

    with ExitStack() as stack:
        opened = [stack.enter_context(closing(place)) for place in places(arguments)]
        asked = _asked(arguments)
        with steps_shown() as show:
            made = make_report(opened, replace(asked, resources=resources(arguments, show)))
    if arguments.json:
        print(json.dumps(made.model, indent=2, ensure_ascii=False))
    else:
        _print(made)
    if made.is_empty:
        return _nothing(arguments, made)
    return _write(arguments, made)


# -- what is asked for -------------------------------------------------------------------------------


def _asked(arguments: argparse.Namespace) -> "Asked":
    from sidecar.report.figures.budget import parse_budgets  # noqa: PLC0415
    from sidecar.report.making import Asked  # noqa: PLC0415
    from sidecar.report.selection import Selection  # noqa: PLC0415

    selection = Selection(
        frozenset(arguments.project),
        _moment("--since", arguments.since),
        _moment("--until", arguments.until),
    )
    try:
        budgets = parse_budgets(arguments.budget)
    except ValueError as error:
        raise SettingsError(f"flag --budget: {error}") from error
    now = datetime.now(UTC)
    return Asked(
        now=now,
        selection=selection,
        engine=arguments.engine,
        spark_master=arguments.spark_master,
        budgets=budgets,
        azure=_azure_export(arguments),
        title=arguments.title,
        note=arguments.note,
        **_tracked(arguments, now),
    )


def _azure_export(arguments: argparse.Namespace) -> "AzureExport | None":
    """Read the export, of this machine or of a container. Raises SettingsError."""
    from sidecar.report.figures.reconcile import ExportUnreadable, read_export  # noqa: PLC0415

    if not arguments.azure_export:
        return None
    try:
        if not arguments.azure_export.startswith(BLOB_SCHEME):
            return read_export(Path(arguments.azure_export))
        with tempfile.TemporaryDirectory(prefix="emissions-export-") as directory:
            return read_export(_fetched(arguments, Path(directory)))
    except ExportUnreadable as error:
        raise SettingsError(f"flag --azure-export: {error}") from error


def _fetched(arguments: argparse.Namespace, directory: Path) -> Path:
    """Fetch the export from its container. Raises SettingsError, SourceUnreadable."""
    from sidecar.report.blob_place import fetch_blob  # noqa: PLC0415
    from sidecar.report.figures.reconcile import EXPORT_BYTES_MAX  # noqa: PLC0415

    path = directory / "export.csv"
    settings = settings_from(arguments)
    fetch_blob(arguments.azure_export, settings, os.environ, path, EXPORT_BYTES_MAX)
    return path


def _tracked(arguments: argparse.Namespace, now: datetime) -> dict[str, Any]:
    """Ask Kubernetes for the pods that asked to be tracked; why it did not say is told in the report.

    What it does not answer makes nothing of the figures wrong: the report goes on without.
    """
    from sidecar.kubernetes_http import KubernetesHttp, KubernetesHttpError  # noqa: PLC0415
    from sidecar.report.tracked_pods import tracked_pods  # noqa: PLC0415

    if not arguments.tracked_pods:
        return {}
    settings = settings_from(arguments)
    api = KubernetesHttp(
        settings.kubernetes_url, settings.kubernetes_token_file, settings.kubernetes_ca_file
    )
    try:
        return {"tracked": tracked_pods(api, now, arguments.namespace_opt_in)}
    except KubernetesHttpError as error:
        return {"tracked_failure": str(error)}


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


# -- what comes of it --------------------------------------------------------------------------------


def _print(made: "Made") -> None:
    from sidecar.cli.tables import print_report  # noqa: PLC0415

    print_report(made.model)
    if made.inputs.nodes:
        from sidecar.report.balance import balance_lines  # noqa: PLC0415

        for line in balance_lines(made.inputs.nodes):
            print(line)


def _write(arguments: argparse.Namespace, made: "Made") -> int:
    from sidecar.report.selection import Selection  # noqa: PLC0415

    if (arguments.out or "").startswith(BLOB_SCHEME):
        with steps_shown() as show:
            return _upload(arguments, made, show)
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
            return tell(
                f"cannot write to {out}: {error.strerror}; "
                "the totals are above, give another directory with --out"
            )
        said = f"written: {counted(len(written), 'file')} in {out}; open {out / 'index.html'}"
    if not arguments.json:
        print(said)
    return 0


def _upload(arguments: argparse.Namespace, made: "Made", show: Step) -> int:
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
        count = upload_report(place, Path(directory), show)
    if not arguments.json:
        print(f"written: {counted(count, 'file')} to {arguments.out}")
    return 0


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
        return tell(f"none of {counted(read.records, 'record')} under {where} is of the selection")
    reasons = "".join(f"; left out: {count} × {why}" for why, count in read.left_out.items())
    return tell(
        f"no records under {where}: *.ndjson, *.ndjson.gz, compacted Parquet and emissions CSV files "
        f"are read at any depth{reasons}"
    )


# -- arguments ---------------------------------------------------------------------------------------


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
    add_places(parser)
    parser.add_argument(
        "--out",
        metavar="DIR",
        help="where to write, a directory or az://CONTAINER/PREFIX (default SOURCE/reports/v1; a "
        "selection, and what is read from az://, is written only there)",
    )
    parser.add_argument("--title", metavar="TEXT", help="name of the report [Emissions report]")
    parser.add_argument(
        "--note", metavar="TEXT", help="what stands at the top of its pages, such as whose it is"
    )
    _add_selection(parser)
    _add_comparisons(parser)
    _add_engine(parser)
    _add_pods(parser)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument(
        "--allow-empty",
        action="store_true",
        help="exit with 0 where there are no record files yet (for a schedule)",
    )
    return parser


def _add_selection(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--project", action="append", default=[], metavar="P", help="only this project; repeatable"
    )
    parser.add_argument("--since", metavar="T", help="only windows from this time on (UTC)")
    parser.add_argument("--until", metavar="T", help="only windows before this time (UTC)")


def _add_comparisons(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--budget",
        action="append",
        default=[],
        metavar="PROJECT=AMOUNT",
        help="of a calendar month, such as demo=250kg or demo=20kWh; repeatable; comes before "
        "the annotation emissions/budget",
    )
    parser.add_argument(
        "--azure-export",
        metavar="FILE",
        help="export of Azure Carbon Optimization to compare with; also az://CONTAINER/NAME",
    )


def _add_engine(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--engine",
        choices=("duckdb", "spark"),
        default="duckdb",
        help="what adds up: DuckDB in this process, or Spark, where one machine is outgrown [duckdb]",
    )
    parser.add_argument(
        "--spark-master",
        default="local[*]",
        metavar="MASTER",
        help="where Spark runs; on a cluster TMPDIR must be a directory that all its machines see "
        "[local[*]]",
    )


def _add_pods(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--tracked-pods",
        action="store_true",
        help="ask Kubernetes for pods that asked to be tracked, to list those whose records are missing",
    )
    parser.add_argument(
        "--namespace-opt-in",
        choices=("all", "azureml", "none"),
        default="all",
        help="which pods the label of a namespace takes in, as the injector does [all]",
    )
    add_settings(parser, _KUBERNETES)
