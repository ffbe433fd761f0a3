"""What is recorded is what the counters counted: nothing lost, nothing twice, through the command."""

import csv
import itertools
import json
import shutil
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import sidecar.catalogue as shipped
from tests.e2e.commands import Running, environment, sidecar, total, windows
from tests.e2e.commands import records as records_of
from tests.fakes.nvml.build import build_fake_nvml
from tests.fakes.nvml.fixture import FakeNvml
from tests.fakes.trees import PowercapTree, ProcTree

RANGE_UJ = 262_143_328_850
MICROJOULES_PER_KWH = 3_600_000_000_000
MILLIJOULES_PER_KWH = 3_600_000_000


class Packages(PowercapTree):
    """A powercap tree whose counters change in one step, as the kernel's do."""

    def advance(self, zone: str, energy_uj: int) -> None:
        counter = self.zones / zone / "energy_uj"
        scratch = self.root / f"{zone}.new"
        scratch.write_text(f"{energy_uj}\n")
        scratch.replace(counter)


class Cpus:
    """A `/proc` of two threads of a known CPU, whose times change in one step."""

    MODEL = "AMD EPYC 7763 64-Core Processor"

    def __init__(self, root: Path) -> None:
        self.root = root
        self._scratch = ProcTree(root.with_name("scratch"))
        self._ticks = 0
        shutil.copytree(self._scratch.root, root)
        cpu = (
            "vendor_id\t: AuthenticAMD\ncpu family\t: 25\nmodel\t\t: 1\n"
            f"model name\t: {self.MODEL}\nphysical id\t: 0\nsiblings\t: 2\ncpu cores\t: 1\n"
            "flags\t\t: fpu ht hypervisor\n"
        )
        text = "".join(f"processor\t: {number}\n{cpu}\n" for number in range(2))
        (root / "cpuinfo").write_text(text)

    def advance(self) -> None:
        """One quarter busy."""
        self._ticks += 1
        self._scratch.stat(user=self._ticks, idle=3 * self._ticks)
        (self._scratch.root / "stat").replace(self.root / "stat")


@contextmanager
def repeatedly(step: object) -> Iterator[None]:
    """Call something many times a second, in a thread."""
    ended = threading.Event()

    def work() -> None:
        while not ended.wait(0.02):
            step()  # type: ignore[operator]

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


# -- RAPL ------------------------------------------------------------------------------------------


def test_the_package_energy_of_all_windows_is_the_counters_delta(tmp_path: Path):
    """Two sockets; the second wraps around on the way. Exact to the microjoule."""
    volume, start_uj = tmp_path / "out", (123_456_789, RANGE_UJ - 5_000_000)
    packages = Packages(tmp_path / "sys")
    for socket, energy_uj in enumerate(start_uj):
        packages.zone(f"intel-rapl:{socket}", f"package-{socket}", energy_uj, RANGE_UJ)
        packages.zone(f"intel-rapl:{socket}:0", "core", 1, RANGE_UJ)
    counted_uj = [0, 0]
    steps_uj = itertools.cycle([(12_345_678, 9_999_991), (1, 7), (31_415_926, 2_718_281)])

    def step() -> None:
        for socket, delta_uj in enumerate(next(steps_uj)):
            counted_uj[socket] += delta_uj
            now_uj = (start_uj[socket] + counted_uj[socket]) % RANGE_UJ
            packages.advance(f"intel-rapl:{socket}", now_uj)

    with Running(
        "run", "--interval", "1s", "--volume", volume, "--sys-root", packages.root,
        log=tmp_path / "log",
    ) as running:  # fmt: skip
        running.until(lambda: volume.exists() and records_of(volume))
        with repeatedly(step):
            running.until(lambda: len(windows(volume)) >= 3)
        running.end()
    rows = windows(volume)
    assert {row["cpu_power_method"] for row in rows} == {"rapl"}
    assert {row["quality"] for row in rows} == {"measured"}
    assert counted_uj[1] > 5_000_000, "it did not wrap around"
    for column in ("node_cpu_energy_kwh", "cpu_energy_kwh"):
        recorded_uj = total(rows, column) * MICROJOULES_PER_KWH
        assert recorded_uj == pytest.approx(sum(counted_uj), rel=1e-15)
    assert sum(row["node_cpu_energy_kwh"] > 0 for row in rows) >= 2


