from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.meters.reading import (
    CpuReading,
    GpuReading,
    MemoryReading,
    NodeCounters,
    NodeReading,
    PodReading,
    RaplReading,
)
from sidecar.meters.usage import usage_between
from sidecar.units import BYTES_PER_GIB

GPU = GpuReading(
    uuid="GPU-a",
    model="A100",
    energy_mj=1000,
    energy_source="energy-counter",
    utilization_s=10.0,
    observed_s=20.0,
    power_limit_w=400.0,
    metered_s=20.0,
)
BEFORE = NodeReading(
    monotonic_s=100.0,
    cpu=CpuReading(busy_s=50.0, total_s=200.0, cpus=2),
    memory=MemoryReading(total_bytes=8 * BYTES_PER_GIB, available_bytes=6 * BYTES_PER_GIB),
    rapl=RaplReading(energy_uj=500, domains=("package-0",)),
    gpus=(GPU,),
    pod=(PodReading(cpu_s=5.0, working_set_bytes=BYTES_PER_GIB),),
)
AFTER = NodeReading(
    monotonic_s=115.0,
    cpu=CpuReading(busy_s=60.0, total_s=230.0, cpus=2),
    memory=MemoryReading(total_bytes=8 * BYTES_PER_GIB, available_bytes=4 * BYTES_PER_GIB),
    rapl=RaplReading(energy_uj=800, domains=("package-0",)),
    gpus=(replace(GPU, energy_mj=4000, utilization_s=22.0, observed_s=35.0, metered_s=35.0),),
    pod=(PodReading(cpu_s=9.0, working_set_bytes=3 * BYTES_PER_GIB),),
)


def test_two_readings_are_differenced():
    usage = usage_between(BEFORE, AFTER)
    assert usage.duration_s == 15.0
    assert (usage.cpus, usage.cpu_busy_s, usage.cpu_total_s) == (2, 10.0, 30.0)
    assert (usage.memory_total_gib, usage.memory_used_gib) == (8.0, 3.0)
    assert usage.package_energy_uj == 300
    assert (usage.pod_cpu_s, usage.pod_working_set_gib) == (4.0, 2.0)
    (gpu,) = usage.gpus
    assert (gpu.energy_mj, gpu.utilization, gpu.metered_s) == (3000, pytest.approx(0.8), 15.0)


def told_late(reading, busy_s, total_s, energy_uj, age_s=30.0):
    """The reading with a pod whose counter is old, and the node's counters of that moment."""
    then = NodeCounters(
        CpuReading(busy_s, total_s, 2), RaplReading(energy_uj, domains=("package-0",))
    )
    (pod,) = reading.pod
    return replace(reading, pod=(replace(pod, method="kubelet", age_s=age_s, node_then=then),))


def test_what_is_told_late_compares_with_the_node_of_the_same_time():
    usage = usage_between(told_late(BEFORE, 20, 140, 100), told_late(AFTER, 26, 170, 250))
    assert (usage.pod_cpu_s, usage.cpu_busy_s, usage.cpu_total_s) == (4.0, 6.0, 30.0)
    assert (usage.package_energy_uj, usage.duration_s) == (150, 15.0)


def test_while_the_node_of_that_time_is_not_known_the_window_itself_counts():
    unknown = told_late(BEFORE, 0, 0, 0)
    unknown = replace(unknown, pod=(replace(unknown.pod[0], node_then=None),))
    usage = usage_between(unknown, told_late(AFTER, 26, 170, 250))
    assert (usage.cpu_busy_s, usage.cpu_total_s, usage.package_energy_uj) == (10.0, 30.0, 300)


def test_a_lag_that_grew_in_the_window_leaves_no_time_to_compare():
    usage = usage_between(
        told_late(BEFORE, 20, 140, 100), told_late(AFTER, 18, 130, 90, age_s=60.0)
    )
    assert (usage.cpu_busy_s, usage.cpu_total_s, usage.package_energy_uj) == (10.0, 30.0, 300)


def test_what_one_reading_lacks_is_none():
    nothing = NodeReading(115.0, None, None, None, (), (PodReading(None, None),))
    usage = usage_between(BEFORE, nothing)
    assert (usage.cpu_busy_s, usage.package_energy_uj, usage.pod_cpu_s) == (None, None, None)
    assert usage.gpus == ()


