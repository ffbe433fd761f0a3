"""Reading from Azure Blob: the same records, the same totals, and what fails is one clear line."""

import gzip
import json
from pathlib import Path

import pytest

from sidecar.cli.main import main
from sidecar.record import to_ndjson
from sidecar.report.blob_place import BlobPlace
from sidecar.report.blob_source import PIECE_BYTES
from sidecar.report.places import open_place
from sidecar.report.read import ReadReport
from sidecar.report.source import SourceUnreadable
from sidecar.segment import compressed, parcel_of
from sidecar.settings import Settings, SettingsError
from sidecar.transport.blob_container import open_container
from tests.fakes.fault_proxy import FaultProxy
from tests.report.histories import Clock, history
from tests.report.reading import read_records
from tests.report.records import record

pytestmark = pytest.mark.needs("node", "azurite")

FOLDER = "records/v1/project=demo"


def content(*records):
    return compressed("".join(map(to_ndjson, records)).encode())


@pytest.fixture
def put(azurite, container_name):
    def put(name, *records):
        azurite.put(container_name, name, content(*records))

    return put


@pytest.fixture
def waits():
    return []


@pytest.fixture
def proxy(azurite):
    with FaultProxy("127.0.0.1", azurite.port) as made:
        yield made


@pytest.fixture
def opened(azurite, container_name, waits):
    """Opens the container, under a prefix, at a port; waits are noted, not waited."""
    sources = []

    def opened(prefix="", *, port=azurite.port, container=container_name):
        text = azurite.connection_string_at("127.0.0.1", port)
        settings = Settings(blob_connection_string=text, blob_container=container)
        sources.append(BlobPlace(open_container(settings, {}), prefix, waits.append))
        return sources[-1]

    yield opened
    for source in sources:
        source.close()


def read(source):
    seen = ReadReport()
    return [item.record_id for item in read_records(source, seen)], seen


@pytest.fixture
def connected(azurite, monkeypatch):
    monkeypatch.setenv("EMISSIONS_BLOB_CONNECTION_STRING", azurite.connection_string)


@pytest.fixture
def fleet(azurite, container_name, tmp_path, connected):
    """The same segments in a container and in a directory."""
    for number in range(5):
        process = history(7, stem=f"pod-{number}.boot", share=0.1, clock=Clock())
        for begin in range(0, len(process), 3):
            parcel = parcel_of(content(*process[begin : begin + 3]))
            azurite.put(container_name, parcel.blob_name, parcel.content)
            path = tmp_path / "volume" / parcel.blob_name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(parcel.content)
    return f"az://{container_name}", tmp_path / "volume"


def printed(capsys, *argv, code=0):
    assert main([*map(str, argv)]) == code
    return capsys.readouterr().out


def nearly(document):
    """The document with its numbers as far as the order of adding up leaves them the same."""
    if isinstance(document, dict):
        return {key: nearly(value) for key, value in document.items()}
    if isinstance(document, list):
        return [nearly(item) for item in document]
    return float(f"{document:.11g}") if isinstance(document, float) else document


def test_a_report_of_a_container_equals_that_of_the_directory(fleet, capsys):
    address, volume = fleet
    documents = [
        json.loads(printed(capsys, "report", source, "--json")) for source in (address, volume)
    ]
    assert [one["sources"].pop("source") for one in documents] == [address, str(volume)]
    for one in documents:
        del one["generated_at"], one["coverage"]["last_record_age_days"]
    assert nearly(documents[0]) == nearly(documents[1])
    assert documents[0]["records"] == 45


def test_verify_of_a_container_equals_that_of_the_directory(fleet, capsys):
    address, volume = fleet
    from_blob = json.loads(printed(capsys, "verify", address, "--json"))
    from_volume = json.loads(printed(capsys, "verify", volume, "--json"))
    assert from_blob.pop("source") == address
    assert from_volume.pop("source") == str(volume)
    assert from_blob == from_volume


def test_a_container_is_reported_on_the_terminal_only_unless_a_place_is_given(
    fleet, capsys, tmp_path, azurite, container_name
):
    address, _ = fleet
    before = azurite.blobs(container_name).keys()
    assert "not written: give a directory with --out" in printed(capsys, "report", address)
    assert "written: " in printed(capsys, "report", address, "--out", tmp_path / "out")
    assert (tmp_path / "out" / "summary.json").is_file()
    assert azurite.blobs(container_name).keys() == before


