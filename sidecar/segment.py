"""Segments: the pieces in which records are kept, shipped and stored, and their names.

A segment is NDJSON, one record a line, of one process (boot) of one pod. Its name follows from its
first record alone: `<pod_uid>.<boot_id>.<seq>`, the sequence number of that record in 8 digits, on
the volume and in Blob, whichever way it travels. So the same segment shipped twice meets itself.

In Blob: `records/v1/project=<project>/date=<YYYY-MM-DD>/<cluster>/<name>.ndjson.gz`, written once.
"""

import gzip
import hashlib
import json
import re
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Self
from urllib.parse import quote

RECORDS_ROOT: Final = "records/v1"

OUTSIDE_A_POD: Final = "run"
"""Stands for the pod's uid where there is no pod."""

NO_PROJECT: Final = "default"
"""Stands for the project in Blob where the record names none."""

NO_CLUSTER: Final = "unknown"
"""Stands for the cluster in Blob where its name is not known."""

SUFFIX: Final = ".ndjson"
COMPRESSED_SUFFIX: Final = ".ndjson.gz"
HANDED_OVER: Final = ".handed-over"
"""Before the suffix in Blob: another pod than the records' own brought it."""

SEGMENT_BYTES_MAX: Final = 16 * 1024**2
"""A segment's NDJSON is never longer; what is, is no segment of ours."""

_PIECE_BYTES: Final = 32 * 1024

_PART_CHARACTERS_MAX: Final = 180
_RECORD_ID: Final = re.compile(
    r"(?P<owner>[A-Za-z0-9-]{1,64})\.(?P<boot>[A-Za-z0-9-]{1,64})\.(?P<sequence>0|[1-9]\d{0,11})",
    re.ASCII,
)
_FILE: Final = re.compile(
    r"(?P<stem>[A-Za-z0-9-]{1,64}\.[A-Za-z0-9-]{1,64})\.(?P<sequence>\d{8,12})\.ndjson(?:\.gz)?",
    re.ASCII,
)
_DATE: Final = re.compile(r"\d{4}-\d{2}-\d{2}(?=T)", re.ASCII)


class NotASegment(ValueError):  # noqa: N818 - it is what it is, not an error of ours
    """Bytes that are no segment, or a name that is none: the text says why."""


class TooLong(NotASegment):
    """More than a segment may hold: a bomb, perhaps."""


@dataclass(frozen=True, slots=True, order=True)
class SegmentName:
    """`owner` is the pod's uid or `run`; `sequence` that of the first record."""

    owner: str
    boot_id: str
    sequence: int

    @property
    def stem(self) -> str:
        """`<owner>.<boot_id>`: what all segments and record ids of one process begin with."""
        return f"{self.owner}.{self.boot_id}"

    def __str__(self) -> str:
        return f"{self.stem}.{self.sequence:08d}"

    @classmethod
    def of_record(cls, record_id: str) -> Self:
        """Return the name of the segment that begins with this record. Raises NotASegment."""
        match = _RECORD_ID.fullmatch(record_id)
        if match is None:
            raise NotASegment(f"record_id {record_id[:80]!r} is not <pod_uid>.<boot_id>.<seq>")
        return cls(match["owner"], match["boot"], int(match["sequence"]))

    @classmethod
    def of_file(cls, file_name: str) -> Self | None:
        """Return the name of a segment's file on a volume; None where it is no segment's."""
        match = _FILE.fullmatch(file_name)
        if match is None:
            return None
        owner, _, boot_id = match["stem"].partition(".")
        name = cls(owner, boot_id, int(match["sequence"]))
        # More zeros than needed would be another file than the one of this name.
        return name if file_name.startswith(f"{name}.") else None


@dataclass(frozen=True, slots=True)
class Parcel:
    """A segment ready to be stored: where, and what. `sha256` is that of the NDJSON, in hex.

    The digest is of the plain text, because the same text may be compressed to other bytes.
    `receipt` comes with a segment of a pod that is gone: it proves whose it was.
    """

    blob_name: str
    content: bytes
    sha256: str
    records: int
    receipt: str | None = None


