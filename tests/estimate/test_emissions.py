"""The chain from usage to grams, by hand and as invariants."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.estimate.attribution import WHOLE_NODE, Shares
from sidecar.estimate.emissions import estimate_window
from sidecar.estimate.power import GpuPower
from tests.estimate.usages import factors, figure, gpu_usage, node_usage


def test_one_hour_of_the_whole_node_by_hand():
    estimate = estimate_window(node_usage(gpus=(gpu_usage(),)), WHOLE_NODE, factors())
    cpu_kwh = 4 * (1 + 4 * 0.5) / 1000
    ram_kwh = 0.5 * (32 - 8) / 1000
    assert estimate.cpu.value == pytest.approx(cpu_kwh)
    assert estimate.ram.value == pytest.approx(ram_kwh)
    assert estimate.gpu.value == pytest.approx(0.2)
    assert estimate.total.value == pytest.approx(cpu_kwh + ram_kwh + 0.2)
    assert estimate.facility.value == pytest.approx(estimate.total.value * 1.2)
    assert estimate.emissions_g.value == pytest.approx(estimate.total.value * 1.2 * 300)
    assert estimate.water_l.value == pytest.approx(estimate.total.value * 0.5)
    assert estimate.embodied_g.value == pytest.approx(6.0)


def test_emissions_bounds_follow_the_spread_of_the_intensity():
    usage = node_usage(package_energy_uj=3_600_000_000_000, memory_total_gib=None)
    estimate = estimate_window(usage, WHOLE_NODE, factors())
    assert (estimate.emissions_g.low, estimate.emissions_g.high) == pytest.approx((240.0, 540.0))


def test_a_counters_delta_reaches_the_pod_exactly():
    usage = node_usage(package_energy_uj=98_765_432_101)
    estimate = estimate_window(usage, WHOLE_NODE, factors())
    assert estimate.cpu.value == 98_765_432_101 / 3.6e12
    assert estimate.node_cpu.value == estimate.cpu.value


def test_dynamic_and_idle_shares_apply_to_their_own_part():
    shares = Shares(cpu=0.5, idle=0.25, ram=0.1, gpu=0.0)
    estimate = estimate_window(node_usage(), shares, factors())
    assert estimate.cpu.value == pytest.approx(0.008 * 0.5 + 0.004 * 0.25)


def test_an_unknown_share_leaves_the_component_unknown():
    shares = Shares(cpu=None, idle=None, ram=0.5, gpu=0.0)
    estimate = estimate_window(node_usage(), shares, factors())
    assert estimate.cpu is None
    assert estimate.total.value == pytest.approx(estimate.ram.value)


def test_nothing_known_gives_no_emissions_rather_than_zero():
    usage = node_usage(cpu_busy_s=None, cpu_total_s=None, memory_total_gib=None)
    estimate = estimate_window(usage, WHOLE_NODE, factors())
    assert (estimate.total, estimate.facility, estimate.emissions_g) == (None, None, None)


def test_no_water_without_a_water_figure():
    assert estimate_window(node_usage(), WHOLE_NODE, factors(wue=None)).water_l is None


def test_gpus_only_the_size_table_knows_are_modelled():
    a10 = GpuPower("NVIDIA A10", figure(10, "W"), figure(150, "W"), fraction=0.5)
    estimate = estimate_window(node_usage(), WHOLE_NODE, factors(table_gpus=(a10,)))
    assert estimate.gpu.value == pytest.approx(0.5 * (10 + 140 * 0.5) / 1000)
    assert estimate.gpu_method == "table"
    assert estimate.quality == "modelled"


def test_gpus_that_are_seen_take_the_place_of_the_table():
    a10 = GpuPower("NVIDIA A10", figure(10, "W"), figure(150, "W"))
    estimate = estimate_window(
        node_usage(gpus=(gpu_usage(),)), WHOLE_NODE, factors(table_gpus=(a10,))
    )
    assert [gpu.device.uuid for gpu in estimate.gpus] == ["GPU-1"]


@pytest.mark.parametrize(
    ("changes", "quality"),
    [
        ({"package_energy_uj": 1, "gpus": (gpu_usage(),)}, "measured"),
        ({"gpus": (gpu_usage(),)}, "estimated"),
        ({"package_energy_uj": 1}, "measured"),
        ({}, "estimated"),
        (
            {"gpus": (gpu_usage(energy_mj=None, energy_source="none", utilization=None),)},
            "modelled",
        ),
        ({"cpu_busy_s": None, "cpu_total_s": None}, "modelled"),
    ],
    ids=["counters", "gpu counter", "rapl", "load model", "gpu unseen", "no cpu times"],
)
def test_quality_is_the_weakest_of_cpu_and_gpus(changes, quality):
    assert estimate_window(node_usage(**changes), WHOLE_NODE, factors()).quality == quality


def test_a_mig_board_is_marked_in_the_method():
    estimate = estimate_window(node_usage(gpus=(gpu_usage(mig=True),)), WHOLE_NODE, factors())
    assert estimate.gpu_method == "energy-counter, MIG board"


share = st.floats(0, 1)


@given(cpu=share, idle=share, ram=share, gpu=share, uj=st.none() | st.integers(0, 10**13))
def test_a_pod_never_gets_more_than_its_node(cpu, idle, ram, gpu, uj):
    usage = node_usage(gpus=(gpu_usage(),), package_energy_uj=uj)
    estimate = estimate_window(usage, Shares(cpu, idle, ram, gpu), factors())
    slack = 1 + 1e-12
    assert estimate.cpu.value <= estimate.node_cpu.value * slack
    assert estimate.ram.value <= estimate.node_ram.value * slack
    assert estimate.gpu.value <= estimate.node_gpu.value * slack
    assert estimate.total.value <= estimate.node_total.value * slack
    assert estimate.emissions_g.low <= estimate.emissions_g.value * slack
    assert estimate.emissions_g.value <= estimate.emissions_g.high * slack


def test_gpus_that_are_there_without_a_figure_make_it_modelled_and_are_named():
    estimate = estimate_window(node_usage(), WHOLE_NODE, factors(uncounted="unknown: has GPUs"))
    assert estimate.quality == "modelled"
    assert estimate.gpu is None
    assert estimate.gpu_source == "unknown: has GPUs"


def test_a_partly_modelled_gpu_is_estimated():
    usage = node_usage(gpus=(gpu_usage(metered_s=900.0),), package_energy_uj=1)
    assert estimate_window(usage, WHOLE_NODE, factors()).quality == "estimated"
