import contextlib
import os
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.node_meter import grpc_unary, pod_resources
from sidecar.node_meter.grpc_unary import GrpcError
from sidecar.node_meter.pod_resources import (
    PodDevices,
    PodName,
    PodResources,
    decode_allocatable,
    decode_pods,
)
from sidecar.node_meter.protobuf_wire import NotProtobufError
from tests.fakes.pod_resources import FakePodResources, message, pod

NAMES = st.text(max_size=20)
DEVICES = st.lists(st.lists(NAMES, max_size=4), max_size=3)


@pytest.fixture
def kubelet(tmp_path: Path) -> Iterator[FakePodResources]:
    with FakePodResources(tmp_path / "kubelet.sock") as fake:
        yield fake


@contextlib.contextmanager
def peer(path: Path, behave: Callable[[socket.socket], None]) -> Iterator[PodResources]:
    """Something else at the socket; `behave` has the one connection that comes."""
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()

        def serve() -> None:
            connected, _ = listening.accept()
            with connected, contextlib.suppress(OSError):
                behave(connected)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield PodResources(str(path))
        finally:
            thread.join()


def until_hung_up(connected: socket.socket) -> None:
    while connected.recv(65536):
        pass


# -- kubelet answers -------------------------------------------------------------------------------


def test_every_pod_is_listed_with_its_devices(kubelet: FakePodResources):
    kubelet.give("team-a", "train-0", "GPU-a", "GPU-b")
    kubelet.give("team-b", "serve", "GPU-c::3")
    assert PodResources(kubelet.path).pods() == (
        PodDevices(PodName("team-a", "train-0"), ("GPU-a", "GPU-b")),
        PodDevices(PodName("team-b", "serve"), ("GPU-c::3",)),
    )


def test_all_devices_there_are_are_listed(kubelet: FakePodResources):
    kubelet.allocatable = ["GPU-a::0", "GPU-a::1"]
    assert PodResources(kubelet.path).allocatable() == ("GPU-a::0", "GPU-a::1")


def test_a_kubelet_that_cannot_list_all_devices_tells_none(kubelet: FakePodResources):
    kubelet.allocatable = None
    assert PodResources(kubelet.path).allocatable() == ()


def test_a_container_that_ran_before_has_the_same_devices_only_once():
    answer = message("ListPodResourcesResponse")(
        pod_resources=[pod("team-a", "train-0", ["GPU-a"], ["GPU-a", "GPU-b"])]
    )
    assert decode_pods(answer.SerializeToString())[0].device_ids == ("GPU-a", "GPU-b")


@pytest.mark.parametrize(
    ("claim", "may_be"),
    [
        ({"driver_name": "gpu.nvidia.com", "device_name": "gpu-0"}, True),
        ({"cdi_devices": [{"name": "k8s.gpu.nvidia.com/claim=1f-gpu-0"}]}, True),
        ({}, True),
        ({"driver_name": "compute-domain.nvidia.com", "device_name": "channel-0"}, False),
        ({"driver_name": "net.example.com", "cdi_devices": [{"name": "x/gpu=z"}]}, False),
    ],
)
def test_a_claim_of_a_driver_of_gpus_may_be_gpus(claim, may_be: bool):
    held = {"name": "c", "dynamic_resources": [{"claim_name": "c", "claim_resources": [claim]}]}
    answer = message("ListPodResourcesResponse")(
        pod_resources=[{"name": "train", "namespace": "team", "containers": [held]}]
    )
    assert decode_pods(answer.SerializeToString())[0].claims_gpus == may_be


def test_an_answer_of_many_pods_comes_whole(kubelet: FakePodResources):
    """More than the window of HTTP/2's flow control, which must be opened again and again."""
    for number in range(500):
        kubelet.pods.append(pod("team-a", f"train-{number}", [f"GPU-{number}-" + "x" * 500]))
    assert len(PodResources(kubelet.path).pods()) == 500


@pytest.mark.parametrize(
    ("failure", "told"),
    [
        ((grpc.StatusCode.RESOURCE_EXHAUSTED, "rejected by rate limit"), "8: rejected by rate"),
        ((grpc.StatusCode.UNAVAILABLE, ""), "gRPC status 14"),
        ((grpc.StatusCode.INTERNAL, "a\nb"), "gRPC status 13"),
    ],
)
def test_a_refusal_is_told(kubelet: FakePodResources, failure, told: str):
    kubelet.failure = failure
    with pytest.raises(GrpcError, match=told) as caught:
        PodResources(kubelet.path).pods()
    assert "\n" not in str(caught.value)


