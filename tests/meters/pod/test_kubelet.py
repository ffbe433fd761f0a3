"""KubeletSource against a kubelet on loopback that answers well, badly, late or not at all."""

import json
import logging
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sidecar.kubernetes_http import KubernetesHttp
from sidecar.meters.pod.kubelet import LAGS_S, RUNS_MAX, ContainerTally, KubeletSource
from sidecar.meters.pod.kubelet_summary import ContainerStats, moment_of, pod_in_summary
from sidecar.meters.pod.sampled_counter import Sample
from tests.fakes import collector as fake
from tests.fakes.collector import make_certificate
from tests.fakes.kubelet import DATA, SUMMARY_PATH, TOKEN, FakeKubelet
from tests.meters.pod.told import EPOCH_S, Clock, detail, untold, used_s

UID = "7d5b1f6e-0000-4000-8000-000000000001"
GOLDEN = (DATA / "kubelet" / "summary.json").read_bytes()
SHORT_S = 0.3


def time_of(seconds: float) -> str:
    """As kubelet writes it: cut to whole seconds."""
    return datetime.fromtimestamp(EPOCH_S + seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def container(
    name: str, used_s: float, looked_s: float, *, started_s: float = 0, size: int = 1000
) -> dict[str, Any]:
    return {
        "name": name,
        "startTime": time_of(started_s),
        "cpu": {"time": time_of(looked_s), "usageCoreNanoSeconds": int(used_s * 1e9)},
        "memory": {"time": time_of(looked_s), "workingSetBytes": size},
    }


def summary(
    *containers: dict[str, Any], pod_used_s: float | None = None, looked_s: float = 0
) -> bytes:
    pod: dict[str, Any] = {"podRef": {"name": "train-0", "uid": UID}, "containers": containers}
    if pod_used_s is not None:
        usage_ns = int(pod_used_s * 1e9)
        pod["cpu"] = {"time": time_of(looked_s), "usageCoreNanoSeconds": usage_ns}
    return json.dumps({"node": {"nodeName": "n"}, "pods": [pod]}).encode()


@pytest.fixture
def kubelet() -> Iterator[FakeKubelet]:
    with FakeKubelet() as started:
        started.documents[SUMMARY_PATH] = GOLDEN
        yield started


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    file = tmp_path / "token"
    file.write_text(TOKEN)
    return file


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def source(kubelet: FakeKubelet, token_file: Path, clock: Clock) -> KubeletSource:
    return KubeletSource(KubernetesHttp(kubelet.url, token_file, token_file), UID, clock=clock)


Serve = Callable[..., float]


@pytest.fixture
def serve(kubelet: FakeKubelet, source: KubeletSource, clock: Clock) -> Serve:
    """Answer with these containers at a time, and return what the source makes of it long after."""

    def served(now_s: float, *containers: dict[str, Any], **pod: Any) -> float:
        kubelet.documents[SUMMARY_PATH] = summary(*containers, **pod)
        clock.now_s = now_s
        return used_s(source)

    return served


# -- what is asked and taken --------------------------------------------------------------------


def test_containers_of_a_real_shape_are_added_up_without_our_own(
    source: KubeletSource, clock: Clock
) -> None:
    clock.now_s = 3 * 60 + 50 + LAGS_S[-1]
    assert used_s(source) == pytest.approx(14_123.456789 + 17.0)
    assert source.read().working_set_bytes == 21_474_836_480 + 47_185_920


def test_the_reading_says_where_it_is_from(source: KubeletSource) -> None:
    reading = source.read()
    assert (reading.method, reading.epoch, reading.memory_byte_s) == ("kubelet", 0, None)
    assert (source.is_local, source.needs_sampling) == (False, False)
    assert "nodes/stats" in source.needs
    assert "token" in source.needs


def test_only_numbers_of_cpu_and_memory_are_asked_for(
    kubelet: FakeKubelet, source: KubeletSource
) -> None:
    source.read()
    (asked,) = kubelet.requests
    assert (asked.method, asked.path) == ("GET", "/stats/summary?only_cpu_and_memory=true")


def test_a_container_that_restarts_begins_anew(serve: Serve) -> None:
    serve(100, container("train", 50, 100))
    serve(115, container("train", 4, 115, started_s=105))
    assert serve(200, container("train", 4, 115, started_s=105)) == 54


def test_what_an_init_container_used_stays(serve: Serve) -> None:
    serve(100, container("prepare", 240, 100))
    assert serve(300, container("train", 10, 150, started_s=105)) == 250


def test_a_container_listed_twice_counts_once(serve: Serve) -> None:
    assert serve(200, container("train", 50, 100), container("train", 50, 100)) == 50


def test_a_counter_that_goes_back_is_not_taken(serve: Serve) -> None:
    """kubelet tells 0 for a container whose numbers the runtime does not give."""
    assert serve(200, container("train", 50, 100)) == 50
    assert serve(215, container("train", 0, 215)) == 50
    assert serve(300, container("train", 60, 230)) == 60


def test_a_container_without_numbers_yet_does_not_hide_the_others(serve: Serve) -> None:
    fresh = {"name": "log-shipper", "startTime": time_of(190)}
    assert serve(200, container("train", 50, 100), fresh) == 50


def test_a_start_time_that_is_told_anew_does_not_double_what_was_used(serve: Serve) -> None:
    """As after a restart of kubelet. The counter of the pod's cgroup goes on, and bounds the sum."""
    serve(200, container("train", 500, 100, started_s=0), pod_used_s=501, looked_s=100)
    told = serve(
        300, container("train", 520, 200, started_s=1), pod_used_s=521, looked_s=200
    )  # fmt: skip
    assert told == 521


def test_our_own_part_of_the_cgroup_is_not_the_pods(serve: Serve) -> None:
    serve(200, container("train", 500, 100), container("emissions-sidecar", 7, 100))
    again = (container("train", 510, 190, started_s=1), container("emissions-sidecar", 8, 190))
    assert serve(300, *again, pod_used_s=520, looked_s=190) == 512


def test_a_counter_of_the_pod_that_falls_is_no_bound(serve: Serve) -> None:
    """Where kubelet has none of the cgroup, it adds up the containers that there are."""
    serve(100, container("prepare", 240, 100), pod_used_s=240, looked_s=100)
    serve(200, container("train", 10, 190, started_s=105), pod_used_s=10, looked_s=190)
    told = serve(320, container("train", 30, 250, started_s=105), pod_used_s=30, looked_s=250)
    assert told == 270


def test_a_pod_that_restarts_its_containers_for_years_takes_bounded_memory() -> None:
    tally = ContainerTally()
    for run in range(3 * RUNS_MAX):
        tally.add(ContainerStats("train", str(run), run, Sample(run + 1.0, 2.0), None))
    assert tally.at(1e9) == tally.latest_s == 2.0 * 3 * RUNS_MAX
    assert len(tally._runs) == RUNS_MAX


def test_steady_use_is_told_steadily_though_kubelet_looks_at_odd_times(serve: Serve) -> None:
    """4 CPUs, windows of 15 s, looks each 20 s: the looks alone give 80, 80, 0 CPU seconds a window."""
    told = [
        serve(now_s, container("train", 4 * (now_s // 20 * 20), now_s // 20 * 20, started_s=-60))
        for now_s in range(60, 360, 15)
    ]
    steps = [later - earlier for earlier, later in pairwise(told[4:])]
    assert steps == pytest.approx([60.0] * len(steps))


def test_the_end_of_a_pod_is_seen_but_for_the_lag(serve: Serve) -> None:
    assert serve(100, container("train", 100, 100)) == pytest.approx(100 - LAGS_S[0])


def test_a_kubelet_that_lists_no_containers_in_its_short_form_is_asked_for_all(
    kubelet: FakeKubelet, source: KubeletSource, clock: Clock
) -> None:
    kubelet.documents[SUMMARY_PATH + "?only_cpu_and_memory=true"] = summary(
        pod_used_s=60, looked_s=100
    )
    kubelet.documents[SUMMARY_PATH] = summary(container("train", 50, 100))
    clock.now_s = 200
    assert "no CPU time of this pod's containers" in untold(source)
    assert used_s(source) == 50
    assert kubelet.requests[-1].path == SUMMARY_PATH


def test_the_age_of_the_counter_is_told_with_it(
    serve: Serve, source: KubeletSource, clock: Clock
) -> None:
    serve(100, container("train", 100, 75))
    assert source.read().age_s == 30
    clock.now_s = 110
    assert source.read().age_s == 60, "a look of 35 s ago: kubelet is overloaded"


# -- what never happens, whatever the history ----------------------------------------------------


@dataclass(frozen=True)
class Run:
    """One run of a container that uses a steady number of CPUs."""

    name: str
    started_s: int
    ended_s: int
    cpus: float

    def used_s(self, now_s: float) -> float:
        return self.cpus * max(0.0, min(now_s, self.ended_s) - self.started_s)


@st.composite
def histories(draw: st.DrawFn) -> list[Run]:
    runs = [Run("emissions-sidecar", 0, 10_000, 0.01)]
    for name in draw(st.sampled_from([("a",), ("a", "b"), ("a", "b", "c")])):
        at_s = draw(st.integers(0, 60))
        for _ in range(draw(st.integers(1, 4))):
            ended_s = at_s + draw(st.integers(1, 120))
            runs.append(Run(name, at_s, ended_s, draw(st.floats(0, 96))))
            at_s = ended_s + draw(st.integers(1, 60))
    return runs


def document(
    runs: list[Run], now_s: int, looks: list[int], *, shifted: bool, with_pod: bool
) -> bytes:
    """What kubelet tells at a time: of running containers, each as of some seconds ago."""
    containers = []
    for run, ago_s in zip(runs, looks, strict=False):
        looked_s = now_s - ago_s
        if run.started_s < looked_s and now_s < run.ended_s:
            begun_s = run.started_s + shifted
            told = container(run.name, run.used_s(looked_s), looked_s, started_s=begun_s)
            containers.append(told)
    pod_looked_s = now_s - looks[-1]
    pod_used_s = sum(run.used_s(pod_looked_s) for run in runs) if with_pod else None
    return summary(*containers, pod_used_s=pod_used_s, looked_s=pod_looked_s)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(st.data(), histories(), st.booleans())
def test_whatever_comes_goes_and_is_stale_cpu_time_never_falls_nor_exceeds_what_was_used(
    kubelet: FakeKubelet, token_file: Path, data: st.DataObject, runs: list[Run], with_pod: bool
) -> None:
    clock = Clock()
    http = KubernetesHttp(kubelet.url, token_file, token_file)
    source = KubeletSource(http, UID, clock=clock)
    answers: list[bytes] = []
    told_s = 0.0
    for _ in range(data.draw(st.integers(1, 8))):
        clock.now_s += data.draw(st.integers(1, 60))
        # A start time that changes without a restart can be seen only by the pod's own counter.
        shifted = with_pod and data.draw(st.booleans())
        looks = data.draw(st.lists(st.integers(0, 30), min_size=20, max_size=20))
        answers.append(document(runs, int(clock.now_s), looks, shifted=shifted, with_pod=with_pod))
        kubelet.documents[SUMMARY_PATH] = data.draw(st.sampled_from([answers[-1], *answers]))
        cpu_s = source.read().cpu_s
        if cpu_s is None:
            continue
        # Times have whole seconds: our own use since kubelet's look is not known to it.
        ours_s = runs[0].used_s(clock.now_s) if with_pod else 0.0
        truly_s = sum(run.used_s(clock.now_s) for run in runs[1:])
        assert told_s <= cpu_s <= truly_s + ours_s + 1e-6
        told_s = cpu_s


@given(st.lists(st.integers(1, 25), min_size=1, max_size=30), st.floats(0, 96))
def test_nothing_of_a_running_container_is_lost(gaps_s: list[int], cpus: float) -> None:
    tally = ContainerTally()
    looked_s = 0
    for gap_s in gaps_s:
        looked_s += gap_s
        tally.add(ContainerStats("train", "now", 0.0, Sample(looked_s, cpus * looked_s), None))
    assert tally.at(looked_s) == tally.latest_s == cpus * looked_s


# -- peers that cannot be worked with -----------------------------------------------------------


def test_a_pod_that_is_not_listed_is_told(token_file: Path, kubelet: FakeKubelet) -> None:
    source = KubeletSource(KubernetesHttp(kubelet.url, token_file, token_file), "another")
    told = untold(source)
    assert "lists 3 pods, but not 'another'" in told
    assert "POD_UID and HOST_IP" in told


def test_a_source_that_was_never_granted_is_no_warning(
    kubelet: FakeKubelet, source: KubeletSource, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="sidecar")
    kubelet.allowed = False
    assert "a ClusterRole with get on nodes/stats" in untold(source)
    assert [record.levelname for record in caplog.records] == ["INFO"]


def test_a_source_that_worked_and_fails_is_a_warning_once(
    kubelet: FakeKubelet, source: KubeletSource, caplog: pytest.LogCaptureFixture
) -> None:
    source.read()
    kubelet.allowed = False
    for _ in range(3):
        untold(source)
    warnings = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(warnings) == 1


def test_a_certificate_of_another_authority_is_never_read_past(
    tmp_path: Path, token_file: Path
) -> None:
    other = make_certificate(tmp_path / "other").authority_file
    with FakeKubelet(tls=make_certificate(tmp_path / "tls")) as kubelet:
        source = KubeletSource(KubernetesHttp(kubelet.url, token_file, other), UID)
        assert "serving certificate rotation" in untold(source)
    assert kubelet.requests == []


def test_a_kubelet_of_the_clusters_authority_is_read(tmp_path: Path, token_file: Path) -> None:
    certificate = make_certificate(tmp_path / "tls")
    with FakeKubelet(tls=certificate) as kubelet:
        kubelet.documents[SUMMARY_PATH] = GOLDEN
        http = KubernetesHttp(kubelet.url, token_file, certificate.authority_file)
        assert used_s(KubeletSource(http, UID)) > 0


@pytest.mark.parametrize("fault", [fake.hang, fake.drip, fake.drip_headers, fake.flood(200)])
def test_a_slow_or_endless_answer_is_left(
    kubelet: FakeKubelet,
    source: KubeletSource,
    monkeypatch: pytest.MonkeyPatch,
    fault: fake.Fault,
) -> None:
    monkeypatch.setattr("sidecar.meters.pod.kubelet.DEADLINE_S", SHORT_S)
    kubelet.always = fault
    assert "within 0.3 s" in untold(source) or "no summary" in detail(source)


def test_what_was_used_in_an_outage_is_not_lost(
    kubelet: FakeKubelet, source: KubeletSource, serve: Serve
) -> None:
    assert serve(200, container("train", 100, 100)) == 100
    kubelet.faults.append(fake.respond_raw(500))
    untold(source)
    assert serve(900, container("train", 700, 800)) == 700


def changed(**parts: Any) -> bytes:
    """An answer whose one container has these parts."""
    return summary({**container("train", 50, 100), **parts})


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b"", "the answer ends"),
        (b"<html>Sign in</html>", "where '{' should be, there is '<html>Sign in</html>'"),
        (b"[]", "where '{' should be"),
        (b"{}", "it has no pods"),
        (b'{"pods": {}}', "where an array should be"),
        (b'{"pods": [', "the answer ends"),
        (b'{"pods": [] "node": 1}', "where ',' should be"),
        (b'{1: 2, "pods": []}', "should be"),
        (b'{"node": NaN, "pods": []}', "where a value should be"),
        (b'{"node": ' + b"[" * 100_000, "where a value should be"),
        (b'{"node": "' + b"x" * 3 * 1024**2, "has over 1048576 characters"),
        (b'{"pods": [{"podRef": "\xff"}]}', "codec can't decode"),
        (b'{"pods": null}', "lists 0 pods"),
        (b'{"pods": [1, null, "a", {"podRef": 1}]}', "lists 4 pods"),
        (summary(), "tells no CPU time"),
        (changed(cpu={"time": time_of(1), "usageCoreNanoSeconds": -1}), "is '-1', no count"),
        (changed(cpu={"time": time_of(1), "usageCoreNanoSeconds": 2**64}), "no count"),
        (changed(cpu={"time": time_of(1), "usageCoreNanoSeconds": 1e300}), "no count"),
        (changed(cpu={"time": time_of(1), "usageCoreNanoSeconds": True}), "no count"),
        (changed(cpu={"time": time_of(1), "usageCoreNanoSeconds": "9"}), "no count"),
        (changed(cpu={"time": "soon", "usageCoreNanoSeconds": 9}), "tells no CPU time"),
        (changed(cpu=[1]), "tells no CPU time"),
        (changed(memory={"workingSetBytes": -5}), "workingSetBytes is '-5'"),
        (changed(name=""), "a container without a name"),
        (changed(name="x" * 10_000), "a container without a name"),
        (summary(*[container("a", 1, 1)] * 500), "500 containers in one pod"),
    ],
)
def test_an_answer_that_no_kubelet_gives_is_told(
    kubelet: FakeKubelet, source: KubeletSource, body: bytes, told: str
) -> None:
    kubelet.always = fake.respond_raw(200, body)
    assert told in untold(source)


# -- the document -------------------------------------------------------------------------------


def pieces_of(content: bytes, size: int) -> Iterator[bytes]:
    return (content[at : at + size] for at in range(0, len(content), size))


@given(st.integers(1, 5000))
def test_a_summary_may_come_in_pieces_of_any_size(size: int) -> None:
    whole = pod_in_summary(iter([GOLDEN]), UID)
    assert whole.pod is not None
    assert pod_in_summary(pieces_of(GOLDEN, size), UID) == whole


@given(st.integers(0, len(GOLDEN.rstrip()) - 1))
def test_a_summary_that_is_cut_short_is_told_or_has_the_pod_whole(length: int) -> None:
    try:
        found = pod_in_summary(pieces_of(GOLDEN[:length], 1000), UID)
    except ValueError as error:
        assert str(error).isprintable()
    else:
        assert found == pod_in_summary(iter([GOLDEN]), UID)


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@pytest.mark.parametrize("cut", range(1, 20))
def test_a_number_may_be_cut_anywhere(cut: int) -> None:
    document = b'{"x": -1.25e+16, "pods": []}'
    assert pod_in_summary(iter([document[:cut], document[cut:]]), UID).pods == 0


@settings(max_examples=40)
@given(st.dictionaries(st.text(), json_values), st.integers(7, 99), st.sampled_from([None, 1]))
def test_members_that_are_not_known_are_passed_by(
    others: dict[str, Any], size: int, indent: int | None
) -> None:
    pods = json.loads(GOLDEN)["pods"]
    text = json.dumps({**others, "pods": pods}, indent=indent).encode()
    assert pod_in_summary(pieces_of(text, size), UID) == pod_in_summary(iter([GOLDEN]), UID)


def test_a_summary_of_a_full_node_takes_little_memory() -> None:
    """250 pods, as kubelet indents them, in 64 KiB pieces."""
    told = json.loads(GOLDEN)
    ours = told["pods"].pop(1)
    for number in range(249):
        other = {**ours, "podRef": {"uid": f"other-{number}"}}
        told["pods"].insert(0, other)
    told["pods"].append(ours)
    content = json.dumps(told, indent=1).encode()
    assert len(content) > 400_000
    pieces = pieces_of(content, 65_536)
    tracemalloc.start()
    try:
        found = pod_in_summary(pieces, UID)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert found.pods == 252
    assert peak_bytes < 512 * 1024


@pytest.mark.parametrize(
    ("text", "moment_s"),
    [
        ("2026-11-22T11:00:05Z", EPOCH_S + 5),
        ("2026-11-22T12:00:05.25+01:00", EPOCH_S + 5.25),
        ("2026-11-22T11:00:05", None),
        ("9999-99-99T00:00:00Z", None),
        ("x" * 1000, None),
        ("", None),
        (None, None),
        (5, None),
    ],
)
def test_a_moment_is_a_time_with_a_zone(text: object, moment_s: float | None) -> None:
    assert moment_of(text) == moment_s
