"""MetricsApiSource against an API server on loopback that answers well, badly, late or not at all."""

import json
import logging
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sidecar.kubernetes_http import KubernetesHttp
from sidecar.meters.pod.metrics_api import (
    LAGS_S,
    MetricsApiSource,
    parse_duration_s,
    parse_pod_metrics,
)
from tests.fakes import collector as fake
from tests.fakes.kubelet import DATA, TOKEN, FakeKubelet
from tests.meters.pod.told import EPOCH_S, Clock, detail, untold, used_s

PATH = "/apis/metrics.k8s.io/v1beta1/namespaces/team-a/pods/train-0"
GOLDEN = (DATA / "metrics-api" / "pod-metrics.json").read_bytes()
LONG_AFTER_S = LAGS_S[-1]
SHORT_S = 0.3


def metrics(
    moment_s: float, window: str = "15s", *, train: str = "2", **changes: Any
) -> dict[str, Any]:
    moment = datetime.fromtimestamp(EPOCH_S + moment_s, UTC)
    return {
        "kind": "PodMetrics",
        "apiVersion": "metrics.k8s.io/v1beta1",
        "timestamp": moment.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "window": window,
        "containers": [
            {"name": "emissions-sidecar", "usage": {"cpu": "2m", "memory": "30Mi"}},
            {"name": "train", "usage": {"cpu": train, "memory": "1Gi"}},
        ],
        **changes,
    }


@pytest.fixture
def api() -> Iterator[FakeKubelet]:
    with FakeKubelet() as started:
        started.documents[PATH] = GOLDEN
        yield started


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def http(api: FakeKubelet, tmp_path: Path) -> KubernetesHttp:
    token_file = tmp_path / "token"
    token_file.write_text(TOKEN)
    return KubernetesHttp(api.url, token_file, tmp_path / "ca.crt")


@pytest.fixture
def source(http: KubernetesHttp, clock: Clock) -> MetricsApiSource:
    return MetricsApiSource(http, "team-a", "train-0", clock=clock)


Serve = Callable[..., float]


@pytest.fixture
def serve(api: FakeKubelet, source: MetricsApiSource, clock: Clock) -> Serve:
    """Answer with these metrics at a time, and return what the source makes of it."""

    def served(now_s: float, answer: dict[str, Any]) -> float:
        api.documents[PATH] = json.dumps(answer).encode()
        clock.now_s = now_s
        return used_s(source)

    return served


# -- what is asked and taken --------------------------------------------------------------------


def test_metrics_of_a_real_shape_are_taken_without_our_own_container() -> None:
    taken = parse_pod_metrics(json.loads(GOLDEN), "emissions-sidecar")
    assert taken.cpus == pytest.approx(3.876543210 + 0.0045)
    assert taken.working_set_bytes == 20_971_520 * 1024 + 45 * 1024**2
    assert taken.window_s == pytest.approx(15.072)
    assert taken.moment_s == EPOCH_S + 3 * 60 + 47


def test_the_reading_says_where_it_is_from(source: MetricsApiSource, clock: Clock) -> None:
    clock.now_s = 240
    reading = source.read()
    assert (reading.method, reading.epoch, reading.memory_byte_s) == ("metrics-api", 0, None)
    assert reading.working_set_bytes == 20_971_520 * 1024 + 45 * 1024**2
    assert (source.is_local, source.needs_sampling) == (False, False)
    assert "pods.metrics.k8s.io" in source.needs
    assert "token" in source.needs


def test_this_pod_alone_is_asked_for(api: FakeKubelet, source: MetricsApiSource) -> None:
    source.read()
    assert [(asked.method, asked.path) for asked in api.requests] == [("GET", PATH)]


def test_a_name_cannot_lead_elsewhere(api: FakeKubelet, http: KubernetesHttp) -> None:
    MetricsApiSource(http, "a/b", "../../secrets?x").read()
    assert api.requests[0].path.endswith("/namespaces/a%2Fb/pods/..%2F..%2Fsecrets%3Fx")


def test_each_mean_stands_for_the_time_since_the_one_before(serve: Serve) -> None:
    serve(100, metrics(95, train="2"))
    serve(115, metrics(110, train="1"))
    assert serve(115 + LONG_AFTER_S, metrics(110)) == pytest.approx(2 * 15 + 1 * 15)


