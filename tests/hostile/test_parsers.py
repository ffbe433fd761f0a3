"""Every reader of what comes from outside: a value, or the error that it is documented to raise.

Readers whose own tests say so already are not here again.
"""

import contextlib
import io
import json
from dataclasses import dataclass
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.bounded_http import Answer
from sidecar.carbon import api
from sidecar.carbon.carbon_aware import CarbonAware
from sidecar.carbon.electricity_maps import ElectricityMaps
from sidecar.carbon.encoding import decoded, encoded
from sidecar.carbon.schedule_file import read_schedule
from sidecar.carbon.series import Series, Span, matched
from sidecar.carbon.uk import Uk
from sidecar.codecarbon_config import converted, read_section, toml_lines
from sidecar.collector.cluster import _status_in
from sidecar.collector.handover import Receipts
from sidecar.collector.refusal import Refusal
from sidecar.collector.token_review import Caller, caller_of
from sidecar.journal.recover import _repaired
from sidecar.meters.pod.cgroup_tree import PodCgroup
from sidecar.meters.pod.kubelet_summary import pod_in_summary
from sidecar.meters.pod.metrics_api import parse_pod_metrics
from sidecar.meters.pod.process_tree import ProcessTable
from sidecar.meters.proc import parse_meminfo, parse_stat
from sidecar.node_meter import refusal
from sidecar.node_meter.callers import caller_in
from sidecar.report.imports import parted, runs
from sidecar.report.read import ReadReport
from sidecar.report.tracked_pods import _asked, _tracked
from sidecar.segment import NotASegment, SegmentName, compressed
from sidecar.tracking.beside import _NO_ANSWER, run_from
from tests.hostile.spoiling import DEEP, garbled, spoiled
from tests.hostile.test_told import TOLD_MAX

NOW_S = datetime(2026, 11, 22, 8, 15, tzinfo=UTC).timestamp()
NOW = datetime.fromtimestamp(NOW_S, UTC)


def is_told(error: BaseException) -> bool:
    """Whether an error's text may stand in a log."""
    return len(str(error)) <= 4 * TOLD_MAX and str(error).isprintable()


# -- services of carbon intensity --------------------------------------------------------------------

HOUR = "2026-11-22T08:00:00.000Z"
OF_ELECTRICITY_MAPS = {
    "zone": "DE",
    "history": [{"zone": "DE", "carbonIntensity": 302, "datetime": HOUR, "isEstimated": False}],
    "forecast": [{"carbonIntensity": 250, "datetime": HOUR}],
}
HALVES = [
    {
        "from": "2026-11-22T08:00Z",
        "to": "2026-11-22T08:30Z",
        "intensity": {"forecast": 1, "actual": 2},
    }
]
OF_REGION = {"data": {"regionid": 13, "data": HALVES}}
OF_CARBON_AWARE = [
    {
        "location": "westeurope", "time": HOUR, "rating": 5, "duration": "01:00:00",
        "forecastData": [{"location": "westeurope", "timestamp": HOUR, "duration": 60, "value": 3}],
    }
]  # fmt: skip


class NoHeaders:
    def get(self, name, otherwise):
        return otherwise


@pytest.fixture(scope="module")
def token_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("token") / "token"
    path.write_text("abc")
    return path


@pytest.mark.parametrize(
    ("name", "zone", "sample"),
    [
        ("electricity-maps", "DE", OF_ELECTRICITY_MAPS),
        ("uk", "GB-13", OF_REGION),
        ("uk", "GB", {"data": HALVES}),
        ("carbon-aware", "westeurope", OF_CARBON_AWARE),
    ],
)
@given(data=st.data())
def test_a_service_of_intensity_gives_values_or_says_why_not(token_file, name, zone, sample, data):
    body = data.draw(spoiled(sample).map(json.dumps).map(str.encode) | garbled(json.dumps(sample)))
    status = data.draw(st.sampled_from([200, 200, 200, 204, 404, 500]))
    service = {
        "electricity-maps": lambda: ElectricityMaps(token_file),
        "uk": Uk,
        "carbon-aware": lambda: CarbonAware("http://127.0.0.1:1"),
    }[name]()
    with pytest.MonkeyPatch.context() as patch:
        answer = Answer(status, NoHeaders(), iter((body,)))
        patch.setattr(api.bounded_http, "exchange", lambda request, limits, read: read(answer))
        ask = data.draw(st.sampled_from([service.observed, service.forecast]))
        try:
            series = ask(zone, NOW_S)
        except api.NoIntensityError as error:
            assert is_told(error)
            return
    assert decoded(encoded(series)) == series
    found = matched(series, NOW_S, NOW_S + 15)
    assert found is None or 0 <= found.g_per_kwh <= 5000


