from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from sidecar.meters.dcgm_page import (
    ACTIVITY,
    DEVICES_MAX,
    ENERGY,
    HOLDERS_MAX,
    LINE_BYTES_MAX,
    POWER,
    UTILIZATION,
    PageError,
    parse_row,
    read_page,
)
from tests.fakes.dcgm import Gpu, page

PAGES = Path(__file__).parent.parent / "data" / "dcgm"
GOLDEN = sorted(PAGES.glob("*.prom"))
WANTED = (ENERGY, POWER, UTILIZATION, ACTIVITY)
LIMIT = 8 * 1024 * 1024


def read(content: bytes, piece_bytes: int = 65536):
    pieces = (content[at : at + piece_bytes] for at in range(0, len(content), piece_bytes))
    return read_page(pieces, LIMIT)


def parsed_by_prometheus(text: str) -> Iterator[tuple[str, dict[str, str], float]]:
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name in WANTED:
                yield sample.name, sample.labels, float(sample.value)


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_rows_are_read_as_the_official_parser_reads_them(path: Path):
    numbers = [line for line in path.read_text().splitlines() if "ERROR" not in line]
    rows = [row for line in numbers if (row := parse_row(line.encode()))]
    theirs = list(parsed_by_prometheus("\n".join(numbers) + "\n"))
    assert len(rows) == len(theirs) > 0
    for row, (name, labels, value) in zip(rows, theirs, strict=True):
        assert (row.metric, dict(row.labels)) == (name, labels)
        assert repr(float(row.value)) == repr(float(value))  # NaN is not itself


LABELS = st.dictionaries(
    # Names that begin with two underscores are Prometheus' own: their parser refuses them.
    st.from_regex(r"(?!__)[a-zA-Z_][a-zA-Z0-9_]{0,8}", fullmatch=True),
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\x85\u2028\u2029")),
    min_size=1,
    max_size=5,
)


def escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')


@given(st.sampled_from(WANTED), LABELS, st.floats(allow_nan=False) | st.integers(0, 2**63))
def test_any_labels_are_read_as_the_official_parser_reads_them(
    metric: str, labels: dict[str, str], value: float
):
    text = ",".join(f'{name}="{escaped(label)}"' for name, label in labels.items())
    line = f"{metric}{{{text}}} {value}"
    row = parse_row(line.encode())
    (theirs,) = parsed_by_prometheus(line + "\n")
    assert row is not None
    assert (row.metric, dict(row.labels), float(row.value)) == theirs


@given(st.binary() | st.text().map(lambda text: f'{ENERGY}{{UUID="GPU-1"{text}'.encode()))
def test_any_bytes_are_a_page(content: bytes):
    assert len(read(content, 7)) <= 1


@given(st.integers(1, 400))
def test_a_page_may_come_in_any_pieces(piece_bytes: int):
    content = (PAGES / "mig.prom").read_bytes()
    assert read(content, piece_bytes) == read(content)


def test_a_row_may_have_a_timestamp_and_end_like_on_windows():
    row = parse_row(f'{ENERGY}{{UUID="GPU-1",}} 5 1395066363000\r'.encode())
    assert row is not None
    assert (row.value, row.labels) == ("5", {"UUID": "GPU-1"})


@pytest.mark.parametrize(
    "line",
    [
        f"{ENERGY} 5",
        f'{ENERGY}{{UUID="GPU-1"}}',
        f'{ENERGY}{{UUID="GPU-1" 5',
        f'{ENERGY}{{UUID="GPU-1"x="2"}} 5',
        f"{ENERGY}{{UUID=GPU-1}} 5",
        f'{ENERGY}_TOTAL{{UUID="GPU-1"}} 5',
        f'# {ENERGY}{{UUID="GPU-1"}} 5',
    ],
)
def test_a_torn_or_foreign_row_is_none(line: str):
    assert parse_row(line.encode()) is None


