import contextlib
import json
import random
import re
import socket
import subprocess
import sys
import threading
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.identity import imds as module
from sidecar.identity.imds import ImdsClient, ImdsDocument, ImdsError, parse_document
from tests.fakes import imds as fake
from tests.fakes.imds import AKS_REGULAR, FakeImds

ROOT = Path(__file__).parents[2]


class Clock:
    """A clock that only `wait` moves, so that 75 s of patience take no time."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.pauses_s: list[float] = []

    def __call__(self) -> float:
        return self.now_s

    def wait(self, pause_s: float) -> bool:
        self.pauses_s.append(pause_s)
        self.now_s += pause_s
        return False


def fetch(url: str, clock: Clock | None = None, jitter: float = 0.5) -> ImdsDocument:
    clock = clock or Clock()
    return ImdsClient(url, wait=clock.wait, clock=clock, jitter=lambda: jitter).fetch()


def fetch_from(scenario: str | fake.Behaviour) -> ImdsDocument:
    with FakeImds(scenario) as imds:
        return fetch(imds.url)


def refusal_of(scenario: str | fake.Behaviour) -> str:
    with FakeImds(scenario) as imds, pytest.raises(ImdsError) as raised:
        fetch(imds.url)
    return str(raised.value)


def document(**changes: object) -> ImdsDocument:
    return parse_document(json.dumps({**AKS_REGULAR, **changes}).encode())


def test_an_aks_node_is_recognised_from_the_whitelisted_fields() -> None:
    assert fetch_from("aks-regular") == ImdsDocument(
        azure_environment="AzurePublicCloud",
        location="eastus",
        name="aks-agentpool-12628255-vmss_2",
        computer_name="aks-agentpool-12628255-vmss000002",
        priority="Regular",
        provider="Microsoft.Compute",
        resource_group_name="MC_training_ml-cluster_eastus",
        subscription_id=AKS_REGULAR["subscriptionId"],
        vm_id="220e4d30-59b9-4ff6-a25b-44d0f4bd3a77",
        vm_scale_set_name="aks-agentpool-12628255-vmss",
        vm_size="Standard_DS2_v2",
        zone="3",
        aks_tags={"aks-managed-poolname": "agentpool"},
    )


def test_nothing_private_of_the_answer_is_kept() -> None:
    assert "private detail" in json.dumps(AKS_REGULAR)
    kept = repr(fetch_from("aks-regular"))
    for private in ("private detail", "cHJpdmF0ZSBkZXRhaWw", "azureuser", "c5f9b6e2", "Kubernetes"):
        assert private not in kept


def test_a_spot_gpu_node_is_spot() -> None:
    spot = fetch_from("aks-spot-gpu")
    assert (spot.priority, spot.vm_size, spot.location) == (
        "Spot",
        "Standard_NC24ads_A100_v4",
        "westeurope",
    )


def test_the_request_is_what_imds_demands() -> None:
    with FakeImds() as imds:
        fetch(imds.url)
    (request,) = imds.requests
    assert request.path == "/metadata/instance/compute?api-version=2021-02-01&format=json"
    assert request.headers["Metadata"] == "true"
    assert request.headers["Accept-Encoding"] == "identity"
    assert "X-Forwarded-For" not in request.headers


def test_keys_cloud_and_priority_are_read_in_any_case() -> None:
    mixed = fetch_from("mixed-case")
    assert mixed == fetch_from("aks-spot-gpu")
    assert mixed.azure_environment == "AzurePublicCloud"


def test_an_empty_string_is_absent() -> None:
    assert fetch_from("empty-strings") == ImdsDocument(
        vm_id=AKS_REGULAR["vmId"], priority="Regular"
    )


def test_a_key_given_twice_counts_where_it_is_not_empty() -> None:
    assert parse_document(b'{"VMSIZE": "", "vmSize": "A", "VmSize": "B"}').vm_size == "A"


@pytest.mark.parametrize("scenario", fake.SOVEREIGN)
def test_a_sovereign_cloud_is_named(scenario: str) -> None:
    found = fetch_from(scenario)
    assert (found.azure_environment, found.location) == fake.SOVEREIGN[scenario]


def test_a_cloud_unknown_to_us_keeps_its_name() -> None:
    assert document(azEnvironment="USNat").azure_environment == "USNat"


def test_a_region_is_spelled_without_blanks_in_lower_case() -> None:
    assert document(location="West Europe").location == "westeurope"


def test_fields_of_wrong_types_are_absent_and_told_one_by_one() -> None:
    found = fetch_from("wrong-types")
    assert (found.vm_size, found.location, found.name, found.computer_name) == (None,) * 4
    assert (found.priority, found.subscription_id, found.vm_scale_set_name) == (None,) * 3
    assert (found.zone, found.vm_id) == ("3", AKS_REGULAR["vmId"])
    refused = {note.split()[0] for note in found.notes}
    assert refused == {
        "location", "name", "osProfile", "priority", "subscriptionId", "tagsList",
        "vmScaleSetName", "vmSize",
    }  # fmt: skip
    assert all(len(note) < 200 for note in found.notes)


def test_a_number_keeps_its_spelling_as_text() -> None:
    found = parse_document(b'{"vmId": 1e999, "zone": 3}')
    assert (found.vm_id, found.zone) == ("1e999", "3")


def test_a_number_of_ten_thousand_digits_is_refused_like_any_long_text() -> None:
    found = parse_document(b'{"vmId": "x", "zone": ' + b"9" * 10_000 + b"}")
    assert found.zone is None
    assert "longer than 512 characters" in found.notes[0]


@pytest.mark.parametrize("value", ["a\u0000b", "a\nb", "\ud800", "a\u202eb", "\x7f"])
def test_an_unprintable_value_is_refused(value: str) -> None:
    found = document(vmSize=value)
    assert found.vm_size is None
    assert found.notes[0].startswith("vmSize ignored")


def test_tags_that_are_no_pairs_of_texts_are_passed_over() -> None:
    tags = [1, None, {"name": 3}, {"name": "aks-managed-poolName", "value": "gpu:a"}]
    assert document(tagsList=tags).aks_tags == {"aks-managed-poolname": "gpu:a"}


@pytest.mark.parametrize(
    ("group", "cluster"),
    [
        ("MC_training_ml-cluster_eastus", "ml-cluster"),
        ("mc_TRAINING_ML-CLUSTER_EASTUS", "ML-CLUSTER"),
        ("MC_team_a_cluster_eastus", None),
        ("MC_training_ml-cluster_westus", None),
        ("MC_training_ml-cluster", None),
        ("MC__cluster_eastus", None),
        ("nodes-of-mine", None),
    ],
)
def test_the_cluster_is_read_from_the_node_group_only_without_doubt(
    group: str, cluster: str | None
) -> None:
    assert document(resourceGroupName=group).cluster == cluster


def test_the_cluster_of_the_tag_wins() -> None:
    tags = [{"name": "aks-managed-cluster-name", "value": "real"}]
    assert document(tagsList=tags).cluster == "real"


def test_a_node_group_outside_aks_names_no_cluster() -> None:
    assert document(tagsList=[]).cluster is None


def test_too_many_requests_are_retried_until_it_answers() -> None:
    clock = Clock()
    with FakeImds("busy-then-ok") as imds:
        assert fetch(imds.url, clock).vm_size == "Standard_DS2_v2"
    assert clock.pauses_s == [1, 2]


@pytest.mark.parametrize(("scenario", "status"), [("busy", 429), ("failing", 500)])
def test_a_failing_service_is_given_up_after_three_retries(scenario: str, status: int) -> None:
    clock = Clock()
    with FakeImds(scenario) as imds, pytest.raises(ImdsError, match=rf"HTTP {status} .* 3 retries"):
        fetch(imds.url, clock)
    assert clock.pauses_s == [1, 2, 4]
    assert len(imds.requests) == 4


def test_retries_are_spread_by_jitter() -> None:
    generator = random.Random(4)
    clock = Clock()
    with FakeImds("failing") as imds, pytest.raises(ImdsError):
        ImdsClient(imds.url, wait=clock.wait, clock=clock, jitter=generator.random).fetch()
    for pause_s, nominal_s in zip(clock.pauses_s, (1, 2, 4), strict=True):
        assert nominal_s * 0.5 <= pause_s < nominal_s * 1.5
        assert pause_s != nominal_s


def test_a_service_being_updated_is_asked_again_until_it_answers() -> None:
    clock = Clock()
    with FakeImds("gone-then-ok") as imds:
        assert fetch(imds.url, clock).vm_size == "Standard_DS2_v2"
    assert clock.pauses_s == [5, 10, 20]


@pytest.mark.parametrize("jitter", [0, 0.5, 0.999])
def test_a_service_being_updated_for_ever_is_given_up_after_75_seconds(jitter: float) -> None:
    clock = Clock()
    with FakeImds("gone") as imds, pytest.raises(ImdsError, match=r"410 .* after 75 s"):
        fetch(imds.url, clock, jitter)
    assert clock.now_s == pytest.approx(75)


def test_a_service_that_alternates_between_busy_and_gone_ends_too() -> None:
    def alternate(handler: fake._Handler) -> None:
        handler.answer(410 if handler.number % 2 else 503, b"")

    assert "HTTP 503" in refusal_of(alternate)


def test_waiting_to_ask_again_can_be_stopped() -> None:
    with FakeImds("gone") as imds, pytest.raises(ImdsError, match="stopped"):
        ImdsClient(imds.url, wait=lambda _: True).fetch()
    assert len(imds.requests) == 1


@pytest.mark.parametrize(
    ("scenario", "text"),
    [
        ("not-azure", "HTTP 404 .* not an Azure VM"),
        ("old-version", "HTTP 400 .* api-version 2021-02-01"),
        ("redirect", "HTTP 302 .* never followed"),
        ("html", "not JSON.*<!DOCTYPE html>"),
        ("json-list", "a list instead of a JSON object"),
        ("json-deep", "not JSON"),
        ("json-empty", "neither vmId, vmSize nor location"),
        ("invalid-utf8", "not JSON"),
        ("gzip-bomb", "encoded as 'gzip'"),
        ("gzip-bomb-undeclared", "not JSON"),
    ],
)
def test_an_answer_that_is_not_of_imds_is_refused_in_clear_text(scenario: str, text: str) -> None:
    refusal = refusal_of(scenario)
    assert re.search(text, refusal), refusal
    assert refusal.isprintable()
    assert len(refusal) < 400


@pytest.mark.parametrize(
    "wire",
    [b"", b"SSH-2.0-OpenSSH_9.2\r\n", b"HTTP/1.1 abc\r\n\r\n",
     b"HTTP/1.1 200 OK\r\nNo colon\r\n\r\n",
     b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
     b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n{}"],
)  # fmt: skip
def test_an_answer_that_is_not_http_is_refused(wire: bytes) -> None:
    assert refusal_of(fake.serve_wire(wire))


def test_a_redirect_is_not_followed() -> None:
    with FakeImds() as elsewhere:
        lure = fake.serve_raw(302, b"", Location=f"{elsewhere.url}{module.COMPUTE_PATH}")
        refusal_of(lure)
    assert elsewhere.requests == []


@pytest.mark.parametrize("scenario", ["flood", "flood-headers", "flood-continue"])
def test_a_flood_is_cut_off_early_and_takes_little_memory(scenario: str) -> None:
    with FakeImds(scenario) as imds:
        tracemalloc.start()
        try:
            with pytest.raises(ImdsError, match=r"longer than 262144 bytes|does not speak HTTP"):
                fetch(imds.url)
            _, peak_bytes = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert peak_bytes < 4 * 1024**2
    assert imds.sent_bytes < fake.FLOOD_BYTES / 4  # the rest of it is the kernel's buffers


@pytest.mark.parametrize("scenario", ["hang", "hang-in-body"])
def test_a_service_that_hangs_is_given_up(scenario: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "READ_TIMEOUT_S", 0.1)
    assert "did not answer" in refusal_of(scenario)


@pytest.mark.parametrize("scenario", ["drip", "drip-headers"])
def test_a_service_that_drips_meets_the_deadline_of_the_whole_attempt(
    scenario: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ATTEMPT_TIMEOUT_S", 3 * fake.DRIP_PAUSE_S)
    assert "did not answer" in refusal_of(scenario)


def test_a_listener_that_never_accepts_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "READ_TIMEOUT_S", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        with pytest.raises(ImdsError, match="did not answer"):
            fetch(url)


def test_a_black_hole_is_given_up_while_connecting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CONNECT_TIMEOUT_S", 0.1)
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        address = listener.getsockname()
        for _ in range(16):  # with a full backlog the kernel drops every further SYN
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(address)
        with pytest.raises(ImdsError, match="could not be reached within"):
            fetch(f"http://127.0.0.1:{address[1]}")


def test_a_closed_port_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    with pytest.raises(ImdsError, match="Connection refused"):
        fetch(url)


@pytest.mark.parametrize("name", ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"])
def test_a_proxy_of_the_environment_is_ignored(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert fetch_from("aks-regular").vm_size == "Standard_DS2_v2"


@pytest.mark.parametrize(
    "endpoint",
    ["", "169.254.169.254", "https://127.0.0.1", "http://", "http://127.0.0.1:99999",
     "http://[::1", "http://127.0.0.1/a b", "file:///etc/passwd"],
)  # fmt: skip
def test_an_endpoint_that_is_none_is_told(endpoint: str) -> None:
    with pytest.raises(ImdsError):
        fetch(endpoint)


def test_an_endpoint_may_end_in_a_slash() -> None:
    with FakeImds() as imds:
        assert fetch(imds.url + "/").vm_size == "Standard_DS2_v2"


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(st.dictionaries(st.sampled_from(sorted(AKS_REGULAR)), _json).map(json.dumps).map(str.encode))
def test_whatever_the_fields_hold_the_document_is_printable_and_bounded(body: bytes) -> None:
    try:
        found = parse_document(body)
    except ImdsError as error:
        assert str(error)
        return
    texts = [value for value in (found.vm_size, found.location, found.vm_id) if value is not None]
    assert texts
    assert all(text.isprintable() and 0 < len(text) <= 512 for text in texts)


@given(st.binary())
def test_arbitrary_bodies_raise_nothing_but_imds_errors(body: bytes) -> None:
    with pytest.raises(ImdsError):
        parse_document(body)


@pytest.fixture(scope="module")
def scripted() -> list[bytes]:
    return [b""]


@pytest.fixture(scope="module")
def scripted_url(scripted: list[bytes]):
    with FakeImds(lambda handler: handler.wfile.write(scripted[0]) and None) as imds:
        yield imds.url


_wire = st.one_of(
    st.binary(max_size=300),
    st.binary(max_size=100).map(lambda body: b"HTTP/1.1 200 OK\r\n\r\n" + body),
    st.binary(max_size=100).map(lambda head: b"HTTP/1.1 200 OK\r\n" + head + b"\r\n\r\n{}"),
    st.binary(max_size=100).map(
        lambda body: b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + body
    ),
)


@settings(max_examples=100)
@given(wire=_wire)
def test_arbitrary_bytes_on_the_wire_raise_nothing_but_imds_errors(
    wire: bytes, scripted: list[bytes], scripted_url: str
) -> None:
    scripted[0] = wire
    with pytest.raises(ImdsError):
        fetch(scripted_url)


def test_many_clients_at_once_get_one_answer_each() -> None:
    found: list[str | None] = []
    with FakeImds() as imds:
        threads = [
            threading.Thread(target=lambda: found.append(fetch(imds.url).vm_size)) for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert found == ["Standard_DS2_v2"] * 8
    assert len(imds.requests) == 8


_AT_THE_REAL_ADDRESS = """
import subprocess
from sidecar.identity.imds import ImdsClient
from tests.fakes.imds import FakeImds
subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
subprocess.run(["ip", "address", "add", "169.254.169.254/32", "dev", "lo"], check=True)
with FakeImds("aks-spot-gpu", host="169.254.169.254", port=80):
    print(ImdsClient().fetch().vm_size)
"""


@pytest.mark.needs("netns")
def test_by_default_the_link_local_address_is_asked() -> None:
    run = subprocess.run(
        ["unshare", "--net", sys.executable, "-c", _AT_THE_REAL_ADDRESS],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert run.stdout == "Standard_NC24ads_A100_v4\n", run.stderr


def test_the_fake_runs_as_a_process_of_its_own() -> None:
    command = [
        sys.executable,
        "-m",
        "tests.fakes.imds",
        "--port",
        "0",
        "--scenario",
        "aks-spot-gpu",
    ]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert fetch(process.stdout.readline().strip()).priority == "Spot"
        finally:
            process.terminate()
