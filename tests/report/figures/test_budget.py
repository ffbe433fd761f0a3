"""Budgets: what is read as one, what is used, and where it leads."""

from datetime import UTC, date, datetime, timedelta

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from sidecar.identity.downward import valid_annotations
from sidecar.report.figures.budget import Budget, budget_row, parse_budgets
from sidecar.report.figures.daily import AsOf, Daily
from tests.report.figures.rows import day


@pytest.mark.parametrize(
    ("text", "limit", "measure"),
    [
        ("250kg", 250_000.0, "emissions_g"),
        ("250 kg CO2e", 250_000.0, "emissions_g"),
        ("1.5t", 1_500_000.0, "emissions_g"),
        (" 1.5 T CO2e / month ", 1_500_000.0, "emissions_g"),
        ("900 g", 900.0, "emissions_g"),
        ("250", 250_000.0, "emissions_g"),
        ("20 kWh", 20.0, "energy_kwh"),
        ("500Wh", 0.5, "energy_kwh"),
        ("2 MWh per month", 2000.0, "energy_kwh"),
    ],
)
def test_a_budget_is_read(text, limit, measure):
    budget = Budget.parse(text)
    assert (budget.limit, budget.measure) == (limit, measure)


@pytest.mark.parametrize(
    "text",
    [
        *("", "kg", "-5 kg", "0 kg", "1,5 t", "1e9 kg", "5 lb", "5 Mt", "nan kg", "inf", "٣ kg"),
        *("9" * 15 + " t", "5 kg" + " " * 70, "=cmd()", "5 kg; 6 kg"),
    ],
)
def test_what_is_no_budget_is_refused_with_what_to_write(text):
    with pytest.raises(ValueError, match="is no budget"):
        Budget.parse(text)


@pytest.mark.parametrize("text", ["5 kg", "0.5kWh", "1.25 t", "7 MWh", "12 g"])
def test_every_annotation_that_pods_may_carry_is_read(text):
    valid, _ = valid_annotations({"emissions/budget": text})
    assert Budget.parse(valid["budget"]).limit > 0


def test_a_setting_names_its_project_before_the_last_sign():
    assert parse_budgets(["a=b=5kg"]) == {"a=b": Budget(5000.0)}


@pytest.mark.parametrize("text", ["5kg", "=5kg"])
def test_a_setting_without_a_project_is_refused(text):
    with pytest.raises(ValueError, match="names no project"):
        parse_budgets([text])


def test_two_budgets_of_one_project_are_refused():
    with pytest.raises(ValueError, match="two budgets"):
        parse_budgets(["a=1kg", "a=2kg"])


# 11 full days of November are over at noon of the 12th; 18.5 days are left.
NOON = AsOf(datetime(2026, 11, 12, 12, tzinfo=UTC))
HUNDRED_A_DAY = Daily.of(
    [day("2026-10-31", 7e6)] + [day(f"2026-11-{number:02}", 100.0) for number in range(1, 12)]
)


def test_used_left_and_forecast_by_hand():
    row = budget_row(Budget(4000.0), HUNDRED_A_DAY, NOON)
    assert (row["used_g"], row["left_g"], row["used_share"]) == (1100.0, 2900.0, 0.275)
    assert row["burn_rate_g_per_day"] == 100.0
    assert row["forecast_g"] == 1100.0 + 18.5 * 100.0
    assert row["allowed_rate_g_per_day"] == pytest.approx(2900.0 / 18.5)
    assert (row["status"], row["exhausted_on"]) == ("within", None)


def test_the_bounds_are_those_of_the_least_and_the_most_day():
    days = [day("2026-11-09", 0.0), day("2026-11-10", 50.0), day("2026-11-11", 250.0)]
    row = budget_row(Budget(9e9), Daily.of(days), NOON)
    assert row["forecast_low_g"] == 300.0
    assert row["forecast_g"] == 300.0 + 18.5 * 100.0
    assert row["forecast_high_g"] == 300.0 + 18.5 * 250.0


def test_days_before_the_project_began_are_not_quiet_days():
    row = budget_row(Budget(9e9), Daily.of([day("2026-11-11", 100.0)]), NOON)
    assert (row["forecast_days"], row["burn_rate_g_per_day"]) == (1, 100.0)


def test_a_forecast_beyond_the_budget_is_a_risk_with_a_day():
    row = budget_row(Budget(1500.0), HUNDRED_A_DAY, NOON)
    # 400 g left at 100 g a day: 4 days from noon of the 12th
    assert (row["status"], row["exhausted_on"]) == ("at risk", "2026-11-16")


