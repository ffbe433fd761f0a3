"""What Prometheus shows of a run is what stands in its records, at each scrape and at the end."""

import gzip
import json
import math
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.commands import PATIENCE_S, Running, environment, messages
from tests.prometheus.server import Prometheus

pytestmark = pytest.mark.needs("promtool")

COUNTERS = (
    ('emissions_energy_joules_total{component="cpu"}', "cpu_energy_kwh", 3.6e6),
    ('emissions_energy_joules_total{component="ram"}', "ram_energy_kwh", 3.6e6),
    ("emissions_facility_energy_joules_total", "facility_energy_kwh", 3.6e6),
    ('emissions_node_energy_joules_total{component="cpu"}', "node_cpu_energy_kwh", 3.6e6),
    ("emissions_co2e_grams_total", "emissions_g", 1.0),
    ("emissions_co2e_low_grams_total", "emissions_low_g", 1.0),
    ("emissions_water_litres_total", "water_l", 1.0),
    ("emissions_metered_seconds_total", "duration_s", 1.0),
)
WINDOWS = 8


class Run:
    """A sidecar whose far side does not answer: it is scraped still when its last window is written."""

    def __init__(self, directory: Path) -> None:
        self.volume = directory / "volume"
        self.process = Running(
            "run",
            *("--volume", self.volume),
            *("--project", "vision"),
            *("--region", "westeurope"),
            *("--interval", "1s"),
            *("--listen", "127.0.0.1:0"),
            *("--transport", "collector"),
            *("--collector-url", "http://127.0.0.1:9"),
            *("--ship-deadline", "10m"),
            *("--log-format", "json"),
            log=directory / "log",
            env=environment(),
        )

    @property
    def address(self) -> str:
        """Where it listens; waits for that."""

        def told() -> str:
            lines = messages(self.process.log.rpartition("\n")[0]).splitlines()
            return next((line.rpartition("/")[2] for line in lines if "listening on" in line), "")

        return self.process.until(told)

    def rows(self) -> list[dict[str, Any]]:
        """The windows, also those in closed segments."""
        texts = [gzip.decompress(path.read_bytes()) for path in self._segments("gz")]
        texts += [path.read_bytes() for path in self._segments("ndjson")]
        rows = [json.loads(line) for text in texts for line in text.splitlines()]
        return [row for row in rows if row["event"] != "start"]

    def _segments(self, suffix: str) -> list[Path]:
        return sorted((self.volume / "records").glob(f"*.{suffix}"))


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    run = Run(tmp_path)
    with run.process:
        yield run


@pytest.fixture
def prometheus(tmp_path: Path, run: Run) -> Iterator[Prometheus]:
    job = {"job_name": "run", "static_configs": [{"targets": [run.address]}]}
    with Prometheus(tmp_path, [job]) as prometheus:
        yield prometheus


def test_every_scrape_shows_the_sums_of_the_records_written_by_then(run: Run, prometheus) -> None:
    """So no counter falls, whichever windows a scrape falls between."""
    run.process.until(lambda: (prometheus.value("emissions_windows_total") or 0) >= WINDOWS)
    ((_, counts),) = prometheus.scraped("emissions_windows_total")
    rows = run.rows()
    for selector, column, factor in COUNTERS:
        ((_, samples),) = prometheus.scraped(selector)
        told = dict(samples)
        assert len(told) >= 3
        for at, count in counts:
            written = math.fsum(row[column] for row in rows[: int(count)])
            assert told[at] == pytest.approx(written * factor, rel=1e-12), (selector, count)


def test_in_the_end_it_shows_the_totals_of_all_records_and_increase_agrees(
    run: Run, prometheus
) -> None:
    run.process.until(lambda: (prometheus.value("emissions_windows_total") or 0) >= WINDOWS)
    run.process.process.send_signal(signal.SIGTERM)
    run.process.until(lambda: "shipping what is left" in messages(run.process.log))
    rows = run.rows()
    assert rows[-1]["event"] == "end"
    run.process.until(lambda: prometheus.value("emissions_windows_total") == len(rows))
    run.process.process.send_signal(signal.SIGTERM)  # nobody is there to be shipped to
    assert run.process.process.wait(PATIENCE_S) == 0
    summary = json.loads((run.volume / "summary.json").read_text())
    for selector, column, factor in COUNTERS:
        written = math.fsum(row[column] for row in rows)
        if column in summary:
            assert summary[column] == pytest.approx(written, rel=1e-12)
        ((_, samples),) = prometheus.scraped(selector)
        first, last = samples[0][1], samples[-1][1]
        assert last == pytest.approx(written * factor, rel=1e-12)
        # increase() reaches a little beyond the first and the last scrape, for what it cannot see.
        rise = prometheus.value(f"increase({selector}[10m])")
        most = 1 + 1.7 / (len(samples) - 1)
        assert (last - first) * (1 - 1e-9) <= rise <= (last - first) * most