def test_a_counter_that_restarts_loses_its_interval_and_makes_no_spike(tmp_path: Path):
    volume = tmp_path / "out"
    packages = Packages(tmp_path / "sys")
    packages.zone("intel-rapl:0", "package-0", 200_000_000_000, RANGE_UJ)
    with Running(
        "run", "--interval", "1s", "--volume", volume, "--sys-root", packages.root,
        log=tmp_path / "log",
    ) as running:  # fmt: skip
        running.until(lambda: volume.exists() and records_of(volume))
        packages.advance("intel-rapl:0", 200_001_000_000)
        running.until(lambda: windows(volume))
        packages.advance("intel-rapl:0", 5_000_000)
        seen = running.until(lambda: len(windows(volume)) > 1 and windows(volume))
        packages.advance("intel-rapl:0", 7_000_000)
        running.until(lambda: len(windows(volume)) > len(seen))
        running.end()
    recorded_uj = total(windows(volume), "node_cpu_energy_kwh") * MICROJOULES_PER_KWH
    assert recorded_uj == pytest.approx(3_000_000, rel=1e-15)


# -- the model -------------------------------------------------------------------------------------


def watts_per_thread(model: str) -> tuple[float, float]:
    table = Path(shipped.__path__[0]) / "tables" / "cpus.csv"
    with table.open(newline="") as file:
        row = next(row for row in csv.DictReader(file) if row["cpuinfo_model_name"] == model)
    return float(row["idle_per_thread_w"]), float(row["max_per_thread_w"])


def test_the_modelled_energy_is_the_documented_formula(tmp_path: Path):
    """P = threads · (idle + (max − idle) · u), worked out here from the row of the table."""
    volume, cpus = tmp_path / "out", Cpus(tmp_path / "proc")
    with (
        Running(
            "run", "--interval", "1s", "--volume", volume, "--proc-root", cpus.root,
            "--sys-root", tmp_path, log=tmp_path / "log",
        ) as running,
        repeatedly(cpus.advance),
    ):  # fmt: skip
        running.until(lambda: volume.exists() and len(windows(volume)) >= 2)
        running.end()
    idle_w, max_w = watts_per_thread(Cpus.MODEL)
    rows = [row for row in windows(volume) if row["duration_s"] > 0.2]
    assert rows
    for row in rows:
        assert row["cpu_power_method"] == "vm-share"
        assert "AMD EPYC 7763" in row["cpu_power_source"]
        assert row["cpu_utilization"] == pytest.approx(0.25, rel=1e-9)
        power_w = 2 * (idle_w + (max_w - idle_w) * 0.25)
        wanted_kwh = power_w * row["duration_s"] / 3.6e6
        # Durations are rounded to the microsecond in the record.
        assert row["node_cpu_energy_kwh"] == pytest.approx(wanted_kwh, rel=1e-5)
        assert row["quality"] == "estimated"


@pytest.mark.parametrize(
    "make",
    [
        lambda root: root.mkdir(),
        lambda root: None,
        lambda root: root.write_text("a file"),
        lambda root: (root.mkdir(), (root / "stat").write_text("cpu  12 3")),
        lambda root: (root.mkdir(), (root / "stat").write_text(""), (root / "meminfo").mkdir()),
        lambda root: (root.mkdir(), (root / "stat").write_bytes(b"\xff" * 100_000)),
    ],
    ids=["empty", "missing", "a file", "torn", "empty stat", "garbage"],
)
@pytest.mark.parametrize("command", [("run", "--for", "100ms"), ("exec", "--", "true")])
def test_a_procfs_that_tells_nothing_gives_null_and_a_warning(
    tmp_path: Path, make: object, command: tuple[str, ...]
):
    make(tmp_path / "proc")  # type: ignore[operator]
    settings = ["--volume", tmp_path / "out", "--proc-root", tmp_path / "proc", "--sys-root", "/no"]
    outcome = sidecar(command[0], *settings, *command[1:])
    assert outcome.code == 0
    assert "meter cpu-time: cannot read CPU time from" in outcome.messages
    row = windows(tmp_path / "out")[-1]
    for column in ("energy_kwh", "cpu_energy_kwh", "node_cpu_energy_kwh", "emissions_g"):
        assert row[column] is None
    assert row["cpu_utilization"] is None
    assert "no energy could be metered" in outcome.stderr


# -- GPUs ------------------------------------------------------------------------------------------


@pytest.fixture
def driver(tmp_path: Path) -> FakeNvml:
    """The driver of a node with one A100, seen by child processes only."""
    fake = FakeNvml(tmp_path / "nvml.state", build_fake_nvml())
    return fake.gpu(0, power_mw=250_000, energy_mj=9_000_000, util=50, limit_mw=300_000)