def test_readings_in_the_wrong_order_give_nothing_negative():
    usage = usage_between(AFTER, BEFORE)
    assert usage.duration_s == 0
    assert (usage.cpu_busy_s, usage.cpu_total_s) == (None, None)
    assert (usage.package_energy_uj, usage.pod_cpu_s) == (None, None)
    assert usage.gpus[0].energy_mj is None
    assert usage.gpus[0].utilization is None


def test_a_gpu_that_comes_late_counts_from_its_first_sight():
    late = replace(GPU, energy_mj=700, metered_s=5.0, utilization_s=5.0, observed_s=5.0)
    (gpu,) = usage_between(replace(BEFORE, gpus=()), replace(AFTER, gpus=(late,))).gpus
    assert (gpu.energy_mj, gpu.metered_s, gpu.utilization) == (700, 5.0, 1.0)


def test_a_window_without_news_of_a_gpu_is_no_window_without_energy():
    silent = replace(GPU, notes=("lost: it fell off",))
    (gpu,) = usage_between(BEFORE, replace(AFTER, gpus=(silent,))).gpus
    assert gpu.energy_mj is None
    assert gpu.energy_source == "none"
    assert gpu.notes == ("lost: it fell off",)


def test_a_gpu_that_is_back_gives_its_whole_step_and_says_how_long_it_took():
    back = replace(GPU, energy_mj=1000 + 4500, metered_s=20.0 + 45.0)
    (gpu,) = usage_between(BEFORE, replace(AFTER, gpus=(back,))).gpus
    assert (gpu.energy_mj, gpu.metered_s) == (4500, 45.0)


def test_a_gpu_without_energy_stays_unknown():
    vgpu = replace(GPU, energy_mj=None, energy_source="none", metered_s=None, virtual=True)
    (gpu,) = usage_between(replace(BEFORE, gpus=(vgpu,)), replace(AFTER, gpus=(vgpu,))).gpus
    assert gpu.energy_mj is None
    assert gpu.utilization is None
    assert gpu.virtual


def test_packages_that_changed_are_not_differenced():
    other = RaplReading(energy_uj=900, domains=("package-0", "package-1"))
    assert usage_between(BEFORE, replace(AFTER, rapl=other)).package_energy_uj is None


COUNTS = st.floats(allow_nan=True, allow_infinity=True)


@given(COUNTS, COUNTS, COUNTS, COUNTS)
def test_cpu_use_is_never_negative_nor_more_than_all(a: float, b: float, c: float, d: float):
    usage = usage_between(
        replace(BEFORE, cpu=CpuReading(a, b, 1)), replace(AFTER, cpu=CpuReading(c, d, 1))
    )
    if usage.cpu_busy_s is not None:
        assert usage.cpu_total_s is not None
        assert 0 <= usage.cpu_busy_s <= usage.cpu_total_s


@given(
    st.lists(
        st.tuples(st.integers(0, 10**6), st.floats(0.01, 100), st.booleans()),
        min_size=1,
    )
)
def test_windows_sum_to_what_the_gpu_used_whenever_it_answers(
    windows: list[tuple[int, float, bool]],
):
    """The GPU answers in some windows only; its counter goes on in all of them."""
    told = replace(BEFORE, gpus=(replace(GPU, energy_mj=0, metered_s=0.0),))
    now_s = seen_s = 100.0
    counter_mj = seen_mj = total_mj = 0
    for used_mj, window_s, answers in windows:
        now_s, counter_mj = now_s + window_s, counter_mj + used_mj
        if answers:
            seen_s, seen_mj = now_s, counter_mj
        gpu = replace(GPU, energy_mj=seen_mj, metered_s=seen_s - 100.0)
        reading = replace(BEFORE, monotonic_s=now_s, gpus=(gpu,))
        usage = usage_between(told, reading)
        assert (usage.gpus[0].energy_mj is None) != answers
        total_mj += usage.gpus[0].energy_mj or 0
        told = reading
    assert total_mj == seen_mj, "what it used in silence comes with its next answer"
