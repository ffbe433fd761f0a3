"""Which segments are looked at at once, in the thread that serves all callers."""

import random

import pytest

from sidecar.collector.limits import Limits
from sidecar.collector.refusal import Refusal
from sidecar.collector.storing import USUAL_CONTENT_BYTES, USUAL_NDJSON_BYTES, Checks, Storing
from sidecar.transport.directory import DirectoryTransport
from tests.collector.running import POD, ndjson, record, segment

LETTERS = "abcdefghijklmnopqrstuvwxyz"


class _NoPods:
    def is_gone(self, namespace, pod, pod_uid):
        raise AssertionError("no pod is asked about")


@pytest.fixture
def storing(tmp_path):
    return Storing(DirectoryTransport(tmp_path), _NoPods(), Checks(Limits()))


def test_a_segment_of_five_minutes_is_looked_at_once_and_stored(storing, tmp_path) -> None:
    content = segment(*(record(number) for number in range(20)))
    looked_at = storing.looked_at(content)
    assert looked_at.records == 20
    assert storing.store(content, POD, None, looked_at).blob == looked_at.name
    assert (tmp_path / looked_at.name).read_bytes() == content


def _words(count):
    dice = random.Random(0)
    return ["".join(dice.choices(LETTERS, k=1000)) for _ in range(count)]


@pytest.mark.parametrize(
    "annotations",
    [
        [{}] * (USUAL_NDJSON_BYTES // 1000),  # long, and short when compressed
        [{"emissions/x": word} for word in _words(USUAL_CONTENT_BYTES // 500)],
    ],
)
def test_a_long_segment_is_left_to_a_thread_and_stored(storing, annotations) -> None:
    records = [record(number, annotations=it) for number, it in enumerate(annotations)]
    content = segment(*records)
    assert len(ndjson(*records)) > USUAL_NDJSON_BYTES or len(content) > USUAL_CONTENT_BYTES
    assert storing.looked_at(content) is None
    assert storing.store(content, POD, None).records == len(records)


def test_what_is_no_record_is_refused_at_the_first_look(storing) -> None:
    with pytest.raises(Refusal) as refused:
        storing.looked_at(segment(record(1, energy_kwh=-1.0)))
    assert (refused.value.status, refused.value.code) == (422, "invalid_record")
