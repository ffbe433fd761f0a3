"""Whichever way records take to Blob: `report` and `verify` say there what they say of the volumes."""

import contextlib
import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.collector.running import CollectorProcess
from tests.e2e.commands import Running
from tests.fakes.fault_proxy import FaultProxy
from tests.faults.scene import (
    Pod,
    Row,
    Store,
    answer,
    checked,
    rows_on,
    segments_on,
    sidecar_of,
    through_collector,
)

pytestmark = pytest.mark.needs("azurite")

PODS = (Pod(1, project="speech"), Pod(2, project="vision"))
AMOUNTS = ("duration_s", "energy_kwh", "facility_energy_kwh", "emissions_g")


@pytest.fixture(params=["straight", "through the collector"])
def env_of(request, store: Store, proxy: FaultProxy, api, tmp_path: Path) -> Iterator:
    """How a pod ships, by way of the proxy: it is the last stretch before Azurite."""
    if request.param == "straight":
        yield lambda pod: store.shipping(proxy)
        return
    with CollectorProcess(api, tmp_path, **store.credential(proxy)) as collector:
        url = collector.url()
        collector.said("ready: ")
        yield lambda pod: through_collector(url, pod.token(api), tmp_path)


def test_two_pods_have_the_same_totals_in_blob_as_on_their_volumes(
    env_of, store: Store, proxy: FaultProxy, tmp_path: Path
):
    """The far side is out of reach until all is on the volumes, so that there is a copy to compare."""
    volumes, copy = tmp_path / "volumes", tmp_path / "copy"
    volumes.mkdir()
    proxy.status(503, {"Retry-After": "1"})
    with contextlib.ExitStack() as stack:
        running = {
            pod: stack.enter_context(sidecar_of(pod, volumes / pod.name, **env_of(pod)))
            for pod in PODS
        }
        for pod, each in running.items():
            each.until(lambda pod=pod: len(rows_on(volumes / pod.name)) >= 4)
            each.process.terminate()
        for pod, each in running.items():
            all_is_on_volume(each, volumes / pod.name)
        shutil.copytree(volumes, copy)
        proxy.pass_on()
        for each in running.values():
            assert each.end(None).code == 0
    summaries = [json.loads((volumes / pod.name / "summary.json").read_text()) for pod in PODS]
    assert not any(segments_on(volumes / pod.name) for pod in PODS)
    same_totals(store.verified(), checked(answer("verify", copy), ()), summaries)
    same_report(store.read("report"), answer("report", copy), summaries)


def all_is_on_volume(running: Running, volume: Path) -> None:
    """Wait until the last record is there, in a closed segment."""

    def is_there() -> bool:
        has_end = any(row["event"] == "end" for row in rows_on(volume))
        return has_end and all(path.suffix == ".gz" for path in segments_on(volume))

    running.until(is_there)


def same_totals(in_blob: Row, on_volume: Row, summaries: list[Row]) -> None:
    assert in_blob["records"] == on_volume["records"]
    assert in_blob["totals"] == on_volume["totals"]
    for column in AMOUNTS:
        told = math.fsum(summary[column] for summary in summaries)
        assert in_blob["totals"][column] == pytest.approx(told, rel=1e-9)


def same_report(in_blob: Row, on_volume: Row, summaries: list[Row]) -> None:
    assert in_blob["records"] == on_volume["records"]
    assert in_blob["projects"] == on_volume["projects"]
    of_project = {row["project"]: row for row in in_blob["projects"]}
    assert sorted(of_project) == sorted(pod.project for pod in PODS)
    for summary in summaries:
        for column in AMOUNTS:
            found = of_project[summary["project"]][column]
            assert found == pytest.approx(summary[column], rel=1e-9)