SERIES = Series(
    "uk", "GB", "a source", "zone",
    known=(Span(NOW_S, NOW_S + 1800, 231, "observed"),),
    foreseen=(Span(NOW_S + 1800, NOW_S + 3600, 5, "forecast"),),
    asked_at_s=NOW_S,
)  # fmt: skip


@given(
    spoiled(json.loads(encoded(SERIES))).map(json.dumps).map(str.encode) | garbled(encoded(SERIES))
)
def test_values_that_are_kept_or_told_by_the_collector_are_read_or_refused(content):
    try:
        series = decoded(content)
    except ValueError:
        return
    list(series.spans_over(NOW_S - 1e6, NOW_S + 1e6))
    matched(series, NOW_S, NOW_S + 15)


TABLE = "# timezone: Europe/Amsterdam\n# source: x\nhour,g_per_kwh\n" + "".join(
    f"{h},{h}\n" for h in range(24)
)
TIMED = (
    "start,end,g_per_kwh\n2026-11-22T00:00:00Z,2026-11-23T00:00:00Z,310\n2026-11-23T01:00,,311\n"
)
SAMPLE = {
    "timezone": "UTC",
    "source": "x",
    "hours": {day: [1] * 24 for day in ["mon", "tue", "wed", "thu", "fri", "sat", "sun"]},
}


