"""Hours of random faults on a clock that runs fast: nothing lost, nothing twice, and nothing grows.

CI runs a short one of a few pods, dense with faults. `make soak` runs the long one (SEED, HOURS, PODS,
SPEED: how fast the clock runs, TIMES the usual faults); what fails tells its seed and all that happened.
"""

import json
import math
import os
import sys
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.faults.scene import KILLED, Row, Store, segments_on
from tests.faults.soak_plan import Plan
from tests.faults.soak_pod import footprint
from tests.faults.soak_world import Boot, World

pytestmark = pytest.mark.needs("azurite", "root")

MIB = 1024**2
NOTICES = {KILLED, "clock set back", "not comparable", "disputed", "merged", "two forms"}
"""Where a clock is set back and the pod starts anew, nothing tells the two processes' windows apart in
time: they are not comparable, and may tell different energies of what looks like one time."""

SIDECAR_GROWTH_MAX_BYTES = 8 * MIB
SIDECAR_DESCRIPTORS_MAX = 24
SIDECAR_THREADS_MAX = 3
"""One meters, one ships, and one watches the time of a delivery."""
COLLECTOR_GROWTH_MAX_BYTES = 96 * MIB
COLLECTOR_DESCRIPTORS_MAX = 80
COLLECTOR_THREADS_MAX = 48
"""16 that store, 8 that ask the cluster, Azure's, and some of the runtime."""

ROUNDING_S = 1e-6
"""Of a record's duration."""

ROUNDING_KWH = 4e-10
"""The most that a machine uses in that time, and then some windows merged."""


@dataclass(frozen=True)
class Metered:
    """What a process should have recorded."""

    energy_kwh: float
    duration_s: float
    holes: int
    is_unended: bool


def plan_of(seed: int) -> Plan:
    given = os.environ
    return Plan(
        seed=int(given.get("SEED", seed)),
        hours=float(given.get("HOURS", 0.4)),
        pods=int(given.get("PODS", 12)),
        speed=float(given.get("SPEED", 120)),
        times=float(given.get("TIMES", 4)),
    )


def test_whatever_happens_all_that_was_metered_arrives_once_and_nothing_grows(
    store: Store, api, tmp_path: Path
):
    plan = plan_of(seed=1)
    with World(plan, tmp_path, store, api) as world:
        try:
            world.run()
            nothing_has_grown(world)
            all_end_well(world)
            no_fault_of_ours(world)
            all_is_there_once(world)
        except BaseException as error:
            happened = "\n".join(world.done)
            error.add_note(f"{plan}; logs in {tmp_path}\n{happened}\n{world.waits_for}")
            raise


# -- what must hold at the end ------------------------------------------------------------------------


def nothing_has_grown(world: World) -> None:
    for slot in world.slots:
        told = slot.boot.ask_state()
        now, before = told["now"], told["before"]
        about = f"{slot.boot.about.stem}: {told}"
        assert {"MainThread", "shipping"} <= set(told["threads"]), about
        assert len(told["threads"]) <= SIDECAR_THREADS_MAX, about
        assert now["descriptors"] <= SIDECAR_DESCRIPTORS_MAX, about
        growth = now["rss"] - before["rss"] if before else 0  # it has few windows yet
        assert growth < SIDECAR_GROWTH_MAX_BYTES, about
        world.footprints.append({**now, "growth": growth, "threads": len(told["threads"])})
        assert told["state"]["refused_segments"] == 0, about
    for replica in world.replicas:
        now = footprint(replica.pid)
        assert now["rss"] - replica.before["rss"] < COLLECTOR_GROWTH_MAX_BYTES, now
        assert now["descriptors"] <= COLLECTOR_DESCRIPTORS_MAX, now
        assert now["threads"] <= COLLECTOR_THREADS_MAX, now


def all_end_well(world: World) -> None:
    """Each ships its last window, and leaves nothing behind."""
    for slot in world.slots:
        slot.boot.tell("stop")
    for slot in world.slots:
        slot.boot.process.join(90)
        assert slot.boot.process.exitcode == 0, slot.boot.about.log.read_text()[-3000:]
    for volume in {slot.volume for slot in world.slots}:
        assert not segments_on(volume)
        assert not list((volume / "records").glob(".*")), "a claim or a torn file is left"
        assert not list((volume / "records").glob("refused/*")), "a segment was refused"


