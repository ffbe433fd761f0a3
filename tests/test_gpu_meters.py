"""Which meters of GPUs there are, and how settings choose among them."""

import pytest

from sidecar.catalogue.lookup import Catalogue
from sidecar.gpu_meters import MODELS_MAX, GpuFacts, gpu_meter
from sidecar.meters.pod.requests import Reservation
from sidecar.settings import load_settings
from tests.fakes.dcgm import ENERGY, FakeDcgm, Gpu, page
from tests.fakes.nvml.fixture import fake_nvml, fake_nvml_library

__all__ = ["fake_nvml", "fake_nvml_library"]

POD = {"POD_NAMESPACE": "vision", "POD_NAME": "train-0", "POD_UID": "u"}
OURS = Gpu("GPU-a", {ENERGY: 5000}, pods=(("vision", "train-0", "train"),))
THEIRS = Gpu("GPU-b", {ENERGY: 9000}, pods=(("other", "x", "y"),))


@pytest.fixture
def exporter():
    with FakeDcgm(page(OURS, THEIRS)) as fake:
        yield fake


def meter(environ=None, requested=1.0, purpose="run", **flags):
    settings = load_settings({"imds_endpoint": "none", **flags}, {})
    facts = GpuFacts(Catalogue(), Reservation(gpus=requested))
    return gpu_meter(settings, POD if environ is None else environ, purpose, facts)


def shares(given):
    return {gpu.uuid: (gpu.pod_share, gpu.share_method) for gpu in given.read(0.0)}


def test_in_a_pod_the_exporter_of_the_node_tells_which_gpus_are_ours(exporter):
    found = shares(meter(dcgm_url=exporter.url))
    assert found == {"GPU-a": (1.0, "dcgm"), "GPU-b": (0.0, "dcgm")}


@pytest.mark.parametrize("flags", [{"gpu_source": "none"}, {"gpu_source": "nvml"}, {"gpus": "0"}])
def test_it_is_not_asked_where_another_source_is_set(exporter, flags):
    meter(dcgm_url=exporter.url, **flags).read(0.0)
    assert exporter.requests == 0


def test_it_is_not_asked_for_a_pod_that_requests_no_gpu(exporter):
    meter(dcgm_url=exporter.url, requested=0.0).read(0.0)
    assert exporter.requests == 0


def test_models_that_a_peer_invents_take_bounded_memory():
    look_up = GpuFacts(Catalogue(), Reservation()).idle_w()
    assert all(look_up(f"no such model {n}") is None for n in range(3 * MODELS_MAX))
    assert look_up.cache_info().currsize == MODELS_MAX


def test_outside_a_pod_it_is_not_asked(exporter):
    meter(environ={}, dcgm_url=exporter.url).read(0.0)
    assert exporter.requests == 0


@pytest.mark.needs("gcc")
def test_all_gpus_are_the_pods_that_requests_as_many_as_there_are(fake_nvml):
    fake_nvml.gpu(0, energy_mj=0)
    found = meter(environ={}, requested=1.0)
    assert [gpu.pod_share for gpu in found.read(0.0)] == [1.0]
    found.close()


@pytest.mark.needs("gcc")
def test_a_gpu_that_four_share_is_a_quarter_of_each(fake_nvml):
    fake_nvml.gpu(0, energy_mj=0)
    found = meter(environ={}, requested=1.0, gpu_replicas="4")
    assert [(gpu.pod_share, gpu.share_method) for gpu in found.read(0.0)] == [
        (0.25, "time-slicing")
    ]
    found.close()


@pytest.mark.needs("gcc")
def test_a_command_uses_the_gpus_that_are_left_to_it(fake_nvml):
    fake_nvml.gpu(0, energy_mj=0)
    fake_nvml.gpu(1, energy_mj=0)
    found = meter(environ={"CUDA_VISIBLE_DEVICES": "1"}, purpose="exec", requested=None)
    (gpu,) = found.read(0.0)
    assert gpu.pod_share is None
    found.close()


def test_the_idle_power_of_a_model_is_the_catalogues():
    idle_w = GpuFacts(Catalogue(), Reservation()).idle_w()
    assert idle_w("NVIDIA A100-SXM4-80GB") > 0
    assert idle_w("an unknown card") is None