@given(garbled(TABLE) | garbled(TIMED) | spoiled(SAMPLE).map(json.dumps).map(str.encode))
def test_a_schedule_is_read_or_refused(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "schedule"
    path.write_bytes(content)
    try:
        schedule = read_schedule(path)
    except ValueError as error:
        assert is_told(error)
        return
    matched(schedule, NOW_S, NOW_S + 15)


# -- Kubernetes ----------------------------------------------------------------------------------------

REVIEW = {
    "status": {
        "authenticated": True,
        "audiences": ["emissions-collector"],
        "user": {
            "username": "system:serviceaccount:team-a:default",
            "extra": {
                "authentication.kubernetes.io/pod-name": ["p"],
                "authentication.kubernetes.io/pod-uid": ["u"],
                "authentication.kubernetes.io/node-name": ["n"],
            },
        },
    }
}


@given(spoiled(REVIEW))
def test_the_node_meter_takes_a_review_or_says_why_not(review):
    found = caller_in(review, "emissions-collector")
    assert isinstance(found, refusal.Refusal) or (found.namespace, found.pod, found.pod_uid)
    if isinstance(found, refusal.Refusal):
        assert is_told(found)


@given(spoiled(REVIEW))
def test_the_collector_takes_a_review_or_says_why_not(review):
    with contextlib.suppress(ValueError, TypeError, AttributeError):  # which `_answered` expects
        status = _status_in(review)
        with contextlib.suppress(Refusal):
            assert status is None or isinstance(caller_of(status, "emissions-collector"), Caller)


def test_a_review_that_says_so_only_in_other_words_is_no_acceptance():
    for truth in ("true", 1, [True], {"a": 1}):
        changed = {"status": {**REVIEW["status"], "authenticated": truth}}
        assert isinstance(caller_in(changed, "emissions-collector"), refusal.Refusal)
        with pytest.raises(Refusal):
            caller_of(_status_in(changed), "emissions-collector")


POD = {
    "metadata": {
        "namespace": "team-a", "name": "train-0", "uid": "u", "labels": {"ml.azure.com/run-id": "r"},
        "annotations": {"emissions/track": "true", "emissions/status": "skipped: x"},
    },
    "spec": {"initContainers": [{"name": "emissions-sidecar"}], "containers": [{"name": "train"}]},
    "status": {
        "phase": "Running",
        "initContainerStatuses": [
            {
                "name": "emissions-sidecar",
                "state": {
                    "running": {"startedAt": HOUR}, "waiting": {"reason": "r"},
                    "terminated": {"exitCode": 1, "message": '{"energy_kwh": 1, "refused_segments": 2}'},
                },
                "lastState": {"terminated": {"message": '{"error": "e"}'}},
            }
        ],
    },
}  # fmt: skip
MESSAGE = {
    "energy_kwh": 1.0,
    "emissions_g": 2.0,
    "unshipped_records": 3,
    "project": "p",
    "error": None,
}


def with_message(message: str):
    ended = {"terminated": {"exitCode": 0, "message": message}}
    status = {"initContainerStatuses": [{"name": "emissions-sidecar", "state": ended}]}
    return {**POD, "status": status}


@given(
    spoiled(POD)
    | spoiled(MESSAGE).map(json.dumps).map(with_message)
    | st.text(max_size=200).map(with_message)
    | st.just(with_message(DEEP))
)
def test_a_pod_that_the_api_lists_is_told_of_short_and_harmless(pod):
    if not isinstance(pod, dict):
        return
    _asked(pod, frozenset({"team-a"}), "all")
    tracked = _tracked(pod, NOW)
    assert len(tracked.reason) <= TOLD_MAX
    assert tracked.reason.isprintable()
    amounts = tracked.words.amounts if tracked.words else None
    assert amounts is None or all(
        amount is None or 0 <= amount < 1e15 for amount in (amounts.energy_kwh, amounts.emissions_g)
    )


SUMMARY = {
    "node": {},
    "pods": [
        {
            "podRef": {"uid": "u"},
            "containers": [
                {
                    "name": "c", "startTime": HOUR,
                    "cpu": {"time": HOUR, "usageCoreNanoSeconds": 12},
                    "memory": {"workingSetBytes": 5},
                }
            ],
            "cpu": {"time": HOUR, "usageCoreNanoSeconds": 7},
        }
    ],
}  # fmt: skip


@given(
    spoiled(SUMMARY).map(json.dumps).map(str.encode) | garbled(json.dumps(SUMMARY)),
    st.integers(1, 99),
)
def test_a_summary_of_kubelet_is_read_or_refused(content, size):
    pieces = (content[at : at + size] for at in range(0, len(content), size))
    try:
        pod_in_summary(pieces, "u")
    except ValueError as error:
        assert is_told(error)


METRICS = {
    "kind": "PodMetrics", "timestamp": HOUR, "window": "1m15.2s",
    "containers": [{"name": "c", "usage": {"cpu": "12345n", "memory": "5Ki"}}],
}  # fmt: skip


@given(spoiled(METRICS))
def test_metrics_of_a_pod_are_read_or_refused(answer):
    try:
        parse_pod_metrics(answer, "emissions-sidecar")
    except ValueError as error:
        assert is_told(error)


# -- files of the kernel -----------------------------------------------------------------------------

STAT = "cpu  1 2 3 4 5 6 7 0 0 0\ncpu0 1 2 3 4 5 6 7\nintr 0\n"
MEMINFO = "MemTotal: 1000 kB\nMemFree: 1 kB\nMemAvailable: 900 kB\nBuffers: 1 kB\n"
PROCESS = "1 (a) b) S 0 1 1 0 -1 4 1 0 0 0 5 6 7 8 20 0 1 0 99 1 1 0\n"
CPU_STAT = "usage_usec 5000000\nuser_usec 1\n"
MEMORY_STAT = "anon 1\ninactive_file 4\ntotal_inactive_file 3\n"


@pytest.mark.parametrize(("parse", "sample"), [(parse_stat, STAT), (parse_meminfo, MEMINFO)])
@given(data=st.data())
def test_a_file_of_the_node_is_read_or_refused(parse, sample, data):
    try:
        parse(data.draw(garbled(sample)))
    except ValueError as error:
        assert is_told(error)


@given(garbled(PROCESS))
def test_a_process_is_read_or_refused(tmp_path_factory, content):
    directory = tmp_path_factory.getbasetemp() / "proc" / "1"
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "stat").write_bytes(content)
    with contextlib.suppress(OSError, ValueError):
        times = ProcessTable(directory.parent).times_of(1)
        assert times.own_ticks >= 0


