import itertools
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.meters.gpu_ladder import GpuLadder
from sidecar.meters.gpu_meter import GpuMeter
from sidecar.meters.node_meter_client import (
    GPUS_MAX,
    NodeMeterAnswer,
    NodeMeterClient,
    NodeMeterError,
)
from sidecar.meters.node_meter_gpus import NodeMeterGpus
from sidecar.meters.reading import GpuReading, NodeReading, PodReading
from sidecar.meters.usage import usage_between


class Told(NodeMeterClient):
    """What the node meter tells, as a test says; None = it does not answer."""

    def __init__(self) -> None:
        super().__init__("http://node-meter", Path("token"))
        self.answer: NodeMeterAnswer | None = None

    def ask(self) -> NodeMeterAnswer:
        if self.answer is None:
            raise NodeMeterError("node meter http://node-meter does not answer")
        return self.answer

    def say(self, energy_mj: int | None, pod_mj: int | None, s: float, boot: str = "b0") -> None:
        gpu = GpuReading(
            uuid="GPU-x",
            model="H100",
            energy_mj=energy_mj,
            energy_source="energy-counter",
            utilization_s=s / 2,
            observed_s=s,
            power_limit_w=700.0,
            metered_s=s,
            pod_energy_mj=pod_mj,
            pod_share=0.5,
            share_method="node-meter",
            meter="node-meter",
        )
        self.answer = NodeMeterAnswer(boot, 0.0, None, 0.0, (gpu,))


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
def gpus(told: Told) -> NodeMeterGpus:
    return NodeMeterGpus(told)


def parts(reading: GpuReading) -> tuple[int | None, int | None, float | None]:
    return reading.energy_mj, reading.pod_energy_mj, reading.metered_s


def test_it_is_a_meter_that_needs_no_sampling(gpus: NodeMeterGpus):
    meter: GpuMeter = gpus
    meter.sample(0.0)
    assert not meter.needs_sampling


def test_it_counts_from_the_first_answer(told, gpus):
    told.say(5000, 3000, 100.0)
    assert parts(*gpus.read(0.0)) == (0, 0, 0.0)
    told.say(5900, 3500, 115.0)
    (reading,) = gpus.read(15.0)
    assert parts(reading) == (900, 500, 15.0)
    assert (reading.utilization_s, reading.observed_s) == (7.5, 15.0)
    assert (reading.pod_share, reading.share_method, reading.meter) == (
        0.5, "node-meter", "node-meter",
    )  # fmt: skip


def test_while_it_does_not_answer_the_totals_stand_still(told, gpus):
    told.say(0, 0, 0.0)
    gpus.read(0.0)
    told.say(900, 500, 15.0)
    before = gpus.read(15.0)
    told.answer = None
    assert gpus.read(30.0) == before
    assert not gpus.status()[0].available
    told.say(2700, 1500, 45.0)
    assert parts(*gpus.read(45.0)) == (2700, 1500, 45.0)


def test_a_node_meter_that_began_anew_adds_only_what_it_has_seen(told, gpus):
    told.say(9000, 5000, 100.0)
    gpus.read(0.0)
    told.say(9900, 5500, 115.0)
    gpus.read(15.0)
    told.say(50, 40, 1.0, boot="b1")
    assert parts(*gpus.read(30.0)) == (900, 500, 15.0)
    told.say(950, 440, 16.0, boot="b1")
    assert parts(*gpus.read(45.0)) == (1800, 900, 30.0)


def test_a_step_that_no_board_can_make_is_no_energy(told, gpus):
    told.say(1, 1, 0.0)
    gpus.read(0.0)
    told.say(2**63 - 1000, 2**63 - 1000, 15.0)
    assert parts(*gpus.read(15.0)) == (0, 0, 0.0)
    told.say(2**63 - 100, 2**63 - 100, 30.0)
    assert parts(*gpus.read(30.0)) == (900, 900, 15.0)


def test_who_tells_of_ever_new_gpus_is_believed_no_more_than_a_node_has(told, gpus):
    for number in range(3 * GPUS_MAX):
        told.say(0, 0, float(number))
        (gpu,) = told.answer.gpus
        told.answer = replace(told.answer, gpus=(replace(gpu, uuid=f"GPU-{number}"),))
        gpus.read(float(number))
    assert len(gpus.read(1e6)) == GPUS_MAX