def test_a_prefix_is_a_folder_not_the_beginning_of_a_name(put, opened):
    put(f"{FOLDER}/a.ndjson.gz", record("a.1"))
    put(f"{FOLDER}2/a.ndjson.gz", record("other.1"))
    for prefix in (FOLDER, f"{FOLDER}/", f"/{FOLDER}"):
        assert read(opened(prefix))[0] == ["a.1"]


def test_plain_and_compressed_records_are_read_and_nothing_else(
    azurite, container_name, put, opened
):
    azurite.put(container_name, "records/v1/a.ndjson", to_ndjson(record("a.1")).encode())
    put("records/v1/b.ndjson.gz", record("b.1"))
    put("records/v1/.c.ndjson.gz", record("hidden"))
    put("reports/v1/d.ndjson.gz", record("report"))
    azurite.put(container_name, "records/v1/compacted/part-0.parquet", b"PAR1")
    assert read(opened())[0] == ["a.1", "b.1"]


def test_names_come_page_by_page(put, opened, monkeypatch):
    monkeypatch.setattr("sidecar.report.blob_source.NAMES_PER_PAGE", 2)
    for number in range(5):
        put(f"records/v1/{number}.ndjson.gz", record(f"a.{number}"))
    assert read(opened())[0] == [f"a.{number}" for number in range(5)]


def test_a_large_blob_is_read_in_pieces(azurite, container_name, proxy, opened):
    text = to_ndjson(record("a.1")) + " " * PIECE_BYTES + "\n" + to_ndjson(record("a.2"))
    azurite.put(container_name, "a.ndjson", text.encode())
    assert read(opened(port=proxy.port))[0] == ["a.1", "a.2"]
    assert len(proxy.requests) == 3  # the list, and two pieces


def test_escaped_names_are_read_back(azurite, container_name, opened):
    for number, project in enumerate(("../x", "é", "100%", "😀" * 200)):
        parcel = parcel_of(content(record(f"pod.boot.{number}", project=project)))
        azurite.put(container_name, parcel.blob_name, parcel.content)
    assert len(read(opened("records/v1"))[0]) == 4


def test_an_empty_blob_holds_no_records(azurite, container_name, put, opened):
    azurite.put(container_name, "a.ndjson", b"")
    put("b.ndjson.gz", record("b.1"))
    ids, seen = read(opened())
    assert (ids, seen.files, dict(seen.left_out)) == (["b.1"], 2, {})


def test_a_torn_blob_is_told_and_the_others_are_read(azurite, container_name, put, opened):
    azurite.put(container_name, "a.ndjson.gz", gzip.compress(b"x" * 1000)[:20])
    put("b.ndjson.gz", record("b.1"))
    ids, seen = read(opened())
    assert ids == ["b.1"]
    assert seen.left_out["unreadable file"] == 1


def test_a_blob_that_vanishes_before_it_is_read_is_told(azurite, container_name, put, opened):
    put("a.ndjson.gz", record("a.1"))
    put("b.ndjson.gz", record("b.1"))
    seen = ReadReport()
    records = read_records(opened(), seen)
    assert next(records).record_id == "a.1"
    with azurite.container(container_name) as client:
        client.delete_blob("b.ndjson.gz")
    assert list(records) == []
    assert dict(seen.left_out) == {"file that vanished while it was read": 1}


def test_a_blob_that_is_replaced_while_others_are_read_is_told(put, opened):
    put("a.ndjson.gz", record("a.1"))
    put("b.ndjson.gz", record("b.1"))
    seen = ReadReport()
    records = read_records(opened(), seen)
    next(records)
    put("b.ndjson.gz", record("b.2"))
    assert list(records) == []
    assert seen.left_out["unreadable file"] == 1


# -- what fails ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("faults", [1, 3])
def test_an_answer_that_is_lost_is_asked_for_again(put, opened, proxy, waits, faults):
    put("a.ndjson.gz", record("a.1"))
    proxy.drop_answer(faults=faults)
    assert read(opened(port=proxy.port))[0] == ["a.1"]
    assert waits == [0.5, 2.0, 8.0][:faults]


