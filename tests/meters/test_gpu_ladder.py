import itertools
import logging
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.meters.gpu_ladder import PATIENCE_S, GpuLadder
from sidecar.meters.gpu_tally import CounterTally
from sidecar.meters.reading import GpuReading, MeterStatus, NodeReading, PodReading
from sidecar.meters.usage import usage_between

NOTHING = (PodReading(None, None),)


@dataclass
class TrueNode:
    """Boards and the energy that each has really used."""

    energy_mj: dict[str, int] = field(default_factory=lambda: {"GPU-a": 7_000_000})


class CounterMeter:
    """A meter that reads the true counters while it answers, each from its first sight."""

    needs_sampling = False

    def __init__(self, name: str, node: TrueNode, *, answers: bool = True) -> None:
        self.name = name
        self.node = node
        self.answers = answers
        self.shows = True
        self.closed = False
        self.reads = 0
        self.samples = 0
        self.tallies: dict[str, CounterTally] = {}

    def sample(self, monotonic_s: float) -> None:
        self.samples += 1

    def read(self, monotonic_s: float) -> tuple[GpuReading, ...]:
        self.reads += 1
        if self.answers:
            for uuid, energy_mj in self.node.energy_mj.items():
                tally = self.tallies.setdefault(uuid, CounterTally())
                tally.add(energy_mj, monotonic_s, None)
        return tuple(self._reading(uuid) for uuid in self.tallies) if self.shows else ()

    def _reading(self, uuid: str) -> GpuReading:
        tally = self.tallies[uuid]
        return GpuReading(
            uuid=uuid,
            model="NVIDIA A100-SXM4-80GB",
            energy_mj=tally.energy_mj,
            energy_source="energy-counter",
            utilization_s=tally.metered_s / 2,
            observed_s=tally.metered_s,
            power_limit_w=None,
            metered_s=tally.metered_s,
            pod_energy_mj=tally.energy_mj,
            pod_share=1.0,
            share_method=self.name,
            meter=self.name,
        )

    def status(self) -> tuple[MeterStatus, ...]:
        return (MeterStatus(self.name, available=self.answers, detail=f"{self.name} as it is"),)

    def close(self) -> None:
        self.closed = True


@dataclass
class Run:
    """Windows of 15 s of one ladder, one reading each, as an agent takes them."""

    node: TrueNode
    ladder: GpuLadder
    now_s: float = 0.0
    counted_mj: int = 0
    last: tuple[GpuReading, ...] = ()

    def window(self, watts: int = 200, duration_s: float = 15.0) -> int | None:
        for uuid in self.node.energy_mj:
            self.node.energy_mj[uuid] += int(watts * duration_s * 1000)
        before = self._reading(self.last)
        self.now_s += duration_s
        self.last = self.ladder.read(self.now_s)
        gpus = usage_between(before, self._reading(self.last)).gpus
        energies = [gpu.energy_mj for gpu in gpus]
        self.counted_mj += sum(energy or 0 for energy in energies)
        return energies[0] if energies else None

    def begin(self) -> "Run":
        self.ladder.sample(self.now_s)
        return self

    def _reading(self, gpus: tuple[GpuReading, ...]) -> NodeReading:
        return NodeReading(self.now_s, None, None, None, gpus, NOTHING)


@pytest.fixture
def node() -> TrueNode:
    return TrueNode()


@pytest.fixture
def best(node: TrueNode) -> CounterMeter:
    return CounterMeter("dcgm", node)


@pytest.fixture
def second(node: TrueNode) -> CounterMeter:
    return CounterMeter("nvml", node)


@pytest.fixture
def run(node: TrueNode, best: CounterMeter, second: CounterMeter) -> Run:
    return Run(node, GpuLadder([best, second])).begin()


def test_the_first_that_shows_gpus_is_used_and_the_others_are_not_asked(
    run: Run, second: CounterMeter
):
    assert [run.window() for _ in range(3)] == [3_000_000] * 3
    assert run.last[0].meter == "dcgm"
    assert second.reads == 0


