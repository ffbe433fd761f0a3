"""Read records from files line by line: NDJSON plain or gzip.

What is torn, alien or absurd is counted and named, never fatal: a report of a fleet must not fail for
one file.
"""

import gzip
import logging
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import BinaryIO, Final, cast

from sidecar.record import EmissionRecord
from sidecar.report.source import RecordFile
from sidecar.validation import LINE_BYTES_MAX, InvalidRecord, RecordValidator

UNREADABLE: Final = "unreadable file"
VANISHED: Final = "file that vanished while it was read"

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class ReadReport:
    """What was read: files, records, duplicates, and what was left out for which reason.

    `late` records came after their day was compacted; None where none is.
    """

    files: int = 0
    records: int = 0
    duplicates: int = 0
    late: int | None = None
    left_out: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A line that is no record, or the rest of a file that cannot be read: its kind, and why.

    `is_harmless`: nothing is lost by it.
    """

    kind: str
    text: str
    is_harmless: bool = False


def entries(
    files: Iterable[RecordFile], seen: ReadReport
) -> Iterator[tuple[str, EmissionRecord | LeftOut]]:
    """Yield every line as a record or as what is wrong with it, with the name of its file.

    Counts files and what is left out in `seen`. Raises SourceUnreadable.
    """
    validator = RecordValidator()
    for file in files:
        seen.files += 1
        for line in _lines(file):
            entry = line if isinstance(line, LeftOut) else _entry(line, validator)
            if isinstance(entry, LeftOut):
                seen.left_out[entry.kind] += 1
            yield file.name, entry


def _lines(file: RecordFile) -> Iterator[bytes | LeftOut]:
    try:
        with ExitStack() as opened:
            stream = opened.enter_context(file.open())
            if file.name.endswith(".gz"):
                inflated = opened.enter_context(gzip.GzipFile(fileobj=stream))
                stream = cast("BinaryIO", inflated)
            while line := stream.readline(LINE_BYTES_MAX):
                if line.strip():
                    yield line
    except FileNotFoundError as error:
        _log.warning("%s: gone before it was read: shipped, or removed", file.name)
        yield LeftOut(VANISHED, str(error))
    except (OSError, EOFError, zlib.error) as error:
        _log.warning("%s: read only in part: %s", file.name, error)
        yield LeftOut(UNREADABLE, str(error))


def _entry(line: bytes, validator: RecordValidator) -> EmissionRecord | LeftOut:
    try:
        return validator.record_of(line)
    except InvalidRecord as error:
        return LeftOut(error.kind, str(error))
