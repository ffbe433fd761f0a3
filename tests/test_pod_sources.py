"""Which sources of a pod's part are on the ladder, and in which order."""

import pytest

from sidecar.assembly import assemble, pod_ladder
from sidecar.meters.pod.requests import Reservation
from sidecar.pod_sources import node_meter_client, pod_sources
from sidecar.settings import SettingsError, load_settings

POD = {
    "POD_UID": "11111111-2222-3333-4444-555555555555",
    "POD_NAME": "train-0",
    "POD_NAMESPACE": "vision",
    "HOST_IP": "10.224.0.4",
}
TOLD = Reservation(cpus=1.0, memory_gib=1.0, gpus=0.0)


def settings(**flags):
    return load_settings({"imds_endpoint": "none", **flags}, {})


def names(given, environ):
    return [source.name for source in pod_sources(given, environ)]


def rungs(reserved=TOLD, environ=POD, purpose="run", **flags):
    ladder = pod_ladder(settings(**flags), environ, reserved, purpose)
    return [rung.method for rung in ladder.rungs()]


def test_in_a_pod_every_source_is_on_the_ladder_best_first():
    assert names(settings(), POD) == ["cgroup", "kubelet", "shared-pid", "metrics-api"]


def test_the_node_meter_comes_first_where_there_is_one(tmp_path):
    given = settings(node_meter_url="http://127.0.0.1:9", collector_token_file=str(tmp_path / "no"))
    client = node_meter_client(given, POD)
    assert [one.name for one in pod_sources(given, POD, client)][:2] == ["node-meter", "cgroup"]
    assert node_meter_client(settings(), POD) is None


def test_outside_a_pod_there_is_none():
    assert names(settings(), {"HOST_IP": "10.224.0.4"}) == []


def test_what_the_downward_api_does_not_tell_cannot_be_asked():
    assert names(settings(), {"POD_UID": POD["POD_UID"]}) == ["cgroup", "shared-pid"]


@pytest.mark.parametrize(
    ("host", "address"), [("10.224.0.4", "10.224.0.4"), ("fd00::4", "[fd00::4]")]
)
def test_the_kubelet_is_asked_at_its_nodes_address(host, address):
    (kubelet,) = [
        one for one in pod_sources(settings(), {**POD, "HOST_IP": host}) if one.name == "kubelet"
    ]
    kubelet.read()
    (status,) = kubelet.status()
    assert f"https://{address}:10250" in status.detail or "token file" in status.detail


def test_requests_come_last_where_they_are_told_else_the_whole_node():
    assert rungs()[-1] == "requests"
    assert rungs(Reservation())[-1] == "whole-node"


def test_one_method_alone_is_followed_by_the_one_that_always_answers():
    assert rungs(attribution="kubelet") == ["kubelet", "requests"]
    assert rungs(attribution="whole-node") == ["whole-node"]
    assert rungs(attribution="requests") == ["requests"]


def test_a_command_of_ours_is_metered_by_its_processes_also_in_a_pod():
    assert rungs(purpose="exec") == ["process-tree"]


def test_a_process_tree_needs_a_command():
    with pytest.raises(SettingsError, match="process-tree needs a command"):
        rungs(attribution="process-tree")


def test_a_pod_whose_cgroup_can_be_read_is_metered_by_it(tmp_path):
    slice_name = f"kubepods-pod{POD['POD_UID'].replace('-', '_')}.slice"
    pod = tmp_path / "kubepods.slice" / slice_name
    pod.mkdir(parents=True)
    (tmp_path / "cgroup.controllers").write_text("cpu memory\n")
    (pod / "cpu.stat").write_text("usage_usec 5000000\nuser_usec 1\nsystem_usec 1\n")
    (pod / "memory.current").write_text("1048576\n")
    (pod / "memory.stat").write_text("inactive_file 0\n")
    (pod / "cpu.weight").write_text("100\n")
    given = settings(
        cgroup_root=str(tmp_path),
        volume=str(tmp_path / "volume"),
        requests_cpu="1",
        gpu_source="none",
    )
    parts = assemble(given, POD, "run")
    parts.meter.read()
    chosen = {rung.method: rung for rung in parts.meter.rungs()}
    assert chosen["cgroup"].chosen
    assert not chosen["requests"].chosen
    assert "hostPath" in chosen["cgroup"].needs
