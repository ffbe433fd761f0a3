"""The end of a pod, as Kubernetes makes it: announced, asked for, or sudden."""

import http.client
import json
import os
import re
import signal
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from sidecar.segment import SegmentName, decompressed
from tests.e2e.commands import Running, environment, messages, sidecar, total, windows

LISTENING = re.compile(r"listening on http://(127\.0\.0\.1):(\d+)")


class Pod:
    """A volume, a termination log as Kubernetes makes it, and a sidecar with an address."""

    def __init__(self, tmp_path: Path) -> None:
        self.volume = tmp_path / "volume"
        self.message = tmp_path / "termination-log"
        self.message.touch()
        self.log = tmp_path / "log"
        self.far = tmp_path / "far"

    def run(self, *flags: str | Path) -> Running:
        return Running(
            "run", "--interval", "1h", "--volume", self.volume, "--termination-log", self.message,
            *flags,
            log=self.log,
            env=environment(EMISSIONS_LISTEN="127.0.0.1:0"),
        )  # fmt: skip

    def ask(self, running: Running, path: str, method: str = "GET") -> tuple[int, str]:
        match = running.until(lambda: LISTENING.search(running.log))
        with closing(http.client.HTTPConnection(match[1], int(match[2]), timeout=10)) as connection:
            connection.request(method, path)
            response = connection.getresponse()
            return response.status, response.read().decode()

    def told(self) -> dict[str, Any]:
        """The termination message; none yet is an empty one."""
        text = self.message.read_text()
        assert text == "" or text.endswith("}\n")
        return json.loads(text) if text else {}

    def left(self) -> list[str]:
        """Segments on the volume."""
        names = [path.name for path in (self.volume / "records").iterdir()]
        return [name for name in names if SegmentName.of_file(name)]

    def unshipped(self) -> list[dict[str, Any]]:
        """Records of the segments on the volume."""
        files = [self.volume / "records" / name for name in self.left()]
        plain = [path.read_bytes() for path in files if path.suffix != ".gz"]
        packed = [decompressed(path.read_bytes()) for path in files if path.suffix == ".gz"]
        return [json.loads(line) for line in b"".join(plain + packed).splitlines()]

    def arrived(self) -> list[dict[str, Any]]:
        """Records of the far side, in their order."""
        blobs = sorted((self.far / "records" / "v1").rglob("*.ndjson.gz"))
        text = b"".join(decompressed(path.read_bytes()) for path in blobs)
        return [json.loads(line) for line in text.splitlines()]


@pytest.fixture
def pod(tmp_path: Path) -> Pod:
    return Pod(tmp_path)


def last_message(log: str) -> str:
    return messages(log).splitlines()[-1]


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_windows_are_short_from_the_announcement_on(pod: Pod, method: str):
    with pod.run() as running:
        assert pod.ask(running, "/healthz") == (200, "ok\n")
        assert not windows(pod.volume)
        assert pod.ask(running, "/terminating", method)[0] == 200
        running.until(lambda: len(windows(pod.volume)) >= 3)
        running.end()
    first, *rest = [row for row in windows(pod.volume) if row["event"] == "window"]
    assert all(0 < row["duration_s"] < 60 for row in rest)  # of an hour, else
    assert first["window_end"] == rest[0]["window_start"]


def test_an_announcement_said_twice_is_said_once_in_the_log(pod: Pod):
    with pod.run() as running:
        for _ in range(3):
            pod.ask(running, "/terminating")
        running.until(lambda: windows(pod.volume))
        outcome = running.end()
    assert outcome.messages.count("the end is announced") == 1


def test_the_message_is_written_at_each_window_after_the_announcement(pod: Pod):
    with pod.run() as running:
        pod.ask(running, "/healthz")
        assert pod.told() == {}
        pod.ask(running, "/terminating")
        first = running.until(pod.told)
        assert first["reason"] == "terminating"
        running.until(lambda: pod.told()["windows"] > first["windows"] + 1)
        running.end()


def test_the_message_survives_a_kill_with_the_totals_so_far(pod: Pod):
    with pod.run() as running:
        pod.ask(running, "/terminating")
        running.until(lambda: pod.told().get("windows", 0) >= 2)
        running.process.kill()
        running.process.wait()
    row = pod.told()
    assert row["reason"] == "terminating"
    counted = windows(pod.volume)[: row["windows"]]
    assert len(windows(pod.volume)) - row["windows"] <= 1
    assert row["energy_kwh"] == pytest.approx(total(counted, "energy_kwh"), rel=1e-9)


