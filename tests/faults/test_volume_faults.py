"""The volume fails while `run` ships: it fills up, cannot be written, is lost, is shared by many."""

import contextlib
import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from sidecar.collector.handover import open_receipts
from sidecar.segment import HANDED_OVER, decompressed
from sidecar.settings import Settings
from sidecar.transport.blob import BlobTransport
from sidecar.transport.blob_container import open_container
from tests.collector.running import RunningCollector
from tests.e2e.commands import Running
from tests.fakes.disk import SmallDisk, small_disk
from tests.fakes.fault_proxy import FaultProxy
from tests.fakes.kubernetes_api import FakeKubernetesApi
from tests.faults.scene import (
    KILLED,
    Pod,
    Store,
    ids,
    rows_on,
    segment_of,
    segments_on,
    sequences,
    sidecar_of,
    through_collector,
)

pytestmark = pytest.mark.needs("azurite")

WAIT_IN_MEMORY = "records wait in memory"


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    """A volume of 1 MiB."""
    with small_disk(tmp_path / "volume", "1m") as mounted:
        yield mounted


def end_well(running: Running, store: Store) -> None:
    """End it; all its windows have arrived, without a gap."""
    assert running.end().code == 0
    rows = store.rows
    assert sequences(rows) == list(range(len(rows)))
    store.verified()


@pytest.mark.needs("root")
def test_a_volume_that_fills_up_and_is_emptied_again_loses_nothing(
    store: Store, disk: SmallDisk, tmp_path: Path
):
    """Records arrive while it is full: straight from memory."""
    with sidecar_of(Pod(), disk.path, **store.shipping()) as running:
        store.grows_by(1, running)
        disk.fill()
        running.until(lambda: WAIT_IN_MEMORY in running.log)
        store.grows_by(2, running)
        disk.free()
        running.until(lambda: "can be written again" in running.log)
        store.grows_by(1, running)
        end_well(running, store)
    assert not segments_on(disk.path)


@pytest.mark.needs("root")
def test_a_full_volume_during_an_outage_loses_nothing(
    store: Store, proxy: FaultProxy, disk: SmallDisk
):
    """Nothing can go anywhere; once it can, on either side, all does."""
    with sidecar_of(Pod(), disk.path, **store.shipping(proxy)) as running:
        store.grows_by(1, running)
        proxy.refuse()
        running.until(lambda: segments_on(disk.path))
        disk.fill()
        running.until(lambda: WAIT_IN_MEMORY in running.log)
        kept = len(rows_on(disk.path))
        disk.free()
        running.until(lambda: len(rows_on(disk.path)) > kept + 2)
        proxy.pass_on()
        running.until(lambda: "records can be shipped again" in running.log)
        end_well(running, store)
    assert not segments_on(disk.path)


@pytest.mark.needs("root")
def test_from_a_volume_that_is_read_only_all_arrives_from_memory(store: Store, disk: SmallDisk):
    subprocess.run(["mount", "-o", "remount,ro", disk.path], check=True)
    with sidecar_of(Pod(), disk.path, **store.shipping()) as running:
        store.grows_by(3, running)
        assert "Read-only file system" in running.log
        end_well(running, store)


def test_a_volume_whose_files_are_removed_loses_nothing(store: Store, tmp_path: Path):
    """The segment being written is in memory too."""
    volume = tmp_path / "volume"
    with sidecar_of(Pod(), volume, "--flush-interval", "4s", **store.shipping()) as running:
        store.grows_by(1, running)
        running.until(lambda: rows_on(volume))
        segment = segments_on(volume)[0]
        shutil.rmtree(volume, ignore_errors=True)  # something new may be in it already
        assert not segment.exists()
        store.grows_by(1, running)
        end_well(running, store)
    assert not segments_on(volume)


@pytest.mark.needs("root")
def test_a_volume_that_is_unmounted_loses_nothing(store: Store, tmp_path: Path):
    """Below it is a directory, which is the volume from then on."""
    volume = tmp_path / "volume"
    flags = ("--flush-interval", "4s")
    with _mounted(volume), sidecar_of(Pod(), volume, *flags, **store.shipping()) as running:
        store.grows_by(1, running)
        running.until(lambda: rows_on(volume))
        subprocess.run(["umount", "--lazy", volume], check=True)
        assert not volume.is_mount()
        store.grows_by(1, running)
        end_well(running, store)
    assert not segments_on(volume)


@contextlib.contextmanager
def _mounted(path: Path) -> Iterator[None]:
    """A small disk that the test may unmount."""
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", path], check=True)
    try:
        yield
    finally:
        if path.is_mount():
            subprocess.run(["umount", "--lazy", path], check=True)


