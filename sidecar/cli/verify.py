"""`emissions-sidecar verify`: tell what records are lost, doubled or torn, or do not add up."""

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Any

from sidecar.cli.options import command_parser
from sidecar.cli.source import add_source, place_of
from sidecar.report.source import SourceUnreadable
from sidecar.version import VERSION

if TYPE_CHECKING:
    from sidecar.report.findings import Finding
    from sidecar.report.places import Place
    from sidecar.report.read import ReadReport
    from sidecar.report.verify import Verdict


def main(argv: Sequence[str]) -> int:
    """Read all records once and print what violates what must hold; exit 1 if anything does."""
    arguments = _parser().parse_args(argv)
    with closing(place_of(arguments)) as source:
        try:
            return _verify(source, as_json=arguments.json)
        except SourceUnreadable as error:
            return _tell(str(error))


def _verify(source: "Place", *, as_json: bool) -> int:
    # pydantic and rich load late: no other command pays for them.
    from sidecar.cli.tables import print_verdict  # noqa: PLC0415
    from sidecar.report.read import ReadReport  # noqa: PLC0415
    from sidecar.report.verify import verify  # noqa: PLC0415
    from sidecar.report.whole import all_entries  # noqa: PLC0415

    seen = ReadReport()
    verdict = verify(all_entries([source], seen))
    if as_json:
        row = verdict_mapping(source, verdict, seen)
        print(json.dumps(row, indent=2, ensure_ascii=False, allow_nan=False))
    elif verdict.records or verdict.violations:
        print_verdict(verdict, seen.files)
    if not verdict.records:
        return _tell(
            f"nothing to verify under {source}: records in *.ndjson, *.ndjson.gz or compacted *.parquet "
            "are expected at any depth"
        )
    return 0 if verdict.is_clean else 1


def verdict_mapping(source: "Place", verdict: "Verdict", seen: "ReadReport") -> dict[str, Any]:
    """Return the verdict as JSON types."""
    return {
        "tool_version": VERSION,
        "source": str(source),
        "files": seen.files,
        "records": verdict.records,
        "duplicates": verdict.duplicates,
        "violations": _rows(verdict.violations),
        "notices": _rows(verdict.notices),
        "totals": verdict.totals,
    }


def _rows(found: "Iterable[Finding]") -> list[dict[str, Any]]:
    return [
        {
            "kind": item.kind.name,
            "meaning": item.kind.meaning,
            "count": item.count,
            "examples": item.examples,
        }
        for item in found
    ]


def _tell(text: str) -> int:
    print(f"emissions-sidecar verify: {text}", file=sys.stderr)
    return 1


def _parser() -> argparse.ArgumentParser:
    parser = command_parser(
        "verify",
        "Read all records under SOURCE once, raw and compacted ones, and tell what is lost, doubled,\n"
        "torn, or does not add up.\n"
        "Exit 0: nothing; 1: a violation, or no records; notices alone change nothing. Give the whole\n"
        "of a volume or container: of a part, what lies outside it looks lost.",
        (
            "./emissions",
            "/mnt/all --json",
            "az://emissions/records/v1 --blob-account-url https://NAME.blob.core.windows.net",
        ),
    )
    add_source(parser)
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")
    return parser
