from hypothesis import given
from hypothesis import strategies as st

from sidecar.meters.node_history import KEPT_S, NodeHistory
from sidecar.meters.reading import CpuReading, RaplReading


def rapl(energy_uj: int, *domains: str) -> RaplReading:
    return RaplReading(energy_uj, domains or ("package-0",))


def history(*looks: tuple[float, float]) -> NodeHistory:
    """One of a node with four CPUs."""
    kept = NodeHistory()
    for moment_s, busy_s in looks:
        kept.add(moment_s, CpuReading(busy_s, 4 * moment_s, 4), rapl(round(1000 * busy_s)))
    return kept


def busy_s(kept: NodeHistory, moment_s: float) -> float | None:
    found = kept.at(moment_s)
    return None if found is None else found.cpu.busy_s


def test_between_two_looks_counters_rise_evenly_and_outside_they_are_not_known() -> None:
    kept = history((10, 100), (20, 110), (30, 150))
    told = [busy_s(kept, moment_s) for moment_s in (9, 10, 15, 20, 25, 30, 31)]
    assert told == [None, 100, 105, 110, 130, 150, None]
    found = kept.at(25)
    assert found is not None
    assert (found.cpu.total_s, found.cpu.cpus, found.rapl) == (100, 4, rapl(130_000))


def test_a_look_that_saw_nothing_is_passed_over() -> None:
    kept = history((10, 100))
    kept.add(15, None, None)
    kept.add(20, CpuReading(120, 80, 4), None)
    assert busy_s(kept, 15) == 110


def test_packages_that_change_have_no_energy_between() -> None:
    kept = NodeHistory()
    kept.add(10, CpuReading(1, 1, 1), rapl(5))
    kept.add(20, CpuReading(2, 2, 1), rapl(9, "package-0", "package-1"))
    found = kept.at(15)
    assert found is not None
    assert found.rapl is None


def test_a_look_of_the_same_moment_or_an_earlier_one_is_not_taken() -> None:
    assert busy_s(history((10, 100), (20, 200), (20, 300), (5, 900)), 20) == 200


def test_looks_are_due_when_the_last_is_a_while_ago() -> None:
    kept = history((10, 100))
    assert (NodeHistory().is_due(0), kept.is_due(14.9), kept.is_due(15)) == (True, False, True)


@given(st.lists(st.floats(0.1, 30), min_size=1, max_size=300))
def test_it_is_bounded_and_reaches_back_as_far_as_any_source_lags(gaps_s: list[float]) -> None:
    kept, now_s = NodeHistory(), 0.0
    for gap_s in gaps_s:
        now_s += gap_s
        kept.add(now_s, CpuReading(now_s, now_s, 1), None)
    oldest_s = kept._looks[0].moment_s
    assert oldest_s <= max(gaps_s[0], now_s - KEPT_S)
    assert len(kept._looks) == 1 or kept._looks[1].moment_s > now_s - KEPT_S
