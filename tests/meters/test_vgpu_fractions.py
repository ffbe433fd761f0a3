"""vGPU sizes of an A10: no power, a utilisation that is not believed, and a fraction of the card."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from sidecar.catalogue.lookup import Catalogue
from sidecar.estimate.attribution import WHOLE_NODE
from sidecar.estimate.emissions import WindowEstimate, estimate_window
from sidecar.factors import Place, SeenGpu, choose_factors
from sidecar.identity.fields import Hardware, Identity
from sidecar.meters.gpu_meter import GpuMeter
from sidecar.meters.gpu_scope import ScopedGpus
from sidecar.meters.nvml import NvmlMeter
from sidecar.meters.reading import NodeReading, PodReading
from sidecar.meters.usage import usage_between
from sidecar.settings import Settings
from tests.fakes.nvml.fixture import FakeNvml

pytestmark = pytest.mark.needs("gcc")

VIRTUAL = 2  # NVML_GPU_VIRTUALIZATION_MODE_VGPU
TDP_W, IDLE_W = 150.0, 10.3  # of the card: catalogue
FRACTIONS = [("4Q", 4 / 24), ("8Q", 8 / 24), ("12Q", 12 / 24), ("24Q", 24 / 24)]


@pytest.fixture
def meter(fake_nvml: FakeNvml) -> Iterator[GpuMeter]:
    opened = NvmlMeter(lazy=True)
    yield ScopedGpus(opened, requested=1.0)
    opened.close()


def hour(meter: GpuMeter) -> WindowEstimate:
    """One hour of a pod that has the node for itself, estimated."""
    pod = (PodReading(None, None),)
    before, after = (
        NodeReading(now_s, None, None, None, meter.read(now_s), pod) for now_s in (0.0, 3600.0)
    )
    usage = usage_between(before, after)
    seen = tuple(SeenGpu(gpu.model, gpu.power_limit_w) for gpu in usage.gpus)
    place = Place(Identity(), Hardware(), seen)
    return estimate_window(usage, WHOLE_NODE, choose_factors(place, Settings(), Catalogue()))


@pytest.mark.parametrize(("profile", "fraction"), FRACTIONS)
def test_a_vgpu_has_its_fraction_of_the_card_once(
    fake_nvml: FakeNvml, meter: GpuMeter, profile: str, fraction: float
):
    """Half way between idle and limit, as nothing is observed; by the catalogue's rounded watts."""
    fake_nvml.gpu(0, name=f"NVIDIA A10-{profile}", virt=VIRTUAL, util=0)
    estimate = hour(meter)
    expected_kwh = fraction * (IDLE_W + TDP_W) / 2 / 1000
    (gpu,) = estimate.gpus
    assert gpu.energy is not None
    assert gpu.energy.value == pytest.approx(expected_kwh, rel=0.02)
    assert (gpu.device.method, gpu.share, gpu.share_method) == ("table", 1.0, "all-requested")
    assert estimate.quality == "modelled"


def test_a_utilisation_stuck_at_zero_is_not_idle(fake_nvml: FakeNvml, meter: GpuMeter):
    fake_nvml.gpu(0, name="NVIDIA A10-24Q", virt=VIRTUAL, util=0, power_mw=0, energy_mj=0)
    estimate = hour(meter)
    assert estimate.gpu is not None
    assert estimate.gpu.value > 0.05
    assert estimate.gpu.low == pytest.approx(0.00824, rel=0.01)
    assert estimate.gpu_reserved_idle_kwh is None


def test_a_golden_page_of_a_vgpu_is_modelled_too():
    from sidecar.meters.dcgm_gpu import Allocation, DcgmGpu, PodName
    from sidecar.meters.dcgm_page import read_page

    content = (Path(__file__).parent.parent / "data" / "dcgm" / "vgpu.prom").read_bytes()

    class Page:
        def __init__(self) -> None:
            self.gpu: DcgmGpu | None = None

        def read(self, now_s: float):
            (seen,) = read_page([content], len(content)).values()
            self.gpu = self.gpu or DcgmGpu(seen.uuid, lambda model: None)
            self.gpu.take(seen, Allocation.of(PodName("team-a", "train-0"), [seen], 1), now_s)
            return (self.gpu.reading(),)

    estimate = hour(Page())  # type: ignore[arg-type]
    (gpu,) = estimate.gpus
    assert gpu.energy is not None
    assert gpu.energy.value == pytest.approx((IDLE_W + TDP_W) / 2 / 1000, rel=0.02)
    assert (gpu.device.method, gpu.share, gpu.share_method) == ("table", 1.0, "dcgm")
