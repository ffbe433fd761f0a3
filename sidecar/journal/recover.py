"""What an earlier process left on the volume: found, repaired, and made ready to be shipped.

Taken up are segments of this very pod (its container was restarted), and those whose process is gone
and left its claim behind: it was killed, or could not ship all. What a living process owns is left
alone, and what ended well with records to stay (transport `none`) is too.
"""

import contextlib
import json
import logging
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from sidecar.durable_file import replace_file
from sidecar.journal.claim import Claim
from sidecar.journal.spool import (
    REFUSED_DIRECTORY,
    ClosedSegment,
    Spool,
    close_segment,
    read_segment,
)
from sidecar.segment import (
    COMPRESSED_SUFFIX,
    OUTSIDE_A_POD,
    SUFFIX,
    NotASegment,
    SegmentName,
    decompressed,
    first_record,
)

OWNER_SUFFIX: Final = ".owner"

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Recovery:
    """How to recover. `stem` is this process's own; nothing of it is touched.

    `ships`: what is found will be shipped. `needs_receipt`: the far side takes the segments of
    another pod only with the receipt that this pod left beside them.
    """

    stem: str
    ships: bool
    needs_receipt: bool = False

    @property
    def owner(self) -> str:
        """The pod's uid, or `run`."""
        return self.stem.partition(".")[0]


def owner_path(directory: Path, stem: str) -> Path:
    """Return the file by which a process claims its segments."""
    return directory / f".{stem}{OWNER_SUFFIX}"


def recover(directory: Path, recovery: Recovery, spool: Spool) -> None:
    """Queue in the spool what earlier processes left, repaired. Raises OSError: an unreadable volume."""
    for stem, names in sorted(_left_behind(directory, recovery).items()):
        if spool.holds(stem):
            continue
        is_mine = stem.partition(".")[0] == recovery.owner != OUTSIDE_A_POD
        try:
            claim = Claim.take(owner_path(directory, stem), of_this_pod=is_mine)
        except OSError:
            claim = None  # a read-only volume: nothing can be repaired or deleted there anyway
        if claim is None:
            continue
        if recovery.needs_receipt and claim.receipt is None and not is_mine:
            _log.info("%s.* were left by a pod without a receipt: they stay on the volume", stem)
            claim.release()
            continue
        if recovery.ships:
            receipt = None if is_mine else claim.receipt
            segments, is_all = _all_repaired(directory, names)
            spool.add_found(
                [replace(item, receipt=receipt) for item in segments], claim, is_all=is_all
            )
            _log.info("%d segments of an earlier process (%s) were found", len(segments), stem)
        else:
            # Whoever ships takes them on some day: its claim stays.
            _all_repaired(directory, {name for name in names if _is_plain(directory, name)})
            claim.release()
        _discard_temporaries(directory, stem)


def left_size(directory: Path, stem: str, *, ships: bool) -> int:
    """Return the bytes that earlier processes of this pod left there and that will stay.

    What will be shipped counts once it is found; what was refused stays in any case.
    """
    owner = stem.partition(".")[0]
    size = 0
    for place in (directory / REFUSED_DIRECTORY, *(() if ships else (directory,))):
        with contextlib.suppress(OSError):
            for path in place.iterdir():
                name = SegmentName.of_file(path.name)
                if name is not None and name.owner == owner and name.stem != stem:
                    size += path.lstat().st_size
    return size


def _left_behind(directory: Path, recovery: Recovery) -> dict[str, set[SegmentName]]:
    """Return the segments, by stem, that may be taken up."""
    segments: dict[str, set[SegmentName]] = {}
    claimed: set[str] = set()
    for path in directory.iterdir():
        name = SegmentName.of_file(path.name)
        if name is not None and path.is_file() and not path.is_symlink():
            segments.setdefault(name.stem, set()).add(name)
        elif path.name.startswith(".") and path.suffix == OWNER_SUFFIX:
            claimed.add(path.name[1:].removesuffix(OWNER_SUFFIX))
    mine = {stem for stem in segments if stem.startswith(f"{recovery.owner}.")}
    if recovery.owner == OUTSIDE_A_POD:
        mine = set()
    stems = {stem for stem in claimed | mine if stem != recovery.stem and stem.count(".") == 1}
    return {stem: segments.get(stem, set()) for stem in stems}


def _is_plain(directory: Path, name: SegmentName) -> bool:
    return (directory / f"{name}{SUFFIX}").exists()


def _all_repaired(
    directory: Path, names: Collection[SegmentName]
) -> tuple[list[ClosedSegment], bool]:
    """Return the segments in their order, and whether that is all: one may not be readable now."""
    segments, is_all = [], True
    for name in sorted(names):
        try:
            segment = _repaired(directory, name)
        except (OSError, NotASegment) as error:
            _log.error("%s cannot be read and stays where it is: %s", name, error)
            is_all = False
        else:
            segments += [segment] if segment is not None else []
    return segments, is_all


def _repaired(directory: Path, name: SegmentName) -> ClosedSegment | None:
    """Return the segment, whole and compressed; None where there was nothing whole in it.

    Raises OSError and NotASegment where it cannot be read, or is not what its name says.
    """
    plain, packed = directory / f"{name}{SUFFIX}", directory / f"{name}{COMPRESSED_SUFFIX}"
    with contextlib.suppress(OSError, NotASegment):
        content = read_segment(packed)
        ndjson = decompressed(content)
        if SegmentName.of_record(str(first_record(ndjson).get("record_id"))) == name:
            plain.unlink(missing_ok=True)  # killed between the renaming and the deletion
            return ClosedSegment(name, packed, ndjson.count(b"\n"), len(content))
    content = read_segment(plain)
    whole = b"".join(_whole_lines(content, name))
    if whole != content:
        _log.warning(
            "%s: %d bytes that were torn when its process was killed are cut off",
            plain, len(content) - len(whole),
        )  # fmt: skip
    if not whole:
        with contextlib.suppress(OSError):
            plain.unlink()
        return None
    first = SegmentName.of_record(json.loads(whole.partition(b"\n")[0])["record_id"])
    with contextlib.suppress(OSError):
        if whole != content or first != name:
            replace_file(directory / f"{first}{SUFFIX}", whole)
        if first != name:
            plain.unlink()
    return close_segment(directory, first, whole)


def _whole_lines(content: bytes, name: SegmentName) -> Iterator[bytes]:
    """Yield the lines that are records of this process; a torn write leaves half a line, or zeros."""
    for line in content.splitlines(keepends=True):
        with contextlib.suppress(ValueError, TypeError, KeyError, RecursionError):
            record_id = json.loads(line)["record_id"]
            if line.endswith(b"\n") and SegmentName.of_record(record_id).stem == name.stem:
                yield line


def _discard_temporaries(directory: Path, stem: str) -> None:
    """Remove what a kill left half-written; it never counted."""
    for path in directory.glob(f".{stem}.*.tmp"):
        with contextlib.suppress(OSError):
            path.unlink()
