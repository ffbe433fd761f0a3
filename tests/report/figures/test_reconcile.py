"""Azure's own figures beside ours."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.report.figures.daily import Daily
from sidecar.report.figures.inputs import SubscriptionMonth
from sidecar.report.figures.reconcile import (
    AzureMonth,
    ExportUnreadable,
    parse_export,
    read_export,
    reconciliation,
)
from sidecar.report.selection import Selection
from tests.report.figures.rows import day

ONE = "11111111-2222-3333-4444-555555555555"
TWO = "22222222-2222-3333-4444-555555555555"

OF_THE_API = f"""dataType,date,itemName,categoryType,latestMonthEmissions,subscriptionId
ItemDetailsData,2026-10-01,vm1,Resource,1.5,{ONE}
ItemDetailsData,2026-10-01,vm2,Resource,2.5,{ONE.upper()}
ItemDetailsData,2026-10-01,vm3,Resource,8.0,{TWO}
"""


def test_rows_of_the_api_add_up_by_subscription_and_month():
    assert parse_export(OF_THE_API).months == (
        AzureMonth(ONE, "2026-10", (), 4.0),
        AzureMonth(TWO, "2026-10", (), 8.0),
    )


def test_a_table_for_people_is_read_too():
    text = (
        "\ufeffSubscription;Month;Scope;Emissions (MTCO2e)\r\n"
        f'"My lab ({ONE})";2026-10;Scope 2;0.5\r\n'
    )
    assert parse_export(text.removeprefix("\ufeff")).months == (
        AzureMonth(ONE, "2026-10", (2,), 500.0),
    )


def test_a_report_by_subscription_names_it_as_its_item():
    text = f"date,categoryType,itemName,latestMonthEmissions\n2026-10-01,Subscription,{ONE},3\n"
    assert parse_export(text).months == (AzureMonth(ONE, "2026-10", (), 3.0),)


def test_a_file_without_months_takes_the_month_that_is_said():
    assert parse_export("Total emissions\n3\n", "2026-10").months == (
        AzureMonth(None, "2026-10", (), 3.0),
    )


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "no column of emissions"),
        ("a,b\n1,2\n", "no column of emissions"),
        ("latestMonthEmissions\n3\n", "no column of months"),
        ("date,latestMonthEmissions\n", "holds no row"),
        (
            "date,categoryType,latestMonthEmissions\n2026-10-01,Resource,1\n2026-10-01,Location,1\n",
            "several reports",
        ),
        ("date,latestMonthEmissions\n2026-10-01," + "9" * 200_000 + "\n", "no CSV"),
    ],
)
def test_what_is_no_export_is_refused_with_what_to_do(text, why):
    with pytest.raises(ExportUnreadable, match=why):
        parse_export(text)


@pytest.mark.parametrize("amount", ["-1", "nan", "inf", "1e300", "", "=cmd()", "1,5"])
def test_an_amount_that_cannot_be_is_left_out_and_counted(amount):
    text = f'date,latestMonthEmissions\n2026-10-01,2\n2026-10-01,"{amount}"\n'
    export = parse_export(text)
    assert export.months == (AzureMonth(None, "2026-10", (), 2.0),)
    assert export.left_out == {"no amount of emissions": 1}


def test_a_row_without_a_month_is_left_out_and_counted():
    text = "date,latestMonthEmissions\n2026-10-01,2\nsoon,3\n\n"
    assert parse_export(text).left_out == {"no month": 1}


def test_a_file_is_read(tmp_path):
    path = tmp_path / "export.csv"
    path.write_bytes(b"\xef\xbb\xbf" + OF_THE_API.encode())
    assert read_export(path) == parse_export(OF_THE_API)


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"\x00" * 10])
def test_a_file_that_is_no_text_is_named(tmp_path, content):
    path = tmp_path / "export.csv"
    path.write_bytes(content)
    with pytest.raises(ExportUnreadable, match=r"export\.csv"):
        read_export(path)


def test_a_file_that_is_missing_or_endless_is_refused(tmp_path):
    with pytest.raises(ExportUnreadable, match="cannot be read"):
        read_export(tmp_path / "none.csv")
    with pytest.raises(ExportUnreadable, match="cannot be read: not a regular file"):
        read_export(tmp_path)
    huge = tmp_path / "huge.csv"
    with huge.open("wb") as stream:
        stream.truncate(2**30)  # sparse
    with pytest.raises(ExportUnreadable, match="longer than"):
        read_export(huge)


OURS = [
    SubscriptionMonth(ONE.upper(), "2026-10", 1500.0, 500.0),
    SubscriptionMonth(ONE, "2026-09", 7.0, 7.0),
]
NO_DAYS = Daily({})


def test_the_factor_is_azures_by_ours_and_is_not_applied():
    result = reconciliation(parse_export(OF_THE_API), OURS, NO_DAYS)
    first = result["rows"][0]
    assert (first["azure_kg"], first["ours_kg"], first["factor"]) == (4.0, 2.0, 2.0)
    assert first["subscription"] == "11111111"
    assert result["is_applied"] is False
    assert result["differs"]


def test_a_subscription_we_know_nothing_of_has_no_factor():
    second = reconciliation(parse_export(OF_THE_API), OURS, NO_DAYS)["rows"][1]
    assert (second["ours_kg"], second["factor"]) == (None, None)


@pytest.mark.parametrize(
    ("scope", "ours_kg"), [("Scope1", None), ("Scope 2", 1.5), ("scope3", 0.5), ("", 2.0)]
)
def test_a_scope_is_compared_with_what_it_covers(scope, ours_kg):
    text = f"date,subscriptionId,scope,emissions\n2026-10-01,{ONE},{scope},3\n"
    (row,) = reconciliation(parse_export(text), OURS, NO_DAYS)["rows"]
    assert row["ours_kg"] == ours_kg


def test_without_sums_per_subscription_months_are_compared():
    days = Daily.of([day("2026-10-03", 5000.0), day("2026-11-03", 7000.0)])
    result = reconciliation(parse_export(OF_THE_API), None, days)
    (row,) = result["rows"]
    assert result["is_by_subscription"] is False
    assert (row["subscription"], row["azure_kg"], row["ours_kg"]) == (None, 12.0, 5.02)


def test_an_export_without_subscriptions_is_compared_with_all_records_of_its_month():
    days = Daily.of([day("2026-10-03", 5000.0)])
    export = parse_export("Month,Scope,Emissions (kgCO2e)\n2026-10,Scope 2,10\n")
    result = reconciliation(export, OURS, days)
    (row,) = result["rows"]
    assert (row["ours_kg"], row["factor"]) == (5.0, 2.0)
    assert result["is_by_subscription"] is False


@pytest.mark.parametrize(
    ("begun", "selection", "is_whole"),
    [
        ("2026-10-01", None, True),
        ("2026-09-07", Selection(since="2026-09-01T00:00:00.000Z"), True),
        ("2026-09-07", Selection(until="2026-11-01T00:00:00.000Z"), True),
        ("2026-10-02", None, False),
        ("2026-09-07", Selection(until="2026-10-31T23:00:00.000Z"), False),
        ("2026-09-07", Selection(frozenset({"demo"})), False),
    ],
)
def test_ours_of_a_part_of_a_month_are_said_to_be(begun, selection, is_whole):
    days = Daily.of([day(begun, 1.0), day("2026-10-20", 5000.0)])
    export = parse_export("Month,Emissions (kgCO2e)\n2026-10,10\n")
    (row,) = reconciliation(export, None, days, selection)["rows"]
    assert row["is_whole"] is is_whole


def test_without_an_export_nothing_is_known():
    assert reconciliation(None, OURS, NO_DAYS)["known"] is False


@given(st.text(max_size=300))
def test_no_text_does_more_than_be_refused(text):
    try:
        export = parse_export(text, "2026-10")
    except ExportUnreadable:
        return
    assert all(0 <= row.emissions_kg <= 1e18 for row in export.months)
