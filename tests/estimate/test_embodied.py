"""Embodied emissions against the published totals of the method."""

import pytest

from sidecar.estimate.embodied import GPU_KG, Server, embodied_rate, server_kg


def test_the_dsv3_server_of_cloud_carbon_footprint():
    # 256 GB, two CPUs, one disk: 1,483.12 kg in its coefficients-azure-embodied.csv
    assert server_kg(Server(memory_gib=256, cpus=2)) == pytest.approx(1483.12)


def test_the_nc_server_of_cloud_carbon_footprint():
    # four K80 halves, 224 GB: 2,038.71 kg
    assert server_kg(Server(memory_gib=224, cpus=2)) + 4 * GPU_KG == pytest.approx(2038.704)


def test_a_vm_takes_its_share_of_the_server_over_four_years():
    rate = embodied_rate(Server(memory_gib=16, cpus=1, hdds=0), vcpu_share=0.5, gpu_count=2)
    assert rate.base_g_per_h.value == pytest.approx(1000 * 1000 * 0.5 / 35040)
    assert rate.gpu_g_per_h.value == pytest.approx(2 * 150 * 1000 / 35040)


def test_bounds_are_a_factor_of_two_each_way():
    rate = embodied_rate(Server(memory_gib=16, cpus=1), 1.0, 0)
    base = rate.base_g_per_h
    assert (base.low, base.high) == pytest.approx((base.value / 2, base.value * 2))


def test_a_window_takes_its_time_and_its_shares():
    rate = embodied_rate(Server(memory_gib=16, cpus=1), 1.0, 1)
    half_hour = rate.over(1800, base_share=0.5, gpu_share=1.0)
    expected = 0.5 * (rate.base_g_per_h.value * 0.5 + rate.gpu_g_per_h.value)
    assert half_hour.value == pytest.approx(expected)