def test_a_budget_that_is_used_up_is_exceeded():
    row = budget_row(Budget(1000.0), HUNDRED_A_DAY, NOON)
    assert (row["status"], row["left_g"]) == ("exceeded", -100.0)


@pytest.mark.parametrize(("limit", "on"), [(1000.0, "10"), (999.0, "10"), (50.0, "01")])
def test_the_day_that_used_a_budget_up_is_told_and_not_today(limit, on):
    row = budget_row(Budget(limit), HUNDRED_A_DAY, NOON)
    assert row["exhausted_on"] == f"2026-11-{on}"


def test_a_budget_of_which_nothing_is_left_was_used_up_by_its_last_day():
    row = budget_row(Budget(1100.0), HUNDRED_A_DAY, NOON)
    assert (row["status"], row["exhausted_on"]) == ("at risk", "2026-11-11")


def test_a_budget_of_energy_is_in_kwh():
    row = budget_row(Budget(50.0, "energy_kwh"), HUNDRED_A_DAY, NOON)
    assert row["used_kwh"] == pytest.approx(11.0)
    assert row["forecast_kwh"] == pytest.approx(11.0 + 18.5)
    assert "used_g" not in row


def test_on_the_first_day_the_rate_is_that_of_the_day_so_far():
    as_of = AsOf(datetime(2026, 11, 1, 12, tzinfo=UTC))
    row = budget_row(Budget(1e6), Daily.of([day("2026-11-01", 50.0)]), as_of)
    assert row["forecast_g"] == 50.0 + 100.0 * 29.5
    assert (row["forecast_low_g"], row["forecast_high_g"]) == (50.0, None)


def test_from_the_first_minutes_of_a_month_nothing_follows():
    as_of = AsOf(datetime(2026, 11, 1, 0, 5, tzinfo=UTC))
    row = budget_row(Budget(1e6), Daily.of([day("2026-11-01", 50.0)]), as_of)
    assert (row["forecast_g"], row["status"]) == (None, "within")


def test_a_project_without_records_yet_is_unknown():
    row = budget_row(Budget(1e6), Daily({}), NOON)
    assert (row["status"], row["used_g"], row["forecast_g"]) == ("unknown", None, None)


def test_a_month_without_records_of_a_known_project_used_nothing():
    row = budget_row(Budget(1e6), Daily.of([day("2026-10-05", 50.0)]), NOON)
    assert (row["used_g"], row["forecast_g"], row["status"]) == (0.0, 0.0, "within")


def test_at_midnight_the_month_that_ends_is_whole():
    as_of = AsOf(datetime(2026, 12, 1, tzinfo=UTC))
    days = [day(f"2026-11-{number:02}", 10.0) for number in range(1, 31)]
    row = budget_row(Budget(1e6), Daily.of([*days, day("2026-12-01", 5e5)]), as_of)
    assert (row["month"], row["used_g"], row["forecast_g"]) == ("2026-11", 300.0, 300.0)


def test_a_selection_that_begins_within_the_month_is_not_whole():
    as_of = AsOf(NOON.moment, date(2026, 11, 5))
    assert budget_row(Budget(1e6), HUNDRED_A_DAY, as_of)["is_whole"] is False


FIRST, LAST = datetime.fromisoformat("2026-01-01"), datetime.fromisoformat("2026-12-31")


@given(
    st.dictionaries(st.integers(1, 31), st.floats(0, 1e9), min_size=1),
    st.datetimes(FIRST, LAST, timezones=st.just(UTC)),
)
def test_a_forecast_is_at_least_what_is_used_and_within_its_bounds(amounts, moment):
    as_of = AsOf(moment)
    days = [
        day((as_of.month + timedelta(days=number - 1)).isoformat(), grams)
        for number, grams in amounts.items()
        if number <= as_of.days_begun
    ]
    assume(days)
    row = budget_row(Budget(1e6), Daily.of(days), as_of)
    if row["forecast_g"] is not None:
        assert row["forecast_g"] >= row["used_g"] * (1 - 1e-12)
        assert row["forecast_low_g"] <= row["forecast_g"] * (1 + 1e-12)
        assert row["forecast_high_g"] is None or row["forecast_g"] <= row["forecast_high_g"]
    assert 0 <= as_of.days_left <= as_of.days_in_month


@given(st.text(max_size=80))
def test_no_text_does_more_than_be_refused(text):
    try:
        budget = Budget.parse(text)
    except ValueError as error:
        assert str(error).isascii()
    else:
        assert 0 < budget.limit <= 1e15