def test_the_next_is_used_where_the_first_shows_none(node: TrueNode):
    meters = [CounterMeter("dcgm", node, answers=False), CounterMeter("nvml", node)]
    run = Run(node, GpuLadder(meters)).begin()
    assert run.window() == 3_000_000
    assert run.last[0].meter == "nvml"


def test_a_silence_of_less_than_a_minute_is_waited_out(
    run: Run, best: CounterMeter, second: CounterMeter
):
    run.window()
    best.answers = False
    assert [run.window() for _ in range(3)] == [None] * 3
    best.answers = True
    assert run.window() == 4 * 3_000_000, "its counter went on meanwhile"
    assert run.window() == 3_000_000
    assert second.reads == 0


def test_after_a_minute_of_silence_the_next_takes_over(
    run: Run, best: CounterMeter, second: CounterMeter, caplog: pytest.LogCaptureFixture
):
    run.window()
    best.answers = False
    silent = int(PATIENCE_S / 15)
    with caplog.at_level(logging.INFO):
        assert [run.window() for _ in range(silent)] == [None] * silent
        assert [run.window() for _ in range(2)] == [3_000_000] * 2
    assert run.last[0].meter == "nvml#2"
    assert "GPUs are metered by nvml from now on" in caplog.text


def test_a_meter_that_shows_no_gpu_any_more_is_followed_at_once(run: Run, best: CounterMeter):
    run.window()
    best.shows = False
    run.window()
    assert run.window() == 3_000_000
    assert run.last[0].meter == "nvml#2"


def test_a_meter_that_hides_its_gpus_for_a_window_does_not_count_them_again(
    node: TrueNode, best: CounterMeter
):
    run = Run(node, GpuLadder([best])).begin()
    run.window()
    for shows in (False, True):
        best.answers, best.shows = False, shows
        run.window(watts=0)
    assert run.counted_mj == 3_000_000


def test_the_better_one_is_used_again_and_no_window_is_lost_or_doubled(
    run: Run, best: CounterMeter
):
    best.answers = False
    for _ in range(8):
        run.window()
    best.answers = True
    assert [run.window() for _ in range(4)] == [3_000_000] * 4
    assert run.last[0].meter == "dcgm#3"


def test_utilisation_and_the_pods_part_are_handed_over_too(run: Run, best: CounterMeter):
    best.answers = False
    for _ in range(8):
        run.window()
    best.answers = True
    before = run.ladder.read(run.now_s)
    after = run.ladder.read(run.now_s + 15)
    gpu = usage_between(
        NodeReading(run.now_s, None, None, None, before, NOTHING),
        NodeReading(run.now_s + 15, None, None, None, after, NOTHING),
    ).gpus[0]
    assert (gpu.pod_share, gpu.share_method) == (1.0, "dcgm")
    assert after[0].observed_s == 15.0
    assert gpu.utilization == 0.5


def test_a_part_of_the_pod_that_started_anew_is_not_taken_below_zero(
    run: Run, best: CounterMeter, second: CounterMeter
):
    best.answers = False
    for _ in range(6):
        run.window()
    reading = second.read
    second.read = lambda now_s: tuple(  # type: ignore[method-assign]
        replace(gpu, pod_energy_mj=5 + int(now_s)) for gpu in reading(now_s)
    )
    base = run.ladder._tenure._base
    base["GPU-a"] = replace(base["GPU-a"], pod_energy_mj=1_000_000)
    assert run.ladder.read(run.now_s + 1)[0].pod_energy_mj == 5 + int(run.now_s + 1)
    assert run.ladder.read(run.now_s + 2)[0].pod_energy_mj == 5 + int(run.now_s + 2)


def test_a_gpu_that_comes_later_counts_from_its_first_sight(run: Run, node: TrueNode):
    run.window()
    node.energy_mj["GPU-b"] = 90_000_000
    run.window()
    run.window()
    assert run.counted_mj == 3 * 3_000_000 + 3_000_000


