import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.meters.visible_devices import (
    GpuSelection,
    named_devices,
    parse_visible_devices,
    pod_visible_devices,
)

UUIDS = ["GPU-aaaa-1", "GPU-aabb-2", None, "GPU-cccc-4"]


def wanted(*selected: str) -> dict[str, bool]:
    slices = {"MIG-1": "GPU-cccc-4"}
    return GpuSelection(selected).wanted(UUIDS, slices.get)


@pytest.mark.parametrize(
    ("text", "selected"),
    [
        (None, None),
        ("all", None),
        ("", ()),
        ("-1", ()),
        ("none", ()),
        ("void", ()),
        ("NoDevFiles", ()),
        ("0", ("0",)),
        ("0, 1,1,", ("0", "1")),
        ("1,-1,2", ("1",)),
        ("GPU-8932f937,MIG-1", ("GPU-8932f937", "MIG-1")),
    ],
)
def test_the_variable_is_read_as_cuda_reads_it(text: str | None, selected: tuple[str] | None):
    assert parse_visible_devices(text) == selected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("0", {"GPU-aaaa-1": False}),
        ("3", {"GPU-cccc-4": False}),
        ("GPU-aabb-2", {"GPU-aabb-2": False}),
        ("GPU-c", {"GPU-cccc-4": False}),
        ("MIG-1", {"GPU-cccc-4": True}),
        ("MIG-GPU-aaaa-1/7/0", {"GPU-aaaa-1": True}),
        ("1:0", {"GPU-aabb-2": True}),
    ],
)
def test_a_name_finds_its_board(name: str, expected: dict[str, bool]):
    assert wanted(name) == expected


@pytest.mark.parametrize("name", ["2", "4", "GPU-aa", "GPU-", "GPU-x", "MIG-2", "PU-aaaa-1", "x"])
def test_a_name_that_finds_no_board_or_several_is_unresolved(name: str):
    selection = GpuSelection([name, "0"])
    assert selection.wanted(UUIDS, lambda _: None) == {"GPU-aaaa-1": False}
    assert selection.unresolved == (name,)


def test_two_slices_of_one_board_are_one_board():
    assert wanted("MIG-1", "3") == {"GPU-cccc-4": True}


def test_an_index_stays_with_its_board_when_indexes_shift():
    selection = GpuSelection(["1"])
    assert list(selection.wanted(["GPU-a", "GPU-b"], lambda _: None)) == ["GPU-b"]
    assert list(selection.wanted(["GPU-b"], lambda _: None)) == ["GPU-b"]


def test_all_means_all_that_can_be_read():
    assert list(GpuSelection(None).wanted(UUIDS, lambda _: None)) == [u for u in UUIDS if u]


@given(st.text())
def test_any_text_is_a_selection(text: str):
    selected = parse_visible_devices(text)
    if selected is not None:
        assert set(GpuSelection(selected).wanted(UUIDS, lambda _: None)) <= set(UUIDS)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        (None, ()),
        ("all", ()),
        ("void", ()),
        ("0,1", ()),
        ("GPU-1", ("GPU-1",)),
        (" GPU-1, MIG-2 ,GPU-1", ("GPU-1", "MIG-2")),
        ("MIG-GPU-1/7/0,all", ("MIG-GPU-1/7/0",)),
        ("GPU-1 GPU-2", ()),
        ("GPU-\n", ()),
    ],
)
def test_only_uuids_tell_whose_a_gpu_is(text: str | None, named: tuple[str, ...]):
    assert named_devices(text) == named


@given(st.text())
def test_any_text_names_printable_devices(text: str):
    assert all(name.isprintable() and "," not in name for name in named_devices(text))


def process(root: Path, pid: str, comm: str, **environment: str) -> None:
    (root / pid).mkdir(parents=True)
    (root / pid / "comm").write_text(comm + "\n")
    variables = [f"{name}={value}" for name, value in environment.items()]
    (root / pid / "environ").write_bytes("\0".join([*variables, ""]).encode())


def test_the_processes_of_the_pod_tell_its_devices(tmp_path: Path):
    process(tmp_path, "1", "pause")
    process(tmp_path, "20", "python", PATH="/bin", NVIDIA_VISIBLE_DEVICES="GPU-1,GPU-2")
    process(tmp_path, "21", "python", NVIDIA_VISIBLE_DEVICES="GPU-2,GPU-3", TOKEN="secret")
    process(tmp_path, "30", "sh", NVIDIA_VISIBLE_DEVICES="all")
    process(tmp_path, "99", "emissions-sidecar", NVIDIA_VISIBLE_DEVICES="GPU-own")
    (tmp_path / "22").mkdir()
    found = pod_visible_devices(tmp_path, own_pid=99)
    assert found is not None
    assert sorted(found.split(",")) == ["GPU-1", "GPU-2", "GPU-3"]


@pytest.mark.parametrize("first", ["systemd", "sh", "paused", ""])
def test_processes_that_may_be_of_others_are_not_asked(tmp_path: Path, first: str):
    process(tmp_path, "1", first)
    process(tmp_path, "20", "python", NVIDIA_VISIBLE_DEVICES="GPU-1")
    assert pod_visible_devices(tmp_path, own_pid=99) is None


def test_without_processes_nothing_is_known(tmp_path: Path):
    assert pod_visible_devices(tmp_path / "none", own_pid=1) is None
    process(tmp_path, "1", "pause")
    assert pod_visible_devices(tmp_path, own_pid=99) is None


def test_the_environment_of_a_real_process_is_read(tmp_path: Path):
    process(tmp_path, "1", "pause")
    child = subprocess.Popen(
        [sys.executable, "-c", "input()"],
        env={**os.environ, "NVIDIA_VISIBLE_DEVICES": "GPU-real"},
        stdin=subprocess.PIPE,
    )
    try:
        (tmp_path / str(child.pid)).symlink_to(f"/proc/{child.pid}")
        assert pod_visible_devices(tmp_path, own_pid=os.getpid()) == "GPU-real"
    finally:
        child.communicate(b"\n", timeout=30)
