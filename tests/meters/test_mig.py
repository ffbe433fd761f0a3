import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.meters.mig import MigInstance, board_slices, energy_share, held_share, profile_slices


@pytest.mark.parametrize(
    ("profile", "slices"),
    [
        ("1g.5gb", 1),
        ("1g.10gb+me", 1),
        ("2g.20gb", 2),
        ("3g.40gb", 3),
        ("7g.80gb", 7),
        ("1c.3g.20gb", 3),
        ("4g.24gb", 4),
        ("0g.5gb", None),
        ("g.5gb", None),
        ("3g", None),
        ("999999999999g.5gb", None),
        ("", None),
    ],
)
def test_a_profile_tells_its_slices(profile: str, slices: int | None):
    assert profile_slices(profile) == slices


@pytest.mark.parametrize(
    ("model", "slices"),
    [
        ("NVIDIA A100-SXM4-80GB", 7),
        ("NVIDIA H100 NVL", 7),
        ("NVIDIA H200", 7),
        ("NVIDIA A30", 4),
        ("NVIDIA A300X", 7),
        ("NVIDIA RTX PRO 6000 Blackwell Server Edition", 4),
        ("unknown", 7),
    ],
)
def test_a_model_tells_the_slices_of_a_board(model: str, slices: int):
    assert board_slices(model) == slices


@pytest.mark.parametrize(("slices", "share"), [(1, 1 / 7), (2, 2 / 7), (3, 3 / 7), (7, 1.0)])
def test_an_instance_holds_its_slices_of_seven(slices: int, share: float):
    assert held_share([MigInstance(slices, 1.0)], 7) == pytest.approx(share)


def test_an_a30_has_four_slices():
    assert (
        held_share([MigInstance(1, 1.0), MigInstance(2, 0.0)], board_slices("NVIDIA A30")) == 0.25
    )


def test_idle_energy_goes_by_slices_and_the_rest_by_slices_times_activity():
    ours, other = MigInstance(1, 1.0, activity=0.5), MigInstance(3, 0.0, activity=0.75)
    work = 1 * 0.5 / (1 * 0.5 + 3 * 0.75)
    assert energy_share([ours, other], 7, 0.4) == pytest.approx(0.4 / 7 + 0.6 * work)


@pytest.mark.parametrize(
    ("activity", "idle_fraction"), [(None, 0.4), (0.0, 0.4), (0.5, None)], ids=str
)
def test_without_activity_or_idle_power_all_goes_by_slices(
    activity: float | None, idle_fraction: float | None
):
    instances = [MigInstance(2, 1.0, activity), MigInstance(3, 0.0, activity)]
    assert energy_share(instances, 7, idle_fraction) == pytest.approx(2 / 7)


INSTANCES = st.lists(
    st.tuples(
        st.integers(1, 7), st.lists(st.floats(0, 1), min_size=1, max_size=4), st.floats(0, 1)
    ),
    min_size=1,
    max_size=7,
)


@given(INSTANCES, st.sampled_from([4, 7]), st.floats(0, 1) | st.none(), st.booleans())
def test_the_shares_of_all_pods_sum_to_at_most_one(
    found: list[tuple[int, list[float], float]],
    board: int,
    idle_fraction: float | None,
    has_activity: bool,
):
    """Each instance is split among pods; even one that claims more slices than a board has."""
    pods = max(len(parts) for _, parts, _ in found)
    total = 0.0
    for pod in range(pods):
        instances = [
            MigInstance(
                slices,
                parts[pod] / max(1.0, sum(parts)) if pod < len(parts) else 0.0,
                activity if has_activity else None,
            )
            for slices, parts, activity in found
        ]
        share = energy_share(instances, board, idle_fraction)
        assert 0 <= share <= 1 + 1e-12
        total += share
    assert total <= 1 + 1e-9