def test_a_signal_leaves_totals_and_reason_in_the_message(pod: Pod):
    pod.message.write_text("what another container wrote " * 100)
    with pod.run() as running:
        running.until(lambda: "metering" in running.log)
        assert running.end().code == 0
    row = pod.told()
    assert (row["reason"], row["windows"]) == ("SIGTERM", 1)
    assert row["energy_kwh"] == pytest.approx(total(windows(pod.volume), "energy_kwh"))
    assert row["unshipped_records"] == 0


def test_no_message_is_made_where_kubernetes_made_no_file(pod: Pod):
    pod.message.unlink()
    with pod.run() as running:
        running.until(lambda: "metering" in running.log)
        outcome = running.end()
    assert outcome.code == 0
    assert not pod.message.exists()
    assert "cannot write" not in outcome.messages


def test_a_message_that_cannot_be_written_costs_only_itself(pod: Pod):
    pod.message.unlink()
    pod.message.mkdir()
    with pod.run() as running:
        running.until(lambda: "metering" in running.log)
        outcome = running.end()
    assert outcome.code == 0
    assert "Is a directory" in outcome.messages
    assert windows(pod.volume)


def test_what_cannot_be_shipped_stays_and_is_told(pod: Pod):
    pod.far.write_text("a file")
    with pod.run(
        "--transport", "directory", "--transport-directory", pod.far, "--ship-deadline", "1s"
    ) as running:
        running.until(lambda: "metering" in running.log)
        outcome = running.end()
    assert outcome.code == 0
    last = last_message(outcome.stderr)
    assert last.startswith("ended (SIGTERM): ")
    assert "CO2e" in last or "too short" in last
    assert "2 records not shipped, in " in last
    assert "is a file" in last
    row = pod.told()
    assert (row["unshipped_records"], row["shipped_records"]) == (2, 0)
    assert row["ship_failure"].startswith(f"{pod.far}/")
    assert len(pod.left()) == row["unshipped_segments"] == 1
    assert pod.far.read_text() == "a file"


def test_what_could_not_be_shipped_is_shipped_by_the_next_process(pod: Pod):
    """Where the far side is there again; nothing arrives twice."""
    flags = ("--transport", "directory", "--transport-directory", pod.far, "--ship-deadline", "1s")
    with pod.run(*flags) as running:
        running.until(lambda: "metering" in running.log)
        running.end()
    assert pod.left()
    pod.far.mkdir()
    with pod.run(*flags) as running:
        running.until(lambda: len(pod.arrived()) >= 2)
        running.end()
    assert not pod.left()
    ids = [row["record_id"] for row in pod.arrived()]
    assert len(ids) == len(set(ids)) == 4


def test_all_records_arrive_and_leave_the_volume_empty(pod: Pod):
    pod.far.mkdir()
    with pod.run("--transport", "directory", "--transport-directory", pod.far) as running:
        pod.ask(running, "/terminating")
        running.until(lambda: len(pod.arrived()) >= 4)
        outcome = running.end()
    rows = pod.arrived()
    assert [row["event"] for row in rows[:2]] == ["start", "window"]
    assert (rows[-1]["event"], rows[-1]["end_reason"]) == ("end", "SIGTERM")
    numbers = [int(row["record_id"].rsplit(".", 1)[1]) for row in rows]
    assert numbers == list(range(len(rows)))
    assert not pod.left()
    assert last_message(outcome.stderr).endswith(f"{len(rows)} records shipped")
    told = pod.told()
    assert (told["shipped_records"], told["unshipped_records"]) == (len(rows), 0)
    assert told["energy_kwh"] == pytest.approx(total(rows[1:], "energy_kwh"))


def test_after_the_announcement_a_kill_costs_no_closed_window(pod: Pod):
    pod.far.mkdir()
    with pod.run("--transport", "directory", "--transport-directory", pod.far) as running:
        pod.ask(running, "/terminating")
        running.until(lambda: len(pod.arrived()) >= 4)
        told = pod.told()
        running.process.kill()
        running.process.wait()
    # The last one may be on its way still: it is on the volume then.
    kept = {row["record_id"] for row in [*pod.arrived(), *pod.unshipped()]}
    assert len(kept) >= 1 + told["windows"]


