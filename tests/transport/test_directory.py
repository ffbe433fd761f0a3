"""The directory transport, on real files and small disks."""

import errno
import os
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.transport.delivery import Undelivered
from sidecar.transport.directory import INCOMING, DirectoryTransport
from tests.fakes.disk import small_disk
from tests.transport.conftest import IN_TIME_S, otherwise_compressed, parcel


@pytest.fixture
def root(tmp_path):
    path = tmp_path / "share"
    path.mkdir()
    return path


@pytest.fixture
def transport(root):
    return DirectoryTransport(root)


@pytest.fixture
def without_hard_links(monkeypatch):
    """As on SMB: no file system of this kind can be mounted here, so the call is what fails."""

    def unsupported(*args, **options):
        raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))

    monkeypatch.setattr(os, "link", unsupported)


def undelivered(transport, segment=None) -> Undelivered:
    with pytest.raises(Undelivered) as raised:
        transport.deliver(segment or parcel(), IN_TIME_S)
    assert "\n" not in str(raised.value)
    return raised.value


def files(root: Path) -> dict[str, bytes]:
    """All that is there, hidden files too."""
    paths = (path for path in root.rglob("*") if path.is_file())
    return {str(path.relative_to(root)): path.read_bytes() for path in paths}


def test_a_segment_becomes_a_file_under_its_name_and_nothing_else(transport, root):
    segment = parcel()
    assert transport.deliver(segment, IN_TIME_S) == "created"
    assert files(root) == {segment.blob_name: segment.content}


def test_without_hard_links_too(transport, root, without_hard_links):
    segment = parcel()
    assert transport.deliver(segment, IN_TIME_S) == "created"
    assert transport.deliver(segment, IN_TIME_S) == "existing"
    assert files(root) == {segment.blob_name: segment.content}


def test_without_hard_links_a_name_that_appears_meanwhile_is_not_written_over(
    transport, root, monkeypatch
):
    segment, other = parcel(energy_kwh=1), parcel(energy_kwh=2)

    def unsupported_and_late(source, target, **options):
        Path(target).write_bytes(other.content)
        raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))

    monkeypatch.setattr(os, "link", unsupported_and_late)
    assert undelivered(transport, segment).refused
    assert files(root) == {segment.blob_name: other.content}


def test_the_same_segment_again_is_there_already(transport):
    transport.deliver(parcel(), IN_TIME_S)
    assert transport.deliver(parcel(), IN_TIME_S) == "existing"


def test_the_same_records_in_other_bytes_are_there_already(transport, root):
    segment = parcel()
    transport.deliver(segment, IN_TIME_S)
    assert transport.deliver(otherwise_compressed(segment), IN_TIME_S) == "existing"
    assert files(root) == {segment.blob_name: segment.content}


def test_other_content_under_the_name_is_refused_and_kept(transport, root):
    first = parcel(energy_kwh=1)
    transport.deliver(first, IN_TIME_S)
    refusal = undelivered(transport, parcel(energy_kwh=2))
    assert refusal.refused
    assert "holds other content" in str(refusal)
    assert files(root) == {first.blob_name: first.content}


@pytest.mark.parametrize("kept_bytes", [0, 1, 30, -1])
def test_a_beginning_of_the_same_segment_is_made_whole(transport, root, kept_bytes):
    segment = parcel()
    path = root / segment.blob_name
    path.parent.mkdir(parents=True)
    path.write_bytes(segment.content[:kept_bytes])
    assert transport.deliver(segment, IN_TIME_S) == "created"
    assert files(root) == {segment.blob_name: segment.content}


def test_a_file_damaged_otherwise_is_refused_and_kept(transport, root):
    segment = parcel()
    path = root / segment.blob_name
    path.parent.mkdir(parents=True)
    path.write_bytes(b"\0" * 40)
    assert undelivered(transport, segment).refused
    assert path.read_bytes() == b"\0" * 40


def test_of_eight_that_deliver_the_same_at_once_one_creates(transport, root):
    segment = parcel()
    with ThreadPoolExecutor(8) as threads:
        deliveries = threads.map(lambda _: transport.deliver(segment, IN_TIME_S), range(8))
        assert sorted(deliveries) == ["created"] + ["existing"] * 7
    assert files(root) == {segment.blob_name: segment.content}


@pytest.mark.parametrize("project", ["../../etc", "😀" * 200, "..", ".incoming", "a/b", "\udcff"])
def test_no_name_of_a_project_leads_out_of_its_directory(transport, root, project):
    segment = parcel(project=project)
    transport.deliver(segment, IN_TIME_S)
    assert list(files(root)) == [segment.blob_name]
    assert transport.exists(segment.blob_name)


@pytest.mark.parametrize(
    "name", ["../x", "a/../../x", "/etc/x", "a//x", "", "a\0b", ".incoming/x", "a/.", "\ud800"]
)
def test_a_name_that_leads_elsewhere_is_refused_for_good(transport, root, name):
    assert undelivered(transport, replace(parcel(), blob_name=name)).refused
    assert list(root.parent.rglob("x")) == []
    assert files(root) == {}