@given(st.lists(st.tuples(NAMES, NAMES, DEVICES), max_size=5))
def test_what_protobuf_encodes_is_read(pods):
    answer = message("ListPodResourcesResponse")(pod_resources=[pod(n, m, *d) for n, m, d in pods])
    assert decode_pods(answer.SerializeToString()) == tuple(
        PodDevices(
            PodName(namespace, name), tuple(dict.fromkeys(x for one in devices for x in one))
        )
        for namespace, name, devices in pods
    )


@given(st.lists(st.lists(NAMES, max_size=5), max_size=3), st.lists(st.integers(-9, 2**40)))
def test_what_protobuf_encodes_of_all_devices_is_read(devices, cpus):
    answer = message("AllocatableResourcesResponse")(
        devices=[{"resource_name": "nvidia.com/gpu", "device_ids": ids} for ids in devices],
        cpu_ids=cpus,
        memory=[{"memory_type": "memory", "size": 2**63}],
    )
    assert decode_allocatable(answer.SerializeToString()) == tuple(
        x for ids in devices for x in ids
    )


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(content: bytes):
    try:
        pods = decode_pods(content)
    except NotProtobufError as error:
        assert "\n" not in str(error)
    else:
        message("ListPodResourcesResponse").FromString(content)  # protobuf can read it, too
        assert len(pods) <= len(content)


# -- something else does ---------------------------------------------------------------------------


def test_a_missing_socket_tells_what_to_mount(tmp_path: Path):
    with pytest.raises(GrpcError, match=r"No such file.*mount the node's /var/lib/kubelet"):
        PodResources(str(tmp_path / "kubelet.sock")).pods()


def test_a_socket_that_nobody_serves_is_told(tmp_path: Path):
    path = tmp_path / "kubelet.sock"
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(path))
        with pytest.raises(GrpcError, match="Connection refused"):
            PodResources(str(path)).pods()


@pytest.mark.needs("root")
def test_a_socket_of_root_tells_whom_to_run_as(kubelet: FakePodResources):
    Path(kubelet.path).chmod(0o600)
    os.seteuid(65534)
    try:
        with pytest.raises(
            GrpcError, match="Permission denied; the socket is root's: run as user 0"
        ):
            PodResources(kubelet.path).pods()
    finally:
        os.seteuid(0)


@pytest.mark.parametrize(
    "behave",
    [
        lambda connected: connected.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n"),
        lambda connected: connected.sendall(os.urandom(4096)),
        lambda connected: connected.sendall(b"\0\0\0\x04\0\0\0\0\0" + b"\xff" * 9000),
        lambda connected: None,
    ],
)
def test_a_peer_that_speaks_something_else_is_refused(tmp_path: Path, behave):
    with peer(tmp_path / "sock", behave) as resources, pytest.raises(GrpcError) as caught:
        resources.pods()
    assert "\n" not in str(caught.value)


def test_a_peer_that_says_nothing_costs_a_second_at_most(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(pod_resources, "TIMEOUT_S", 0.1)
    expected = pytest.raises(GrpcError, match=r"did not answer within 0\.1 s")
    with peer(tmp_path / "sock", until_hung_up) as resources, expected:
        resources.pods()


def test_a_peer_that_drips_is_not_waited_for(tmp_path: Path, monkeypatch):
    """HTTP/2 settings frames, one after another: each is an answer in time."""
    monkeypatch.setattr(pod_resources, "TIMEOUT_S", 0.3)

    def drip(connected: socket.socket) -> None:
        while True:
            connected.sendall(b"\0\0\0\x04\0\0\0\0\0")

    expected = pytest.raises(GrpcError, match="did not answer within")
    with peer(tmp_path / "sock", drip) as resources, expected:
        resources.pods()


def test_more_than_four_mebibytes_are_not_read(kubelet: FakePodResources, monkeypatch):
    monkeypatch.setattr(grpc_unary, "ANSWER_BYTES_MAX", 10_000)
    kubelet.give("team-a", "train-0", "GPU-" + "x" * 20_000)
    with pytest.raises(GrpcError, match="more than 10000 bytes"):
        PodResources(kubelet.path).pods()