def test_metrics_tell_what_was_shipped(pod: Pod):
    pod.far.mkdir()
    with pod.run("--transport", "directory", "--transport-directory", pod.far) as running:
        pod.ask(running, "/terminating")
        running.until(lambda: len(pod.arrived()) >= 3)
        code, text = pod.ask(running, "/metrics")
        running.end()
    assert code == 200
    shipped = re.search(r"^emissions_shipped_records_total (\S+)$", text, re.MULTILINE)
    assert shipped is not None
    assert float(shipped[1]) >= 2


def test_an_address_that_is_taken_costs_only_the_server(pod: Pod):
    with pod.run() as first:
        match = first.until(lambda: LISTENING.search(first.log))
        taken = environment(EMISSIONS_LISTEN=f"127.0.0.1:{match[2]}")
        other = pod.volume.with_name("other")
        second = sidecar("run", "--for", "100ms", "--volume", other, env=taken)
        first.end()
    assert second.code == 0
    assert "metering goes on" in second.messages
    assert windows(other)


def test_the_server_answers_while_the_sidecar_is_busy_ending(pod: Pod):
    """A preStop hook and kubelet's probe may come while records are being shipped."""
    pod.far.write_text("a file")
    with pod.run(
        "--transport", "directory", "--transport-directory", pod.far, "--ship-deadline", "3s"
    ) as running:
        assert pod.ask(running, "/healthz")[0] == 200
        os.kill(running.process.pid, signal.SIGTERM)
        assert pod.ask(running, "/terminating")[0] == 200
        assert running.end(None).code == 0
    assert pod.told()["unshipped_records"] >= 2


EARLY_TERM = """
import importlib, os, signal, sys
from sidecar.cli import main
load = importlib.import_module
def loaded(name):
    os.kill(os.getpid(), signal.SIGTERM)
    return load(name)
importlib.import_module = loaded
sys.exit(main.main(sys.argv[1:]))
"""


def test_a_signal_that_comes_while_the_command_is_loaded_is_heard(pod: Pod):
    """At the CPU limit of a sidecar loading takes seconds; as process 1 it would not even end."""
    flags = ("run", "--volume", str(pod.volume), "--imds-endpoint", "none")
    done = subprocess.run(
        [sys.executable, "-c", EARLY_TERM, *flags], env=environment(), timeout=30, check=False
    )
    assert done.returncode == 0
    assert windows(pod.volume)[-1]["end_reason"] == "SIGTERM"


@pytest.mark.parametrize(
    ("bad", "told"),
    [
        ({"EMISSIONS_REGOIN": "westeurope"}, "EMISSIONS_REGOIN"),
        ({"EMISSIONS_CONFIG": "/there/is/none.toml"}, "/there/is/none.toml"),
    ],
)
def test_a_pod_with_a_bad_setting_has_a_sidecar_that_stands_by(
    pod: Pod, bad: dict[str, str], told: str
):
    """One that ended would hold up the pod's other containers."""
    env = environment(
        POD_UID="11111111-2222-3333-4444-555555555555",
        EMISSIONS_LISTEN="127.0.0.1:0",
        EMISSIONS_TERMINATION_LOG=str(pod.message),
        **bad,
    )
    with Running("run", log=pod.log, env=env) as running:
        assert pod.ask(running, "/healthz") == (200, "ok\n")
        assert pod.ask(running, "/terminating")[0] == 200
        outcome = running.end()
    assert outcome.code == 0
    assert "nothing is metered: " in outcome.stderr
    assert told in outcome.stderr
    assert pod.told()["reason"] == "settings"


FAILING = """
import sys
from sidecar.agent import Agent
from sidecar.cli import main
def run(agent, wait):
    raise KeyError("a bug")
Agent.run = run
sys.exit(main.main(sys.argv[1:]))
"""


@pytest.mark.parametrize(
    ("pod_uid", "code"), [("11111111-2222-3333-4444-555555555555", 0), ("", 1)]
)
def test_in_a_pod_the_exit_code_is_not_the_sidecars_to_give(pod: Pod, pod_uid: str, code: int):
    """A Job's podFailurePolicy looks at the codes of all containers; ours must decide nothing."""
    flags = ("run", "--volume", str(pod.volume), "--imds-endpoint", "none")
    env = environment(POD_UID=pod_uid)
    done = subprocess.run(
        [sys.executable, "-c", FAILING, *flags], env=env, timeout=60, capture_output=True, text=True
    )
    assert done.returncode == code
    assert "metering failed; the last window is written" in done.stderr
