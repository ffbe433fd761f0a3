"""The end can be announced by whoever reaches the pod, as kubelet must: what a liar makes of it."""

import pytest

from sidecar.agent import Wake
from tests.test_agent import identities, machine, make_agent, records  # noqa: F401 - fixtures

HOUR_S = 3600.0


@pytest.mark.parametrize("interval", ["15s", "1m"])
def test_an_end_that_is_announced_all_the_time_multiplies_windows_by_a_few_and_energy_by_nothing(
    make_agent, machine, tmp_path, interval  # noqa: F811
):  # fmt: skip
    agent = make_agent(interval=interval)
    agent.open()
    began_s = machine.monotonic_s

    def wait(timeout_s):
        if machine.monotonic_s - began_s >= HOUR_S:
            return Wake(stop="test over")
        machine.run(timeout_s)
        return Wake(hurry=True)

    agent.close(agent.run(wait))
    rows = records(tmp_path)
    usual = HOUR_S / {"15s": 15, "1m": 60}[interval]
    assert len(rows) < 8 * usual
    assert sum(row["duration_s"] for row in rows) == pytest.approx(machine.monotonic_s - began_s)
