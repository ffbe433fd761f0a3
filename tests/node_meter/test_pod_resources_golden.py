"""Recorded answers of PodResources, read as kubelet sends them."""

import json
import os

import pytest
from google.protobuf import json_format

from sidecar.node_meter.holdings import MigPart, holdings
from sidecar.node_meter.pod_resources import PodName, decode_allocatable, decode_pods
from tests.fakes.kubelet import DATA
from tests.fakes.pod_resources import message

DIRECTORY = DATA / "pod-resources"
MESSAGES = {"list": "ListPodResourcesResponse", "allocatable": "AllocatableResourcesResponse"}
SCENES = sorted(path.stem for path in DIRECTORY.glob("*.json"))


def board(number):
    return f"GPU-{number:08x}-6f3a-4c11-9d2e-0a5b7c8d9e0f"


def slices(uuid):
    """As NVML would: the slices are in the first digits of these names, 4 is another of one."""
    number = int(uuid.split("-")[1], 16)
    return MigPart(board(1), {4: 1}.get(number, number) / 7)


def holdings_of(scene):
    pods = decode_pods((DIRECTORY / f"{scene}.list.pb").read_bytes())
    allocatable = decode_allocatable((DIRECTORY / f"{scene}.allocatable.pb").read_bytes())
    return holdings(pods, allocatable, slices)


@pytest.mark.parametrize("scene", SCENES)
@pytest.mark.parametrize("call", MESSAGES)
def test_the_messages_are_what_their_json_says(scene, call):
    told = json.loads((DIRECTORY / f"{scene}.json").read_text())[call]
    encoded = json_format.ParseDict(told, message(MESSAGES[call])())
    path = DIRECTORY / f"{scene}.{call}.pb"
    if os.environ.get("WRITE_GOLDEN"):
        path.write_bytes(encoded.SerializeToString(deterministic=True))
    read = message(MESSAGES[call])()
    read.ParseFromString(path.read_bytes())
    assert read == encoded


def test_whole_boards_are_their_pods_whoever_else_of_the_pod_had_them_before():
    found = holdings_of("whole")
    train, notebook = PodName("vision", "train-0"), PodName("nlp", "notebook-0")
    assert found.shares == {
        **{board(n): {train: 1.0} for n in (1, 2, 3, 4)},
        board(5): {notebook: 1.0},
    }
    assert (found.unplaced, found.unplaced_slices) == (frozenset(), frozenset())


def test_replicas_are_quarters_of_the_board_though_only_three_are_held():
    found = holdings_of("time-slicing")
    assert sorted(found.shares[board(1)].values()) == [0.25, 0.25, 0.25]


def test_slices_are_sevenths_of_the_board():
    found = holdings_of("mig").shares[board(1)]
    assert {pod.name: round(share * 7) for pod, share in found.items()} == {
        "train-3g": 3, "train-2g": 2, "small-1g": 1,
    }  # fmt: skip


def test_a_gpu_by_claim_is_somewhere_and_a_channel_is_no_gpu():
    found = holdings_of("claims")
    assert (found.shares, found.unplaced) == ({}, {PodName("vision", "train-dra")})
