"""Whether bytes are a segment: inflated piece by piece, each line validated, all of one process.

Memory stays constant: what is held is the compressed body, one piece and one line.
"""

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Protocol

from sidecar.collector.limits import Limits
from sidecar.collector.record_lines import RecordLines
from sidecar.collector.refusal import Refusal, shown
from sidecar.meters.reading import PodMethod
from sidecar.segment import NotASegment, SegmentName, TooLong, blob_name, inflated
from sidecar.validation import YEARS, InvalidRecord

_ORIGINS_MAX: Final = 8
_NODES_OWN: Final[PodMethod] = "unallocated"
_TIME: Final = re.compile(r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}(\.\d{1,9})?Z", re.ASCII)


class Owner(Protocol):
    """Whose records may be: who calls, or who a receipt was given to."""

    @property
    def namespace(self) -> str:
        """Namespace of the pod."""
        ...

    @property
    def pod(self) -> str:
        """Name of the pod."""
        ...

    @property
    def pod_uid(self) -> str:
        """Uid of the pod."""
        ...

    @property
    def node(self) -> str | None:
        """Name of the node; None where it is not known."""
        ...


_OriginColumns = tuple[str | None, str | None, str | None, str | None]


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a record says that it is from."""

    namespace: str | None
    pod: str | None
    pod_uid: str | None
    node: str | None


@dataclass(frozen=True, slots=True)
class CheckedSegment:
    """A segment that may be stored, if it is its owner's.

    `sha256` is of the NDJSON, in hex. `origins` are the different ones of the records; an honest
    segment has one, or two: its first record may not know the node yet. `is_nodes_own`: some record
    says what a node used that no pod did.
    """

    origins: tuple[Origin, ...]
    records: int
    sha256: str
    name: str
    handed_over_name: str
    is_nodes_own: bool = False


def check_segment(content: bytes, records: RecordLines, limits: Limits) -> CheckedSegment:
    """Return what a compressed segment holds.

    Raises Refusal: 400 where it is no whole gzip stream of lines, 413 where it is too large, 422
    with the line and the reason where a line is no record or does not belong with the first.
    """
    digest = hashlib.sha256()
    check = _Check(records)
    for number, line in enumerate(_lines(content, digest.update, limits), start=1):
        if number > limits.records:
            raise _too_large(f"more than {limits.records} records")
        try:
            check.add(line)
        except (InvalidRecord, NotASegment) as error:
            raise Refusal(422, "invalid_record", f"line {number}: {error}") from error
    return check.segment(digest.hexdigest())


def foreign_field(origins: Sequence[Origin], owner: Owner) -> str | None:
    """Return what says that a record is not its owner's: field and both values; None where nothing.

    A record without node is taken: a pod is on one node all its life, and the sidecar may not have
    been told which.
    """
    for origin in origins:
        for name in ("namespace", "pod", "pod_uid", "node"):
            claimed, proven = getattr(origin, name), getattr(owner, name)
            if claimed == proven or (name == "node" and None in (claimed, proven)):
                continue
            told = "null" if claimed is None else shown(claimed)
            return f"{name} {told} in the records, {shown(proven)} proven"
    return None


class _Check:
    """Takes the lines one by one, and compares each record with the first."""

    def __init__(self, lines: RecordLines) -> None:
        self._lines = lines
        self._first: Mapping[str, Any] | None = None
        self._last: SegmentName | None = None
        self._origins: dict[_OriginColumns, None] = {}
        self._is_nodes_own = False
        self._records = 0

    def add(self, line: bytes) -> None:
        """Check one line. Raises InvalidRecord or NotASegment."""
        row = self._lines.row_of(line)
        _require_times(row)
        name = SegmentName.of_record(row["record_id"])
        if row["pod_uid"] != name.owner:
            raise NotASegment(f"pod_uid {shown(row['pod_uid'])} is not that of its record_id")
        if self._first is None or self._last is None:
            self._first = row
        else:
            _require_same_process(self._first, row, self._last, name)
        self._last = name
        self._records += 1
        self._is_nodes_own |= _NODES_OWN in (row["pod_method"] or "").split(" + ")
        self._note_origin((row["namespace"], row["pod"], row["pod_uid"], row["node"]))

    def _note_origin(self, origin: _OriginColumns) -> None:
        """Keep where a record says that it is from. Raises NotASegment: none is passed over."""
        self._origins[origin] = None
        if len(self._origins) > _ORIGINS_MAX:
            raise NotASegment(
                f"records of more than {_ORIGINS_MAX} pods or nodes; a pod stays on one node"
            )

    def segment(self, sha256: str) -> CheckedSegment:
        """Return what was checked. Raises Refusal where there was nothing."""
        if self._first is None:
            raise Refusal(400, "not_a_segment", "the segment is empty; send at least one record")
        return CheckedSegment(
            tuple(Origin(*columns) for columns in self._origins),
            self._records,
            sha256,
            blob_name(self._first),
            blob_name(self._first, handed_over=True),
            self._is_nodes_own,
        )


def _require_same_process(
    first: Mapping[str, Any], row: Mapping[str, Any], last: SegmentName, name: SegmentName
) -> None:
    if name.stem != last.stem:
        raise NotASegment(f"record_id {shown(name)} is of another process than {shown(last)}")
    if name.sequence <= last.sequence:
        raise NotASegment(f"record_id {shown(name)} does not come after {shown(last)}")
    for column in ("project", "cluster"):
        here, there = row[column], first[column]
        if here != there:
            raise NotASegment(f"{column} {shown(here)} is not that of line 1, {shown(there)}")


def _require_times(row: Mapping[str, Any]) -> None:
    for column in ("window_start", "window_end"):
        text = row[column]
        try:
            is_time = bool(_TIME.fullmatch(text)) and datetime.fromisoformat(text).year in YEARS
        except ValueError:
            is_time = False
        if not is_time:
            raise NotASegment(f"{column} {shown(text)} is no time in UTC, as RFC 3339 writes it")


class _Hashed(Protocol):
    def __call__(self, piece: bytes, /) -> None: ...


def _lines(content: bytes, hashed: _Hashed, limits: Limits) -> Iterator[bytes]:
    """Inflate into lines, without their newlines. Raises Refusal (400, 413)."""
    begun = b""
    for piece in _pieces(content, limits.ndjson_bytes):
        hashed(piece)
        *lines, begun = (begun + piece).split(b"\n")
        for line in (*lines, begun):
            if len(line) > limits.line_bytes:
                raise _too_large(f"a line of more than {limits.line_bytes} bytes")
        yield from lines
    if begun:
        raise Refusal(400, "not_a_segment", "torn: the last line does not end in a newline")


def _pieces(content: bytes, limit: int) -> Iterator[bytes]:
    try:
        yield from inflated(content, limit)
    except TooLong as error:
        raise _too_large(str(error)) from error
    except NotASegment as error:
        raise Refusal(400, "not_a_segment", str(error)) from error


def _too_large(what: str) -> Refusal:
    return Refusal(413, "too_large", f"{what}; close segments earlier and ship smaller ones")
