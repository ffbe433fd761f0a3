"""Power models against figures worked out by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.estimate.bounded import NOTHING, Bounded
from sidecar.estimate.power import (
    RAM_INCLUDED,
    RAM_POWER,
    ConstantModel,
    ConstantRam,
    GpuPower,
    MeasuredOr,
    RamPerGib,
    VmShareModel,
    gpu_energy,
)
from sidecar.units import Figure
from tests.estimate.usages import HOUR_S, gpu_usage, node_usage


def exactly(value, unit="W"):
    return Figure(value, unit, value, value, "test", 2026)


def vm_share(idle=1.0, top=5.0, threads=4, threads_high=4):
    return VmShareModel(exactly(idle), exactly(top), threads, threads_high, "test")


def test_vm_share_power_is_linear_between_idle_and_maximum():
    energy = vm_share().energy_kwh(node_usage())
    assert energy.total.value == pytest.approx(4 * (1 + 0.5 * 4) / 1000)


def test_vm_share_splits_idle_from_dynamic():
    energy = vm_share().energy_kwh(node_usage())
    assert (energy.idle.value, energy.dynamic.value) == pytest.approx((0.004, 0.008))


def test_vm_share_of_a_whole_smt_core_per_vcpu_is_doubled():
    one = vm_share(threads=4, threads_high=4).energy_kwh(node_usage())
    two = vm_share(threads=8, threads_high=8).energy_kwh(node_usage())
    assert two.total.value == pytest.approx(2 * one.total.value)


def test_unknown_topology_widens_only_the_upper_bound():
    energy = vm_share(threads=4, threads_high=8).energy_kwh(node_usage())
    assert energy.total.high == pytest.approx(2 * energy.total.value)
    assert energy.total.low == pytest.approx(energy.total.value)


def test_no_cpu_energy_without_cpu_times():
    assert vm_share().energy_kwh(node_usage(cpu_busy_s=None, cpu_total_s=None)) is None


def test_rapl_replaces_the_model_with_the_exact_delta():
    model = MeasuredOr(vm_share(), vm_share())
    energy = model.energy_kwh(node_usage(package_energy_uj=123_456_789))
    assert energy.total == Bounded.exact(123_456_789 / 3.6e12)
    assert energy.method == "rapl"


def test_without_a_counter_the_model_behind_rapl_answers():
    model = MeasuredOr(vm_share(), vm_share())
    assert model.energy_kwh(node_usage()).method == "vm-share"


def test_a_measured_energy_is_split_in_the_models_proportion():
    model = MeasuredOr(vm_share(), vm_share())
    energy = model.energy_kwh(node_usage(package_energy_uj=3_600_000_000))
    # at half load the model says idle 1 W of 3 W
    assert energy.idle.value == pytest.approx(energy.total.value / 3)


def test_a_stated_cpu_power_is_constant():
    energy = ConstantModel(100.0, vm_share()).energy_kwh(node_usage(cpu_busy_s=0.0))
    assert energy.total.value == pytest.approx(0.1)


def test_ram_inside_the_cpu_figure_is_not_billed_again():
    included = vm_share().energy_kwh(node_usage()).includes_ram_gib
    assert included.value == pytest.approx(4 * RAM_INCLUDED.value)
    energy = RamPerGib().energy_kwh(node_usage(), included)
    assert energy.value == pytest.approx(RAM_POWER.value * (32 - 8) / 1000)


def test_a_counter_of_the_cpu_holds_no_ram_so_all_of_it_is_billed():
    model = MeasuredOr(vm_share(), vm_share())
    included = model.energy_kwh(node_usage(package_energy_uj=1)).includes_ram_gib
    assert included == NOTHING
    energy = RamPerGib().energy_kwh(node_usage(), included)
    assert energy.value == pytest.approx(RAM_POWER.value * 32 / 1000)


def test_ram_never_goes_below_zero_on_small_machines():
    energy = RamPerGib().energy_kwh(node_usage(memory_total_gib=4.0), Bounded(8.0, 4.0, 12.0))
    assert (energy.low, energy.value, energy.high) == (0.0, 0.0, 0.0)


def test_ram_is_unknown_without_memtotal():
    assert RamPerGib().energy_kwh(node_usage(memory_total_gib=None), NOTHING) is None


def test_a_stated_ram_power_is_constant():
    assert ConstantRam(20.0).energy_kwh(node_usage(), NOTHING).value == pytest.approx(0.02)


A100 = GpuPower("NVIDIA A100 80GB PCIe", exactly(50.0), exactly(300.0))


def test_a_gpu_counter_decides_alone():
    device = gpu_energy(gpu_usage(), A100, HOUR_S)
    assert device.energy.value == pytest.approx(0.2)
    assert device.method == "energy-counter"


def test_a_gpu_without_counter_is_idle_plus_utilisation():
    usage = gpu_usage(energy_mj=None, energy_source="none", utilization=0.9)
    device = gpu_energy(usage, A100, HOUR_S)
    assert device.energy.value == pytest.approx((50 + 250 * 0.9) / 1000)
    assert device.method == "utilization"


def test_a_gpu_whose_load_cannot_be_seen_lies_between_idle_and_limit():
    usage = gpu_usage(energy_mj=None, energy_source="none", utilization=None)
    device = gpu_energy(usage, A100, HOUR_S)
    assert (device.energy.low, device.energy.high) == pytest.approx((0.05, 0.3))
    assert device.method == "table"


def test_a_share_of_a_card_uses_its_fraction():
    third = GpuPower("NVIDIA A10", exactly(12.0), exactly(150.0), fraction=1 / 3)
    usage = gpu_usage(energy_mj=None, energy_source="none", utilization=1.0)
    assert gpu_energy(usage, third, HOUR_S).energy.value == pytest.approx(0.05)


def test_a_gpu_nobody_knows_has_no_energy_rather_than_zero():
    device = gpu_energy(gpu_usage(energy_mj=None, energy_source="none"), None, HOUR_S)
    assert device.energy is None
    assert device.method is None


watts = st.floats(0, 500, allow_nan=False)


@given(
    idle=watts, top=watts, load=st.floats(0, 1), spread=st.floats(1, 3), seconds=st.floats(0, 1e6)
)
def test_bounds_always_hold_the_value(idle, top, load, spread, seconds):
    model = VmShareModel(
        Figure(idle, "W", idle / spread, idle * spread, "test", 2026),
        Figure(top, "W", top / spread, top * spread, "test", 2026),
        2,
        4,
        "test",
    )
    usage = node_usage(duration_s=seconds, cpu_busy_s=load * 4 * seconds, cpu_total_s=4 * seconds)
    energy = model.energy_kwh(usage)
    if energy is None:
        assert seconds == 0
        return
    for part in (energy.total, energy.idle, energy.dynamic):
        assert 0 <= part.low <= part.value * (1 + 1e-12)
        assert part.value <= part.high * (1 + 1e-12)
    assert energy.total.value == pytest.approx(energy.idle.value + energy.dynamic.value)


def test_what_a_counter_does_not_cover_is_modelled_and_named():
    # 0.05 kWh counted in a quarter of the hour; the rest at 90 % load: 275 W
    usage = gpu_usage(energy_mj=180_000_000, metered_s=HOUR_S / 4, utilization=0.9)
    device = gpu_energy(usage, A100, HOUR_S)
    assert device.energy.value == pytest.approx(0.05 + 0.275 * 0.75)
    assert device.method == "energy-counter + utilization"


def test_what_a_device_used_in_silence_comes_later_without_what_the_model_gave_for_it():
    """An hour without news was given 175 W by the table; the counter then tells of both hours."""
    silent = gpu_usage(energy_mj=None, energy_source="none", utilization=None)
    back = gpu_usage(energy_mj=1_800_000_000, metered_s=2 * HOUR_S)
    energies = [gpu_energy(usage, A100, HOUR_S).energy for usage in (silent, back)]
    assert [energy.value for energy in energies] == pytest.approx([0.175, 0.5 - 0.175])
    assert gpu_energy(back, A100, HOUR_S).method == "energy-counter"
    assert energies[1].low < energies[1].value < energies[1].high


def test_where_nothing_could_be_modelled_in_silence_the_whole_step_counts():
    back = gpu_usage(energy_mj=1_800_000_000, metered_s=2 * HOUR_S)
    assert gpu_energy(back, None, HOUR_S).energy.value == pytest.approx(0.5)


def test_a_model_that_gave_more_than_the_counter_tells_is_not_taken_back():
    back = gpu_usage(energy_mj=360_000_000, metered_s=2 * HOUR_S)
    energy = gpu_energy(back, A100, HOUR_S).energy
    assert (energy.low, energy.value) == (0.0, 0.0)


def test_a_late_second_of_an_hour_is_covered():
    usage = gpu_usage(metered_s=HOUR_S - 1)
    assert gpu_energy(usage, A100, HOUR_S).method == "energy-counter"


def test_what_a_counter_does_not_cover_of_an_unknown_gpu_is_left_out():
    usage = gpu_usage(energy_mj=180_000_000, metered_s=HOUR_S / 4)
    assert gpu_energy(usage, None, HOUR_S).energy.value == pytest.approx(0.05)


def test_a_model_by_utilisation_has_a_wide_lower_bound():
    usage = gpu_usage(energy_mj=None, energy_source="none", utilization=1.0)
    energy = gpu_energy(usage, A100, HOUR_S).energy
    assert (energy.low, energy.value) == pytest.approx((0.175, 0.3))


def test_cores_a_constrained_size_leaves_out_idle_for_it():
    constrained = VmShareModel(exactly(1.0), exactly(5.0), 4, 4, "test", reserved=4.0)
    energy = constrained.energy_kwh(node_usage())
    assert energy.idle.value == pytest.approx(4 * 4 * 1.0 / 1000)
    assert energy.dynamic.value == pytest.approx(4 * 4.0 * 0.5 / 1000)
    assert energy.includes_ram_gib.value == pytest.approx(16 * RAM_INCLUDED.value)