def test_counters_that_go_back_add_nothing(told, gpus):
    told.say(900, 500, 15.0)
    gpus.read(0.0)
    told.say(100, 50, 5.0)
    gpus.read(15.0)
    told.say(150, 80, 10.0)
    assert parts(*gpus.read(30.0)) == (50, 30, 5.0)


def test_a_part_that_was_unknown_starts_anew(told, gpus):
    told.say(0, 0, 0.0)
    gpus.read(0.0)
    told.say(900, 500, 15.0)
    gpus.read(15.0)
    told.say(1000, None, 30.0)
    assert gpus.read(30.0)[0].pod_energy_mj is None
    told.say(1100, 700, 45.0)
    assert gpus.read(45.0)[0].pod_energy_mj == 0


def test_a_window_that_is_covered_but_for_jitter_is_covered(told, gpus):
    """Or a part of its energy would be taken for that of another window, and dropped."""
    told.say(0, 0, 100.003)
    gpus.read(0.0)
    told.say(900, 500, 115.011)
    assert parts(*gpus.read(15.0)) == (900, 500, 15.0)
    told.say(1800, 1000, 120.0)
    assert gpus.read(30.0)[0].metered_s == pytest.approx(15.0 + 4.989)


def test_a_gpu_without_energy_has_none(told, gpus):
    told.say(None, None, 0.0)
    assert parts(*gpus.read(0.0)) == (None, None, None)


def test_a_node_without_gpus_leaves_it_to_the_next_meter(told, gpus):
    told.answer = NodeMeterAnswer("b0", 0.0, None, 0.0, ())
    assert gpus.read(0.0) == ()
    assert "sees no GPU" in gpus.status()[0].detail
    assert not gpus.status()[0].available


def test_one_that_never_answered_is_no_warning(gpus, caplog):
    assert gpus.read(0.0) == ()
    assert [record.levelname for record in caplog.records if record.levelno >= 30] == []


def test_once_closed_nobody_is_asked(told, gpus):
    told.say(0, 0, 0.0)
    before = gpus.read(0.0)
    gpus.close()
    told.say(900, 500, 15.0)
    assert gpus.read(15.0) == before


STEP = st.tuples(
    st.booleans(), st.booleans(), st.integers(0, 10_000), st.floats(0, 1), st.integers(1, 60)
)


@given(st.lists(STEP, max_size=12))
def test_the_pod_never_gets_more_than_it_had_whatever_restarts(steps):
    """On the ladder, as in a sidecar: windows of what is answered add up to the truth or less."""
    told = Told()
    told.say(0, 0, 0.0)
    ladder = GpuLadder([NodeMeterGpus(told)])
    now_s, boot = 0.0, 0
    energy_mj = pod_mj = true_mj = true_pod_mj = 0
    metered_s = 0.0
    readings = [_reading(ladder.read(now_s), now_s)]
    for answers, restarts, step_mj, share, seconds in steps:
        now_s += seconds
        true_mj += step_mj
        true_pod_mj += int(step_mj * share)
        if restarts:
            boot, energy_mj, pod_mj, metered_s = boot + 1, 0, 0, 0.0
        else:
            energy_mj, pod_mj = energy_mj + step_mj, pod_mj + int(step_mj * share)
            metered_s += seconds
        told.say(energy_mj, pod_mj, metered_s, f"b{boot}")
        if not answers:
            told.answer = None
        readings.append(_reading(ladder.read(now_s), now_s))
    windows = [usage_between(*ends) for ends in itertools.pairwise(readings)]
    gpus = [gpu for usage in windows for gpu in usage.gpus if gpu.energy_mj is not None]
    assert sum(gpu.energy_mj for gpu in gpus) <= true_mj
    assert all(gpu.pod_share is None or 0 <= gpu.pod_share <= 1 for gpu in gpus)


def _reading(gpus: tuple[GpuReading, ...], now_s: float) -> NodeReading:
    return NodeReading(now_s, None, None, None, gpus, (PodReading(None, None),))
