import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.meters.visible_devices import GpuSelection, parse_visible_devices

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