def test_the_same_mean_again_counts_nothing(serve: Serve) -> None:
    told = [serve(100 + second, metrics(95, train="2")) for second in range(0, 200, 10)]
    assert told[-1] == pytest.approx(30)


def test_a_mean_of_an_earlier_time_counts_nothing(serve: Serve) -> None:
    serve(100, metrics(95, train="2"))
    serve(115, metrics(80, train="9"))
    assert serve(300, metrics(95, train="2")) == pytest.approx(30)


def test_nothing_from_before_our_start_is_counted(serve: Serve) -> None:
    assert serve(300, metrics(10, "60s", train="2")) == pytest.approx(20)


def test_a_mean_that_ended_before_our_start_is_no_use_of_ours(serve: Serve) -> None:
    assert serve(5, metrics(-10, train="2")) == 0
    assert serve(300, metrics(5, "15s", train="2")) == pytest.approx(10)


def test_steady_use_is_told_steadily_though_means_come_at_odd_times(serve: Serve) -> None:
    """Means each 20 s, readings each 15 s: the means alone give 40, 40, 0 CPU seconds a window."""
    told = [serve(now_s, metrics(now_s // 20 * 20, "20s")) for now_s in range(60, 480, 15)]
    steps = [later - earlier for earlier, later in pairwise(told[4:])]
    assert steps == pytest.approx([30.0] * len(steps))


def test_a_clock_that_is_set_back_goes_on_from_there(serve: Serve) -> None:
    serve(3700, metrics(3690, train="2"))
    before_s = serve(3700 + LONG_AFTER_S, metrics(3690))
    serve(100, metrics(95, train="2"))
    serve(115, metrics(110, train="2"))
    assert before_s < serve(300, metrics(110)) <= before_s + 2 * 20


# -- what never happens, whatever the history ----------------------------------------------------


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(st.data(), st.lists(st.tuples(st.integers(1, 60), st.floats(0, 96)), min_size=1, max_size=8))
def test_cpu_time_never_falls_nor_exceeds_what_was_used_and_in_the_end_is_that(
    api: FakeKubelet, http: KubernetesHttp, data: st.DataObject, tiles: list[tuple[int, float]]
) -> None:
    """metrics-server's means lie end to end; answers may be repeated or old, but none is missed."""
    clock = Clock()
    source = MetricsApiSource(http, "team-a", "train-0", clock=clock)
    answers: list[bytes] = []
    told_s = truly_s = 0.0
    moment_s = 0
    for length_s, cpus in tiles:
        moment_s += length_s
        nanocores = int(cpus * 1e9)
        truly_s += nanocores * 1e-9 * length_s
        clock.now_s = max(clock.now_s, moment_s + data.draw(st.integers(0, 90)))
        answer = metrics(moment_s, f"{length_s}s", train=f"{nanocores}n")
        answers.append(json.dumps(answer).encode())
        for served in (answers[-1], *data.draw(st.lists(st.sampled_from(answers), max_size=2))):
            api.documents[PATH] = served
            cpu_s = used_s(source)
            assert told_s <= cpu_s <= truly_s * (1 + 1e-9)
            told_s = cpu_s
    clock.now_s += LONG_AFTER_S
    assert used_s(source) == pytest.approx(truly_s)


# -- peers that cannot be worked with -----------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "file", "told"),
    [
        (404, "not-found.json", "metrics-server is not installed, or has not seen this pod yet"),
        (403, "forbidden.json", "a Role in namespace team-a with get on pods.metrics.k8s.io"),
        (503, "unavailable.json", "currently unable to handle the request; it may pass"),
    ],
)
def test_a_refusal_says_what_to_do(
    api: FakeKubelet, source: MetricsApiSource, status: int, file: str, told: str
) -> None:
    api.always = fake.respond_raw(status, (DATA / "metrics-api" / file).read_bytes())
    assert told in untold(source)


def test_a_server_without_the_api_is_told(api: FakeKubelet, source: MetricsApiSource) -> None:
    api.documents.clear()
    assert "404 page not found" in untold(source)
    assert "metrics-server is not installed" in detail(source)


def test_a_source_that_was_never_granted_is_no_warning(
    api: FakeKubelet, source: MetricsApiSource, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="sidecar")
    api.allowed = False
    untold(source)
    assert [record.levelname for record in caplog.records] == ["INFO"]


def test_a_source_that_worked_and_fails_is_a_warning(
    api: FakeKubelet, source: MetricsApiSource, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    clock.now_s = 240
    source.read()
    api.documents.clear()
    untold(source)
    warnings = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(warnings) == 1


@pytest.mark.parametrize("fault", [fake.hang, fake.drip, fake.drip_headers, fake.flood(200)])
def test_a_slow_or_endless_answer_is_left(
    api: FakeKubelet,
    source: MetricsApiSource,
    monkeypatch: pytest.MonkeyPatch,
    fault: fake.Fault,
) -> None:
    monkeypatch.setattr("sidecar.meters.pod.metrics_api.DEADLINE_S", SHORT_S)
    api.always = fault
    told = untold(source)
    assert "within 0.3 s" in told or "longer than 1048576 bytes" in told


def test_a_time_far_ahead_is_not_believed(
    api: FakeKubelet, source: MetricsApiSource, serve: Serve
) -> None:
    """It would count for years, and stop the counting for years."""
    api.documents[PATH] = json.dumps(metrics(10_000_000, train="2")).encode()
    assert "10000000 s ahead of this node's clock" in untold(source)
    assert serve(300, metrics(15, train="2")) == pytest.approx(30)


def usage(**quantities: Any) -> list[dict[str, Any]]:
    return [{"name": "train", "usage": {"cpu": "1", "memory": "1Gi", **quantities}}]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"kind": "NodeMetrics"}, "no PodMetrics"),
        ({"containers": None}, "no PodMetrics"),
        ({"containers": []}, "no container of the pod but our own"),
        ({"containers": [{"name": "emissions-sidecar", "usage": {}}]}, "but our own"),
        ({"containers": [1]}, "a container without usage"),
        ({"containers": [{"name": "train"}]}, "a container without usage"),
        ({"containers": usage() * 500}, "500 containers in one pod"),
        ({"containers": usage(cpu=None)}, "a container's cpu is 'None', no quantity"),
        ({"containers": usage(memory=5)}, "memory is '5', no quantity"),
        ({"containers": usage(cpu="-5n")}, "no Kubernetes quantity"),
        ({"containers": usage(cpu="NaN")}, "no Kubernetes quantity"),
        ({"containers": usage(cpu="1e300")}, "more than any node has"),
        ({"containers": usage(cpu="1e999")}, "too large"),
        ({"containers": usage(cpu="9" * 10_000)}, "no quantity"),
        ({"containers": usage(memory="99999Ei")}, "more than any node has"),
        ({"timestamp": None}, "timestamp 'None' is no time"),
        ({"timestamp": "now"}, "timestamp 'now' is no time"),
        ({"window": 15}, "window '15' is no duration"),
        ({"window": "-15s"}, "no duration"),
        ({"window": "1e9s"}, "no duration"),
    ],
)
def test_an_answer_that_no_metrics_server_gives_is_told(
    api: FakeKubelet, source: MetricsApiSource, changes: dict[str, Any], told: str
) -> None:
    api.documents[PATH] = json.dumps(metrics(0, **changes)).encode()
    assert told in untold(source)


@pytest.mark.parametrize("answer", [None, 5, "a", [], {}])
def test_what_is_no_object_is_no_pod_metrics(answer: object) -> None:
    with pytest.raises(ValueError, match="no PodMetrics"):
        parse_pod_metrics(answer, "emissions-sidecar")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("15.072s", 15.072),
        ("30s", 30),
        ("1m0s", 60),
        ("1h2m3.5s", 3723.5),
        ("100ms", 0.1),
        ("5µs", 5e-6),
        ("7us", 7e-6),
        ("10ns", 1e-8),
    ],
)
def test_a_go_duration_is_read(text: str, seconds: float) -> None:
    assert parse_duration_s(text) == pytest.approx(seconds)


@given(st.text())
def test_any_other_text_is_no_duration(text: str) -> None:
    try:
        seconds = parse_duration_s(text)
    except ValueError as error:
        assert str(error).isprintable()
    else:
        assert seconds >= 0