def blob_name(first_record: Mapping[str, Any], *, handed_over: bool = False) -> str:
    """Return where a segment that begins with this record is stored. Raises NotASegment."""
    name = SegmentName.of_record(_text(first_record, "record_id"))
    date = _DATE.match(_text(first_record, "window_start"))
    if date is None:
        raise NotASegment(f"record {name}: window_start is no time")
    project = path_part(_text(first_record, "project") or NO_PROJECT)
    cluster = path_part(_text(first_record, "cluster") or NO_CLUSTER)
    mark = HANDED_OVER if handed_over else ""
    return (
        f"{RECORDS_ROOT}/project={project}/date={date[0]}/{cluster}/{name}{mark}{COMPRESSED_SUFFIX}"
    )


def _text(record: Mapping[str, Any], column: str) -> str:
    """Return a column that holds text, or nothing. Raises NotASegment where it holds anything else."""
    value = record.get(column)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise NotASegment(f"{column} is no text but a {type(value).__name__}")
    return value


def path_part(text: str) -> str:
    """Escape a name that is not empty: one part of a path, whatever it holds, and unlike any other's.

    Percent-encoding as in RFC 3986, of dots at either end too (`..`, and Azure drops dots at the
    end); a name that would be too long is cut, and ends in `~` and a digest of the whole.
    """
    escaped = quote(text, safe="", errors="surrogatepass").replace("~", "%7E")
    if escaped.startswith("."):
        escaped = "%2E" + escaped[1:]
    if escaped.endswith("."):
        escaped = escaped[:-1] + "%2E"
    if len(escaped) <= _PART_CHARACTERS_MAX:
        return escaped
    digest = hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:16]
    whole = re.match(rf"(?:%[0-9A-F]{{2}}|[^%]){{0,{_PART_CHARACTERS_MAX // 3}}}", escaped)
    return f"{whole[0] if whole else ''}~{digest}"


def compressed(ndjson: bytes) -> bytes:
    """Compress a segment; the same text gives the same bytes (no time, no file name in it)."""
    return gzip.compress(ndjson, compresslevel=6, mtime=0)


def decompressed(content: bytes, limit: int = SEGMENT_BYTES_MAX) -> bytes:
    """Return the NDJSON of a compressed segment, at most `limit` bytes. Raises NotASegment."""
    return b"".join(inflated(content, limit))


def inflated(content: bytes, limit: int) -> Iterator[bytes]:
    """Yield the NDJSON of a compressed segment piece by piece, in constant memory.

    Raises TooLong beyond `limit` bytes, else NotASegment.
    """
    inflater = zlib.decompressobj(wbits=31)  # gzip only
    total = 0
    for start in range(0, len(content), _PIECE_BYTES):
        left = content[start : start + _PIECE_BYTES]
        while left and not inflater.eof:
            try:
                piece = inflater.decompress(left, _PIECE_BYTES)
            except zlib.error as error:
                raise NotASegment(f"not gzip: {error}") from error
            left = inflater.unconsumed_tail
            total += len(piece)
            if total > limit:
                raise TooLong(f"more than {limit} bytes when decompressed")
            yield piece
        if inflater.unused_data or (inflater.eof and start + _PIECE_BYTES < len(content)):
            raise NotASegment("something follows the end of the gzip stream")
    if not inflater.eof:
        raise NotASegment("cut short: the end of the gzip stream is missing")


def parcel_of(content: bytes) -> Parcel:
    """Address a compressed segment by its own first record. Raises NotASegment."""
    ndjson = decompressed(content)
    first = first_record(ndjson)
    digest = hashlib.sha256(ndjson).hexdigest()
    return Parcel(blob_name(first), content, digest, ndjson.count(b"\n"))


def first_record(ndjson: bytes) -> Mapping[str, Any]:
    """Return the first line of a segment as a mapping. Raises NotASegment."""
    line, newline, _ = ndjson.partition(b"\n")
    try:
        row = json.loads(line.decode())
    except (ValueError, RecursionError) as error:  # RecursionError: brackets within brackets
        raise NotASegment(f"its first line is no JSON: {error}") from error
    if not newline or not isinstance(row, dict):
        raise NotASegment("its first line is no record")
    return row