def test_a_busy_service_is_given_the_time_it_asks_for(put, opened, proxy, waits):
    put("a.ndjson.gz", record("a.1"))
    proxy.status(503, {"Retry-After": "7"}, faults=1)
    assert read(opened(port=proxy.port))[0] == ["a.1"]
    assert waits == [7.0]


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        (lambda proxy: proxy.refuse(), "the storage account is not reached"),
        (lambda proxy: proxy.drop_answer(), "the connection broke"),
        (lambda proxy: proxy.status(503), "the service answers 503"),
    ],
)
def test_a_service_that_goes_on_failing_ends_the_reading(  # noqa: PLR0917 - fixtures
    put, opened, proxy, waits, fault, told
):
    put("a.ndjson.gz", record("a.1"))
    put("b.ndjson.gz", record("b.1"))
    records = read_records(opened(port=proxy.port), ReadReport())
    next(records)
    fault(proxy)
    with pytest.raises(SourceUnreadable, match=told):
        list(records)
    assert len(waits) == 3


def test_a_container_that_is_not_there_is_one_clear_line_and_exit_1(connected, capsys):
    for command in ("report", "verify"):
        assert main([command, "az://no-such-container"]) == 1
        said = capsys.readouterr()
        assert said.out == ""
        assert "the account has no such container" in said.err
        assert said.err.count("\n") == 1


def test_a_sas_that_may_not_list_is_one_clear_line_without_it(
    azurite, container_name, monkeypatch, capsys
):
    sas = azurite.sas(container_name, "c")
    monkeypatch.setenv("EMISSIONS_BLOB_SAS", sas)
    argv = [f"az://{container_name}", "--blob-account-url", azurite.blob_endpoint]
    assert main(["report", *argv]) == 1
    error = capsys.readouterr().err
    assert "403 AuthorizationPermissionMismatch; listing and reading must be allowed" in error
    assert error.count("\n") == 1
    assert sas.partition("sig=")[2] not in error


def test_a_sas_that_may_list_and_read_is_enough(azurite, container_name, put, monkeypatch, capsys):
    put("a.ndjson.gz", *history())
    monkeypatch.setenv("EMISSIONS_BLOB_SAS", "?" + azurite.sas(container_name, "rl"))
    url = azurite.blob_endpoint
    assert main(["verify", f"az://{container_name}", "--blob-account-url", url]) == 0
    assert "6 records" in capsys.readouterr().out


def test_a_service_that_is_not_there_is_one_clear_line_without_the_sas(
    proxy, azurite, container_name, monkeypatch, capsys
):
    monkeypatch.setattr("sidecar.report.blob_source.BACKOFFS_S", (0.0,))
    monkeypatch.setenv("EMISSIONS_BLOB_SAS", azurite.sas(container_name, "rl"))
    proxy.refuse()
    url = f"{proxy.url}/devstoreaccount1"
    assert main(["report", f"az://{container_name}", "--blob-account-url", url]) == 1
    error = capsys.readouterr().err
    assert "is not reached" in error
    assert "sig=" not in error
    assert error.count("\n") == 1


def test_a_token_file_that_is_missing_is_named(tmp_path, monkeypatch, capsys):
    token_file = tmp_path / "no-token"
    identity = {
        "AZURE_TENANT_ID": "11111111-1111-1111-1111-111111111111",
        "AZURE_CLIENT_ID": "22222222-2222-2222-2222-222222222222",
        "AZURE_FEDERATED_TOKEN_FILE": str(token_file),
        "AZURE_AUTHORITY_HOST": "https://127.0.0.1:9/",
    }
    for name, value in identity.items():
        monkeypatch.setenv(name, value)
    assert main(["report", "az://emissions", "--blob-account-url", "https://127.0.0.1:9"]) == 1
    error = capsys.readouterr().err
    assert f"{token_file}: No such file or directory" in error
    assert error.count("\n") == 1


def test_an_empty_container_holds_nothing_to_report_or_verify(container_name, connected, capsys):
    for command in ("report", "verify"):
        assert main([command, f"az://{container_name}"]) == 1
        assert f"under az://{container_name}" in capsys.readouterr().err


# -- addresses ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("az://emissions", "az://emissions"),
        ("az://emissions/", "az://emissions"),
        ("az://emissions/a/b%2Fc/", "az://emissions/a/b%2Fc"),
    ],
)
def test_an_address_is_shown_as_it_is(azurite, address, shown):
    settings = Settings(blob_connection_string=azurite.connection_string)
    source = open_place(address, settings, {})
    assert str(source) == shown
    source.close()


@pytest.mark.parametrize("address", ["az://", "az://A", "az:///records", "az://emissions?sig=x"])
def test_an_address_that_is_none_is_told(address):
    with pytest.raises(SettingsError):
        open_place(address, Settings(), {})


def test_a_directory_may_have_any_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("az").mkdir()
    assert str(open_place("az", Settings(), {})) == "az"