def test_no_file_of_a_volume_that_five_pods_share_is_written_by_two(store: Store, tmp_path: Path):
    volume = tmp_path / "volume"
    pods = [Pod(number, project=f"project-{number}") for number in range(5)]
    with contextlib.ExitStack() as stack:
        running = [stack.enter_context(sidecar_of(pod, volume, **store.shipping())) for pod in pods]
        for each in running:
            each.until(lambda: len(list(volume.glob("summary*.json"))) == len(pods))
        store.grows_by(10, running[0])
        for each in running:
            assert each.end().code == 0
    for name, content in store.blobs.items():
        stem = segment_of(name).stem
        lines = decompressed(content).splitlines()
        assert all(json.loads(line)["record_id"].startswith(f"{stem}.") for line in lines)
    summaries = [json.loads(path.read_text()) for path in volume.glob("summary*.json")]
    assert sorted(summary["pod_uid"] for summary in summaries) == [pod.uid for pod in pods]
    assert not segments_on(volume)
    verdict = store.verified()
    assert verdict["totals"]["pods"] == verdict["totals"]["boots"] == len(pods)


# -- a pod leaves segments, another finds them -------------------------------------------------------

GONE, HEIR = Pod(1), Pod(2)
"""Of one namespace and service account, one after the other on one volume."""


@pytest.fixture
def way(store: Store, api, tmp_path: Path) -> Iterator[FaultProxy]:
    """To a collector that gives receipts, before Azurite."""
    key = tmp_path / "key"
    key.write_bytes(b"k" * 32)
    connection = store.credential()["EMISSIONS_BLOB_CONNECTION_STRING"]
    settings = Settings(blob_container=store.container, blob_connection_string=connection)
    backend = BlobTransport(open_container(settings, {}))
    collector = RunningCollector(
        api, tmp_path, tmp_path, backend=backend, receipts=open_receipts(key)
    )
    collector.start()
    with FaultProxy("127.0.0.1", collector.service.port or 0) as proxy:
        yield proxy
    collector.stop()


def die_with_records(way: FaultProxy, api, store: Store, volume: Path) -> set[str]:
    """Ship, lose the way, and be killed; returns the ids of the records that are left."""
    env = through_collector(way.url, GONE.token(api), volume.parent)
    with sidecar_of(GONE, volume, **env) as running:
        store.grows_by(1, running)
        running.until(lambda: has_receipt(volume))
        way.refuse()
        running.until(lambda: len(ids(rows_on(volume)) - ids(store.rows)) >= 3)
        running.process.kill()
        running.process.wait()
    way.pass_on()
    return ids(rows_on(volume))


def has_receipt(volume: Path) -> bool:
    """Whether a process has kept beside its segments what proves that they are its pod's."""
    owners = [path.read_text() for path in (volume / "records").glob(".*.owner")]
    return any('"receipt": "' in text for text in owners)


def live_after(way: FaultProxy, api, volume: Path) -> Running:
    env = through_collector(way.url, HEIR.token(api), volume.parent)
    return sidecar_of(HEIR, volume, **env)


def test_a_pod_hands_over_what_a_pod_that_is_gone_left_on_their_volume(
    way: FaultProxy, api: FakeKubernetesApi, store: Store, tmp_path: Path
):
    volume = tmp_path / "volume"
    left = die_with_records(way, api, store, volume)
    with live_after(way, api, volume) as running:
        running.until(lambda: left <= ids(store.rows))
        assert running.end().code == 0
    assert not segments_on(volume)
    handed_over = {segment_of(name).owner for name in store.names if HANDED_OVER in name}
    assert handed_over == {GONE.uid}
    store.verified(KILLED)


def test_what_a_pod_left_that_is_still_there_waits_until_it_is_gone(
    way: FaultProxy, api: FakeKubernetesApi, store: Store, tmp_path: Path
):
    volume = tmp_path / "volume"
    left = die_with_records(way, api, store, volume)
    api.add_pod(GONE.namespace, GONE.name, GONE.uid)
    with live_after(way, api, volume) as running:
        running.until(lambda: "runs still" in running.log)
        assert running.end().code == 0
    assert ids(rows_on(volume)) == left
    assert not [name for name in store.names if HANDED_OVER in name]
    store.verified(KILLED)
    api.add_pod(GONE.namespace, GONE.name, GONE.uid, phase="Succeeded")
    with live_after(way, api, volume) as running:
        running.until(lambda: left <= ids(store.rows))
        assert running.end().code == 0
    assert not segments_on(volume)
    store.verified(KILLED)
