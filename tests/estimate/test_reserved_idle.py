"""What a pod held and did not use, and each GPU's own share."""

from dataclasses import replace

import pytest

from sidecar.estimate.attribution import shares_of
from sidecar.estimate.emissions import estimate_window
from sidecar.meters.pod.requests import Reservation
from tests.estimate.usages import HOUR_S, factors, gpu_usage, node_usage

TWO_OF_FOUR = Reservation(cpus=2.0, memory_gib=8.0, gpus=1.0)


def estimate(usage, reserved=TWO_OF_FOUR):
    made = factors()
    return estimate_window(usage, shares_of(usage, reserved, made.gpu_count(usage)), made)


def measured(**changes):
    used = {"pod_cpu_s": 0.5 * HOUR_S, "pod_working_set_gib": 4.0, "pod_method": "cgroup"}
    return node_usage(**{**used, **changes})


def test_the_idle_power_of_cpus_that_were_reserved_and_not_used():
    """Two CPUs of four are held, a quarter of them used: three quarters of half the idle energy."""
    given = estimate(measured())
    idle = factors().cpu.energy_kwh(measured()).idle.value
    assert given.cpu_reserved_idle_kwh == pytest.approx(idle * 0.5 * 0.75)
    assert given.cpu_reserved_idle_kwh < given.cpu.value


def test_a_pod_that_uses_more_than_it_reserved_holds_nothing_idle():
    assert estimate(measured(pod_cpu_s=2 * HOUR_S)).cpu_reserved_idle_kwh == 0.0


def test_use_that_is_not_measured_leaves_idle_unknown_not_zero():
    assert estimate(measured(pod_method="requests", pod_cpu_s=None)).cpu_reserved_idle_kwh is None


def test_who_has_the_node_for_itself_holds_all_its_idle_cpus():
    usage = node_usage(pod_method="whole-node")
    idle = factors().cpu.energy_kwh(usage).idle.value
    assert estimate(usage).cpu_reserved_idle_kwh == pytest.approx(idle * 0.5)


def test_a_gpu_in_which_nothing_runs_costs_its_idle_power():
    busy = gpu_usage(utilization=0.9)
    usage = measured(
        gpus=(busy, replace(busy, uuid="GPU-2", utilization=0.0, energy_mj=180_000_000))
    )
    given = estimate(replace(usage, gpus=tuple(replace(gpu, pod_share=1.0) for gpu in usage.gpus)))
    power = factors().gpu_powers[busy.model]
    wanted = power.idle.value / 1000 * (0.1 + 1.0)
    assert given.gpu_reserved_idle_kwh == pytest.approx(wanted)


def test_idle_energy_of_a_gpu_is_never_more_than_it_used():
    usage = measured(gpus=(gpu_usage(utilization=0.0, energy_mj=3_600, pod_share=1.0),))
    assert estimate(usage).gpu_reserved_idle_kwh == pytest.approx(1e-6)


def test_each_gpu_has_the_share_its_meter_tells_and_others_that_of_the_request():
    gpus = (
        gpu_usage(uuid="GPU-1", pod_share=1.0, share_method="dcgm"),
        gpu_usage(uuid="GPU-2", pod_share=0.0, share_method="dcgm"),
        gpu_usage(uuid="GPU-3"),
    )
    given = estimate(measured(gpus=gpus))
    assert [(gpu.share, gpu.share_method) for gpu in given.gpus] == [
        (1.0, "dcgm"), (0.0, "dcgm"), (pytest.approx(1 / 3), "requests")
    ]  # fmt: skip
    assert given.gpu.value == pytest.approx(0.2 * (1 + 0 + 1 / 3))
    assert given.shares.gpu == pytest.approx((1 + 1 / 3) / 3)
