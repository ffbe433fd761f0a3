"""Records of a place the obvious way: line by line, each once."""

from sidecar.report.listing import Listing
from sidecar.report.read import LeftOut, entries


def read_records(place, seen):
    """Every valid record of raw files once; `seen` is filled on the way."""
    known = set()
    for _, record in entries(Listing.of(place).records, seen):
        if isinstance(record, LeftOut):
            continue
        if record.record_id in known:
            seen.duplicates += 1
            continue
        known.add(record.record_id)
        seen.records += 1
        yield record