def no_fault_of_ours(world: World) -> None:
    for attack in world.attacks:
        attack.result()
    logs = [*world.root.glob("logs/*"), *world.root.glob("collector-*/*.log")]
    for log in logs:
        text = log.read_text()
        assert "Traceback" not in text, text[text.index("Traceback") - 500 :][:4000]
        assert "which is a bug" not in text, log


def all_is_there_once(world: World) -> None:
    """What every process recorded is what its machine used meanwhile, to a few millijoules a window."""
    rows: dict[str, list[Row]] = defaultdict(list)
    for row in world.store.rows:
        rows[row["record_id"].rpartition(".")[0]].append(row)
    boots = {boot.about.stem: boot for slot in world.slots for boot in slot.boots}
    assert set(rows) <= set(boots), "somebody else's"
    found = [all_of(boot, rows[stem]) for stem, boot in boots.items() if boot.has_begun]
    verdict = world.store.read("verify")
    tell(world, verdict)
    assert {item["kind"]: item["count"] for item in verdict["violations"]} == holes_of(found)
    assert verdict["duplicates"] == 0
    notices = {notice["kind"]: notice["count"] for notice in verdict["notices"]}
    assert set(notices) <= NOTICES, verdict["notices"]
    unended = sum(metered.is_unended for metered in found)
    assert notices.get(KILLED, 0) == unended, "each open window that was lost is seen"
    totals = verdict["totals"]
    for column in ("energy_kwh", "duration_s"):
        expected = math.fsum(getattr(metered, column) for metered in found)
        assert totals[column] == pytest.approx(expected, rel=1e-9)


def holes_of(found: list[Metered]) -> dict[str, int]:
    """The violations there are: with a full volume and no way out, a kill takes what memory holds."""
    holes = sum(metered.holes for metered in found)
    return {"gap": holes} if holes else {}


def all_of(boot: Boot, rows: list[Row]) -> Metered:
    """What a process metered, window by window; only what was open when it was killed is missing.

    And what it had in memory alone, where neither its volume nor the far side took it to the end.
    """
    diary, machine = boot.diary, boot.about.node_there()
    began_s = boot.noted("began_s")
    ends_s = {row["windows"]: row["metered_s"] for row in diary if "windows" in row}
    safe_s = boot.noted("safe_s", began_s)
    at_s, holes, expected_kwh = began_s, 0, []
    about = (
        f"{boot.about.stem}, begun {began_s}, safe {safe_s}, killed {boot.killed_s}: {diary[-3:]}"
    )
    for row in sorted(rows, key=lambda row: int(row["record_id"].rpartition(".")[2])):
        if row["event"] == "start":
            continue
        number = int(row["record_id"].rpartition(".")[2])
        # Number 0 where so many windows waited for the volume that the first was merged into the start.
        start_s = ends_s[max(0, number - 1)]
        end_s = start_s + row["duration_s"]
        if start_s != pytest.approx(at_s, abs=ROUNDING_S * len(rows)):
            assert at_s < start_s, f"twice: {about}"
            assert safe_s < start_s, f"{start_s - at_s} s are missing at {at_s}: {about}"
            holes += 1
        at_s = end_s
        expected_kwh.append(machine.energy_kwh(start_s, end_s))
        assert row["energy_kwh"] == pytest.approx(expected_kwh[-1], abs=ROUNDING_KWH), about
    assert at_s >= safe_s - ROUNDING_S * len(rows), about
    assert at_s <= (boot.killed_s or at_s), about
    duration_s = math.fsum(row["duration_s"] for row in rows)
    is_unended = bool(rows) and all(row["event"] != "end" for row in rows)
    return Metered(math.fsum(expected_kwh), duration_s, holes, is_unended)


def tell(world: World, verdict: dict[str, Any]) -> None:
    """For who runs the long one: how much happened."""
    boots = [boot for slot in world.slots for boot in slot.boots]
    said = {
        "plan": str(world.plan),
        "happened": len(world.done),
        "processes": len(boots),
        "killed": sum(boot.killed_s is not None for boot in boots),
        "collectors started": sum(replica.starts for replica in world.replicas),
        "records": verdict["records"],
        "notices": {notice["kind"]: notice["count"] for notice in verdict["notices"]},
        "totals": verdict["totals"],
        "most of a sidecar": {
            name: max(one[name] for one in world.footprints) for name in world.footprints[0]
        },
        "collectors": [footprint(replica.pid) for replica in world.replicas],
        "collectors before": [replica.before for replica in world.replicas],
    }
    sys.stdout.write(json.dumps(said, indent=1) + "\n")