def test_sampling_is_for_the_meter_in_use(run: Run, best: CounterMeter, second: CounterMeter):
    run.ladder.sample(1.0)
    assert (best.samples, second.samples) == (1, 0)
    assert not run.ladder.needs_sampling
    best.needs_sampling = True
    assert run.ladder.needs_sampling


def test_without_any_gpu_nothing_is_shown_and_every_status_is(node: TrueNode):
    meters = [CounterMeter(name, node, answers=False) for name in ("dcgm", "nvml", "amd")]
    ladder = GpuLadder(meters)
    ladder.sample(0.0)
    assert ladder.read(15.0) == ()
    assert [status.name for status in ladder.status()] == ["dcgm", "nvml", "amd"]
    assert not any(rung.chosen for rung in ladder.rungs())


def test_the_rungs_tell_which_is_chosen(run: Run, best: CounterMeter):
    best.answers = False
    for _ in range(8):
        run.window()
    rungs = run.ladder.rungs()
    assert [(rung.name, rung.available, rung.chosen) for rung in rungs] == [
        ("dcgm", False, False),
        ("nvml", True, True),
    ]
    assert run.ladder.status()[0].name == "nvml"


def test_a_closed_ladder_repeats_its_totals(run: Run, best: CounterMeter, second: CounterMeter):
    run.window()
    run.ladder.close()
    reads = best.reads
    assert run.ladder.read(run.now_s + 600) == run.last
    run.ladder.sample(run.now_s + 601)
    assert (best.reads, best.closed, second.closed) == (reads, True, True)


EVENTS = st.lists(
    st.tuples(
        st.integers(0, 700),
        st.floats(1, 100),
        st.tuples(st.booleans(), st.booleans(), st.booleans()),
        st.tuples(st.booleans(), st.booleans(), st.booleans()),
    ),
    max_size=40,
)


@given(EVENTS)
def test_whatever_fails_and_returns_no_energy_is_counted_twice(
    events: list[tuple[int, float, tuple[bool, ...], tuple[bool, ...]]],
):
    node = TrueNode({"GPU-a": 5, "GPU-b": 10**9})
    meters = [CounterMeter(name, node) for name in ("dcgm", "nvml", "amd")]
    run = Run(node, GpuLadder(meters)).begin()
    start_mj = sum(node.energy_mj.values())
    for watts, duration_s, answering, showing in events:
        for meter, answers, shows in zip(meters, answering, showing, strict=True):
            meter.answers, meter.shows = answers, shows
        run.window(watts, duration_s)
    assert run.counted_mj <= sum(node.energy_mj.values()) - start_mj


@given(st.lists(st.tuples(st.integers(0, 700), st.integers(0, 2)), min_size=1, max_size=40))
def test_while_a_better_meter_comes_back_each_time_nothing_is_lost_either(
    events: list[tuple[int, int]],
):
    """The rank of the best meter that answers only ever improves: each window has its energy."""
    node = TrueNode()
    meters = [CounterMeter(name, node, answers=False) for name in ("dcgm", "nvml")]
    meters.append(CounterMeter("amd", node))
    run = Run(node, GpuLadder(meters)).begin()
    start_mj = node.energy_mj["GPU-a"]
    for watts, rank in events:
        meters[rank].answers = True
        run.window(watts)
    assert run.counted_mj == node.energy_mj["GPU-a"] - start_mj
    names = [meter.name for meter in meters if meter.answers]
    assert run.ladder.status()[0].name == names[0]


def test_two_windows_of_different_meters_never_have_one_name(run: Run, best: CounterMeter):
    names: list[str] = []
    for answers in (True, False, True, False, True):
        best.answers = answers
        for _ in range(6):
            run.window()
            names.append(run.last[0].meter)
    runs = [name for name, _ in itertools.groupby(names)]
    assert len(runs) == len(set(runs)) == 5