def test_the_label_that_the_exporter_writes_last_counts():
    line = f'{ENERGY}{{UUID="GPU-1",pod="claimed-by-a-label",pod="train-0"}} 5'
    row = parse_row(line.encode())
    assert row is not None
    assert row.labels["pod"] == "train-0"


@pytest.mark.parametrize(
    ("metric", "value"),
    [
        (ENERGY, "NaN"),
        (ENERGY, "1e300"),
        (ENERGY, "-5"),
        (ENERGY, "9223372036854775794"),  # DCGM_INT64_BLANK and its kin
        (ENERGY, "Inf"),
        (ENERGY, "1_000"),
        (ENERGY, "0x10"),
        (ENERGY, "9" * 5000),
        (POWER, "140737488355328.000000"),  # DCGM_FP64_BLANK
        (POWER, "20001"),
        (UTILIZATION, "101"),
        (UTILIZATION, "-1"),
        (ACTIVITY, "100"),
    ],
)
def test_a_value_that_no_gpu_can_have_is_no_value(metric: str, value: str):
    assert read(f'{metric}{{UUID="GPU-1",GPU_I_PROFILE="1g.5gb"}} {value}\n'.encode()) == {}


def test_an_energy_beyond_the_precision_of_floats_is_exact():
    energy_mj = 2**60 + 1
    (device,) = read(f'{ENERGY}{{UUID="GPU-1"}} {energy_mj}\n'.encode()).values()
    assert device.energy_mj == energy_mj


def test_repeated_rows_are_one_device_with_the_largest_value():
    content = f'{ENERGY}{{UUID="GPU-1",pod="a"}} 7\n{ENERGY}{{UUID="GPU-1",pod="b"}} 9\n' * 2
    (device,) = read(content.encode()).values()
    assert device.energy_mj == 9
    assert sorted(holder.pod for holder in device.holders) == ["a", "b"]


def test_the_labels_of_the_old_namespace_are_known():
    content = (
        f'{POWER}{{uuid="GPU-1",pod_name="train-0",pod_namespace="team-a",'
        f'container_name="trainer"}} 60\n'
    )
    (device,) = read(content.encode()).values()
    assert [holder[:4] for holder in device.holders] == [("team-a", "train-0", "", "trainer")]


def test_a_uuid_that_is_none_is_no_device():
    for uuid in ("", "MIG-1", "GPU-", "GPU-" + "0" * 200, "GPU-\\n1"):
        assert read(f'{ENERGY}{{UUID="{uuid}"}} 5\n'.encode()) == {}


def test_an_unprintable_model_is_unknown():
    content = f'{ENERGY}{{UUID="GPU-1",modelName="A\\n100"}} 5\n'
    assert read(content.encode())["GPU-1"].model == "unknown"


def test_an_over_long_line_is_left_out_and_the_next_is_read():
    huge = f'{ENERGY}{{UUID="GPU-1",x="{"y" * 1_000_000}"}} 5\n'
    kept = f'{ENERGY}{{UUID="GPU-2"}} 6\n'
    assert len(huge) > LINE_BYTES_MAX
    assert list(read((huge + kept + huge + kept).encode(), 4096)) == ["GPU-2"]


def test_a_page_that_is_too_long_is_refused():
    with pytest.raises(PageError, match="longer than 8388608 bytes"):
        read_page(iter([b"#" * 65536] * 200), LIMIT)


def test_more_devices_than_a_node_has_are_bounded():
    gpus = [Gpu(f"GPU-{index}", {ENERGY: 5}) for index in range(DEVICES_MAX + 50)]
    assert len(read(page(*gpus))) == DEVICES_MAX


def test_more_holders_than_are_kept_make_a_device_crowded():
    pods = tuple(("team", f"pod-{index}", "c", str(index)) for index in range(HOLDERS_MAX + 1))
    (device,) = read(page(Gpu("GPU-1", {ENERGY: 5}, pods=pods))).values()
    assert device.crowded
    assert len(device.holders) == HOLDERS_MAX


def test_a_page_without_gpus_is_read():
    assert read(b"") == {}
    assert read(b"go_goroutines 12\n") == {}
