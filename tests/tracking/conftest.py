"""A working directory of its own, nobody at the sidecar's usual address, and what is left on disk."""

import csv
import json
import logging
from pathlib import Path

import pytest

from sidecar.tracking import options
from sidecar.tracking.process import this_process


class Left:
    """What trackers left in the working directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def records(self, volume: str = "emissions") -> list[dict]:
        """Records of all runs, run by run, in their order; segments may be closed."""
        files = sorted((self.directory / volume / "records").glob("*.ndjson"))
        return [json.loads(line) for file in files for line in file.read_text().splitlines()]

    def windows(self, volume: str = "emissions") -> list[dict]:
        return [record for record in self.records(volume) if record["event"] != "start"]

    def rows(self, path: str = "emissions.csv") -> list[dict]:
        with (self.directory / path).open(newline="") as stream:
            return list(csv.DictReader(stream))

    def files(self) -> set[str]:
        found = self.directory.rglob("*")
        return {str(path.relative_to(self.directory)) for path in found if path.is_file()}


@pytest.fixture
def left(tmp_path, monkeypatch) -> Left:
    directory = tmp_path / "work"
    directory.mkdir()
    monkeypatch.chdir(directory)
    monkeypatch.setenv("EMISSIONS_SIDECAR_URL", "none")
    monkeypatch.setenv("EMISSIONS_CONFIG", "none")
    options._warn_once.cache_clear()
    return Left(directory)


@pytest.fixture(autouse=True)
def _no_run_is_left():
    yield
    process = this_process()
    assert process._run is None, "a test left its tracker running"
    assert process.clock.phase is None, "a test left a phase open"


@pytest.fixture(autouse=True)
def _level_of_the_logger():
    logger = logging.getLogger("sidecar")
    before = logger.level
    yield
    logger.setLevel(before)


def used(seconds_of_cpu: float = 0.05) -> int:
    """Use a CPU for so long: more than the ticks of 10 ms that CPU time is counted in."""
    import time

    total, until_s = 0, time.process_time() + seconds_of_cpu
    while time.process_time() < until_s:
        total += sum(range(1000))
    return total