@given(name=st.text(st.sampled_from("a./\\\0~%é"), max_size=12))
def test_no_name_at_all_is_taken_for_one_outside(tmp_path_factory, name):
    root = tmp_path_factory.mktemp("any") / "share"
    root.mkdir()
    try:
        DirectoryTransport(root).deliver(replace(parcel(), blob_name=name), IN_TIME_S)
    except Undelivered as refusal:
        assert refusal.refused
    assert files(root.parent).keys() <= {f"share/{name}"}


def test_a_name_too_long_for_the_file_system_is_refused(transport):
    assert undelivered(transport, replace(parcel(), blob_name="a" * 300)).refused


def test_a_missing_root_is_told_and_not_made(root):
    root.rmdir()
    failure = undelivered(DirectoryTransport(root))
    assert not failure.refused
    assert str(failure) == f"{root}: No such file or directory; mount it, or create it"
    assert not root.exists()


def test_a_file_in_the_way_is_told(transport, root):
    (root / "records").write_text("in the way")
    failure = undelivered(transport)
    assert not failure.refused
    assert "Not a directory; one of its parts is a file" in str(failure)


@pytest.mark.parametrize("kind", ["link", "pipe", "directory"])
def test_what_is_no_file_under_the_name_is_neither_followed_nor_waited_for(transport, root, kind):
    segment = parcel()
    path = root / segment.blob_name
    path.parent.mkdir(parents=True)
    elsewhere = root.parent / "elsewhere"
    elsewhere.write_bytes(segment.content)
    {
        "link": lambda: path.symlink_to(elsewhere),
        "pipe": lambda: os.mkfifo(path),
        "directory": path.mkdir,
    }[kind]()
    failure = undelivered(transport, segment)
    assert not failure.refused
    assert str(path) in str(failure)
    assert "remove" in str(failure)


@pytest.mark.needs("root")
def test_a_full_disk_leaves_nothing_and_is_filled_when_there_is_room(tmp_path):
    with small_disk(tmp_path / "disk") as disk:
        transport = DirectoryTransport(disk.path)
        transport.deliver(parcel(1), IN_TIME_S)
        disk.fill()
        failure = undelivered(transport, parcel(2))
        assert not failure.refused
        assert "No space left on device; make room" in str(failure)
        assert transport.deliver(parcel(1), IN_TIME_S) == "existing"
        disk.free()
        assert files(disk.path).keys() == {parcel(1).blob_name}
        assert transport.deliver(parcel(2), IN_TIME_S) == "created"


@pytest.mark.needs("root")
def test_a_read_only_disk_is_told(tmp_path):
    with small_disk(tmp_path / "disk") as disk:
        subprocess.run(["mount", "-o", "remount,ro", disk.path], check=True)
        transport = DirectoryTransport(disk.path)
        failure = undelivered(transport)
        assert not failure.refused
        assert "Read-only file system; mount it writable" in str(failure)
        with pytest.raises(Undelivered, match="Read-only file system"):
            transport.check()


def test_what_a_killed_process_left_is_removed_later(transport, root):
    transport.deliver(parcel(1), IN_TIME_S)
    old, young = root / INCOMING / "old.tmp", root / INCOMING / "young.tmp"
    for path in (old, young):
        path.write_bytes(b"half")
    now_s = young.stat().st_mtime
    os.utime(old, (now_s - 3601, now_s - 3601))
    os.utime(young, (now_s - 3500, now_s - 3500))
    transport.deliver(parcel(2), IN_TIME_S)
    assert not old.exists()
    assert young.exists()


KILLED = """
import os, sys
from pathlib import Path
from sidecar.transport import directory
directory._give_name = lambda aside, path: os.kill(os.getpid(), 9)
from tests.transport.conftest import parcel
directory.DirectoryTransport(Path(sys.argv[1])).deliver(parcel(), 1)
"""


def test_killed_before_the_name_is_given_there_is_no_file_of_that_name(transport, root):
    here = Path(__file__).parents[2]
    run = subprocess.run([sys.executable, "-c", KILLED, root], cwd=here)
    assert run.returncode == -9
    assert list(files(root)) != []
    assert not transport.exists(parcel().blob_name)
    assert transport.deliver(parcel(), IN_TIME_S) == "created"


def test_directories_are_as_open_as_the_root(root):
    root.chmod(0o2775)
    DirectoryTransport(root).deliver(parcel(), IN_TIME_S)
    made = [path for path in root.rglob("*") if path.is_dir()]
    assert made
    assert {stat.S_IMODE(path.stat().st_mode) for path in made} == {0o2775}


def test_exists_tells_what_is_there(transport):
    assert not transport.exists(parcel().blob_name)
    transport.deliver(parcel(), IN_TIME_S)
    assert transport.exists(parcel().blob_name)


def test_exists_without_the_root_is_no_answer(root):
    root.rmdir()
    with pytest.raises(Undelivered, match="mount it, or create it"):
        DirectoryTransport(root).exists(parcel().blob_name)


def test_check_leaves_no_file(transport, root):
    transport.check()
    assert files(root) == {}


def test_the_destination_is_the_directory(transport, root):
    assert transport.destination == str(root)
    assert transport.receipt(IN_TIME_S) is None
    transport.close()