@pytest.mark.needs("gcc")
@pytest.mark.parametrize("purpose", ["run", "exec"])
def test_the_gpu_energy_of_all_windows_is_the_counters_delta(
    tmp_path: Path, driver: FakeNvml, purpose: str
):
    volume, end = tmp_path / "out", tmp_path / "end"
    child = ["--", "sh", "-c", f"until [ -e {end} ]; do sleep 0.05; done"]
    counted_mj = 0

    def step() -> None:
        nonlocal counted_mj
        counted_mj += 12_347
        driver.gpu(0, energy_mj=9_000_000 + counted_mj)

    with Running(
        purpose, "--interval", "1s", "--volume", volume, *(child if purpose == "exec" else []),
        log=tmp_path / "log", env=environment(**driver.environment),
    ) as running:  # fmt: skip
        running.until(lambda: volume.exists() and records_of(volume))
        with repeatedly(step):
            running.until(lambda: len(windows(volume)) >= 2)
        end.touch()
        running.end(signal.SIGTERM if purpose == "run" else None)
    rows = windows(volume)
    assert {row["gpu_method"] for row in rows} == {"energy-counter"}
    recorded_mj = total(rows, "gpu_energy_kwh") * MILLIJOULES_PER_KWH
    assert recorded_mj == pytest.approx(counted_mj, rel=1e-14)
    assert {gpu["model"] for row in rows for gpu in row["gpus"]} == {"NVIDIA A100-SXM4-80GB"}
    assert rows[0]["gpu_utilization"] == pytest.approx(0.5)


@pytest.mark.needs("gcc")
def test_a_gpu_counter_that_is_reset_makes_no_spike(tmp_path: Path, driver: FakeNvml):
    volume = tmp_path / "out"
    with Running(
        "run", "--interval", "1s", "--volume", volume,
        log=tmp_path / "log", env=environment(**driver.environment),
    ) as running:  # fmt: skip
        running.until(lambda: volume.exists() and records_of(volume))
        driver.gpu(0, energy_mj=9_100_000)
        running.until(lambda: windows(volume))
        driver.gpu(0, energy_mj=50_000)
        seen = running.until(lambda: len(windows(volume)) > 1 and windows(volume))
        driver.gpu(0, energy_mj=90_000)
        running.until(lambda: len(windows(volume)) > len(seen))
        running.end()
    rows = windows(volume)
    for row in rows:
        assert row["gpu_energy_kwh"] >= 0
        # The board's limit is 300 W, the model's and the counter's upper bound.
        assert row["gpu_energy_kwh"] * 3.6e6 <= 300 * max(row["duration_s"], 1.0)
    assert total(rows, "gpu_energy_kwh") * MILLIJOULES_PER_KWH >= 140_000 - 1


@pytest.mark.needs("gcc")
def test_a_driver_that_fails_does_not_end_the_metering(tmp_path: Path, driver: FakeNvml):
    driver.set({"error.nvmlDeviceGetTotalEnergyConsumption": 999, "0.lost": 1})
    outcome = sidecar(
        "run", "--for", "1s", "--volume", tmp_path, env=environment(**driver.environment)
    )
    assert outcome.code == 0
    assert windows(tmp_path)[-1]["cpu_energy_kwh"] is not None


def test_without_a_driver_there_is_no_gpu(tmp_path: Path):
    outcome = sidecar("run", "--for", "100ms", "--volume", tmp_path)
    row = windows(tmp_path)[-1]
    assert (row["gpus"], row["gpu_energy_kwh"], row["gpu_method"]) == ([], None, None)
    assert "no libnvidia-ml.so.1" in outcome.messages


def test_a_size_with_gpus_but_no_driver_takes_the_table_and_says_so(tmp_path: Path):
    sidecar(
        "run", "--for", "1s", "--volume", tmp_path, "--vm-size", "Standard_NC24ads_A100_v4"
    )  # fmt: skip
    row = windows(tmp_path)[-1]
    assert row["gpu_method"] == "table"
    assert row["quality"] == "modelled"
    assert [gpu["uuid"] for gpu in row["gpus"]] == [None]
    assert row["gpu_energy_kwh"] > 0
    assert row["emissions_low_g"] < row["emissions_g"] < row["emissions_high_g"]


def test_no_gpu_is_metered_where_none_is_wanted(tmp_path: Path):
    sidecar(
        "run", "--for", "100ms", "--volume", tmp_path, "--gpu-source", "none",
        "--vm-size", "Standard_NC24ads_A100_v4",
    )  # fmt: skip
    assert windows(tmp_path)[-1]["gpu_energy_kwh"] is None


def test_a_library_that_is_none_does_not_end_it(tmp_path: Path):
    """A file of the driver's name that is no library, as after a half-finished installation."""
    (tmp_path / "libnvidia-ml.so.1").write_text("not a library\n")
    env = environment(LD_LIBRARY_PATH=str(tmp_path))
    outcome = sidecar("exec", "--volume", tmp_path / "out", "--", "true", env=env)
    assert outcome.code == 0
    assert windows(tmp_path / "out")[-1]["gpus"] == []
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["gpu_energy_kwh"] is None