@given(
    garbled(CPU_STAT) | garbled("5000000\n"),
    garbled(MEMORY_STAT) | garbled("77\n"),
    st.sampled_from([1, 2]),
)
def test_a_cgroup_is_read_or_refused(tmp_path_factory, cpu, memory, version):
    directory = tmp_path_factory.getbasetemp() / "cgroup"
    directory.mkdir(exist_ok=True)
    for name in ("cpuacct.usage", "cpu.stat", "cpu.weight", "cpu.shares"):
        (directory / name).write_bytes(cpu)
    for name in ("memory.current", "memory.usage_in_bytes", "memory.stat"):
        (directory / name).write_bytes(memory)
    pod = PodCgroup("u", version, *(str(directory),) * 3)
    size = pod.working_set_bytes()
    assert size is None or size >= 0
    try:
        assert pod.read().cpu_s >= 0
    except OSError as error:
        assert is_told(error)


# -- volume and program --------------------------------------------------------------------------------

RECORD = b'{"record_id":"u.b.1","project":"p"}\n'


@given(garbled(RECORD * 3), garbled(compressed(RECORD * 3)) | garbled(RECORD).map(compressed))
def test_what_a_killed_process_left_is_repaired_or_left_alone(tmp_path_factory, plain, packed):
    directory = tmp_path_factory.mktemp("records", numbered=True)
    name = SegmentName("u", "b", 1)
    (directory / f"{name}.ndjson").write_bytes(plain)
    (directory / f"{name}.ndjson.gz").write_bytes(packed)
    with contextlib.suppress(OSError, NotASegment):
        found = _repaired(directory, name)
        assert found is None or found.name.stem == name.stem


RUN = {
    "service": "emissions-sidecar", "windows": 3, "cpu_model": "x", "logical_cpus": 2,
    "totals": {"pod_uid": "u", "emissions_g": 1.0, "gpus": [{"uuid": "g", "energy_kwh": 1.0}]},
}  # fmt: skip


@given(spoiled(RUN))
def test_a_run_that_something_tells_on_loopback_is_read_or_not_believed(content):
    with contextlib.suppress(*_NO_ANSWER):
        run_from(content)


@given(
    garbled("v1.WyJhIiwiYiIsImMiLCJkIl0." + "a" * 43).map(lambda text: text.decode("latin-1")),
    st.booleans(),
)
def test_no_receipt_is_taken_that_was_not_given(text, is_signed):
    receipts = Receipts(b"k" * 32)
    if is_signed:
        text = f"v1.{text[:20]}.{receipts._signature(text[:20])}"
    with pytest.raises(Refusal):
        receipts.holder(text)


# -- tables and configuration --------------------------------------------------------------------------

HEADER = (
    "timestamp,project_name,run_id,duration,emissions,energy_consumed,"
    "pue,gpu_count,gpu_model,task_name\n"
)
ROWS = (
    "2026-11-01T00:00:00,demo,r,3600,0.1,0.2,1.2,2,2 x A100,\n"
    "2026-11-01T00:00:00,demo,r,1e5,0.1,0.2,,,,t\n"
)


@dataclass
class Table:
    content: bytes
    name: str = "emissions.csv"

    def open(self):
        return io.BytesIO(self.content)


@given(garbled(ROWS).map(lambda rows: HEADER.encode() + rows) | garbled(HEADER + ROWS))
def test_runs_of_a_table_are_taken_or_counted(content):
    seen = ReadReport()
    for run in parted(runs([Table(content)], seen)):
        assert run.duration_s >= 0
        assert run.energy_kwh is None or run.energy_kwh >= 0


CONFIG = (
    "[codecarbon]\nproject_name = x\nmeasure_power_secs = 15\ngpu_ids = 0,1\nlog_level = critical\n"
)


@given(garbled(CONFIG))
def test_a_configuration_of_codecarbon_is_read_or_refused(content):
    try:
        keys = read_section(content.decode(errors="replace"))
    except ValueError as error:
        assert is_told(error)
        return
    list(toml_lines(converted(keys)))
