"""`emissions-sidecar node-meter`: measures a node once, for all sidecars on it."""

import contextlib
import logging
import os
import signal
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from sidecar.agent import Agent, Parts
from sidecar.assembly import assemble
from sidecar.cli.extras import require_extra
from sidecar.cli.logs import logs_held, set_up_logs
from sidecar.cli.options import SIDECAR, add_settings, command_parser, settings_from
from sidecar.exporters.prometheus import Sample
from sidecar.exporters.summary import Totals, totals_text
from sidecar.kubernetes_http import KubernetesHttp
from sidecar.metering import Metering, patience_s
from sidecar.meters.node import NodeMeter
from sidecar.meters.nvml import NvmlMeter
from sidecar.meters.pod.cgroup_tree import CgroupTree
from sidecar.meters.pod.ladder import PodLadder
from sidecar.meters.proc import ProcMeter
from sidecar.meters.rapl import RaplMeter
from sidecar.meters.visible_devices import parse_visible_devices
from sidecar.node_meter.callers import Callers
from sidecar.node_meter.gpus import NodeGpus
from sidecar.node_meter.looks import Looks
from sidecar.node_meter.metrics import node_samples
from sidecar.node_meter.mig_parts import MigParts
from sidecar.node_meter.pod_resources import SOCKET, PodResources
from sidecar.node_meter.pods import NodePods
from sidecar.node_meter.service import BOUNDS, NodeMeterService, PodNames
from sidecar.node_meter.unallocated import UnallocatedGpus, UnallocatedSource
from sidecar.outbox import samples
from sidecar.settings import Settings, SettingsError, declared_settings
from sidecar.signal_waiter import SignalWaiter
from sidecar.status import HttpServer

LISTEN: Final = ("0.0.0.0", 9879)  # noqa: S104 - a service of a cluster, reached through its Service
PROJECT: Final = "unallocated"
"""What the node's own records are charged to, where nothing else is set."""

STOPPING: Final = (signal.SIGTERM, signal.SIGINT)
LOOK_PERIOD_S: Final = 5.0
EXIT_METERING_FAILED: Final = 1

_log = logging.getLogger(__name__)


def main(argv: Sequence[str]) -> int:
    """Answer the sidecars of this node and record what no pod used, until a signal; exit 0."""
    parser = command_parser(
        "node-meter",
        "Measure this node once for the sidecars of all its pods, and record what no pod used, until "
        "SIGTERM or SIGINT. Callers are pods, known by their projected tokens.",
        (
            "--cgroup-root /host/sys/fs/cgroup --listen 0.0.0.0:9879",
            "--transport collector --collector-url http://emissions-collector.emissions",
        ),
    )
    parser.add_argument(
        "--pod-resources",
        metavar="SOCKET",
        default=SOCKET,
        help=f"kubelet's PodResources socket, which tells whose the GPUs are [default {SOCKET}]",
    )
    add_settings(parser, offered())
    arguments = parser.parse_args(argv)
    settings = settings_from(arguments, finds_files=False)
    require_extra("node-meter", "node-meter", ("h2",))
    set_up_logs(settings)
    with logs_held():
        node = open_node(settings, os.environ, arguments.pod_resources)
        agent = Agent(node.own_parts(settings, os.environ))
        node.service.own_samples = lambda: own_samples(agent)
    return _run(settings, node, agent)


def offered() -> list[str]:
    """Return the settings of `node-meter`: not the trackers, which show runs."""
    declared = (item.name for item in declared_settings(*SIDECAR))
    return [*(name for name in declared if not name.startswith("export")), "audience"]


def own_samples(agent: Agent) -> Iterator[Sample]:
    """Yield what the node's own records tell, and what became of them."""
    state, standing = agent.state(), agent.standing
    if standing is not None:
        yield from node_samples(standing)
    if state is not None:
        yield from samples(state)


@dataclass(frozen=True, slots=True)
class Node:
    """The meters of one node, and who answers for them."""

    pods: NodePods
    gpus: NodeGpus
    looks: Looks
    service: NodeMeterService

    def own_parts(self, settings: Settings, environ: Mapping[str, str]) -> Parts:
        """Wire the agent that records what no pod used. Raises SettingsError."""
        own = replace(
            settings,
            project=settings.project or PROJECT,
            attribution="whole-node",
            gpu_source="none",
        )
        meter = NodeMeter(
            ProcMeter(settings.proc_root),
            RaplMeter(settings.sys_root),
            UnallocatedGpus(self.gpus),
            PodLadder((), UnallocatedSource(self.pods)),
        )
        return replace(assemble(own, environ, "run"), meter=meter)


def open_node(settings: Settings, environ: Mapping[str, str], pod_resources: str) -> Node:
    """Wire the meters of this node and their service; nothing is read yet."""
    pods = NodePods(CgroupTree(settings.cgroup_root or settings.sys_root / "fs" / "cgroup"))
    names = PodNames(pods.is_there)
    selected = () if settings.gpu_source == "none" else parse_visible_devices(settings.gpus)
    boards = NvmlMeter(selected=selected, lazy=True)
    gpus = NodeGpus(boards, PodResources(pod_resources), MigParts(), names.has_ended)
    gpus.on_listed = names.keep
    looks = Looks(pods, gpus)
    kubernetes = KubernetesHttp(
        settings.kubernetes_url, settings.kubernetes_token_file, settings.kubernetes_ca_file
    )
    callers = Callers(kubernetes, settings.audience)
    service = NodeMeterService(callers, pods, gpus, looks, names)
    service.node = environ.get("NODE_NAME") or None
    return Node(pods, gpus, looks, service)


def _run(settings: Settings, node: Node, agent: Agent) -> int:
    with SignalWaiter(STOPPING) as waiter:
        node.looks.begin()
        agent.begin()
        metering = Metering(agent, lambda totals: _tell(totals, agent))
        with _served(settings, node):
            metering.start()
            _log.info("metering this node; its own records go to %s", settings.volume)
            reason = _until(waiter, metering)
            is_well = metering.end(
                reason, patience_s(settings), lambda wait_s: waiter.wait(wait_s) is not None
            )
    return 0 if is_well else EXIT_METERING_FAILED


@contextlib.contextmanager
def _served(settings: Settings, node: Node) -> Iterator[None]:
    """Look and answer until the block ends. Raises SettingsError where the address cannot be had."""
    host, port = settings.listen or LISTEN
    try:
        server = HttpServer((host, port), node.service.answer, BOUNDS, "node-meter")
        server.start()
    except OSError as error:
        raise SettingsError(
            f"cannot listen on {host}:{port}: {error.strerror or error}; choose another with --listen"
        ) from error
    node.looks.start()
    host, port = server.address
    _log.info("listening on http://%s:%d", f"[{host}]" if ":" in host else host, port)
    try:
        yield
    finally:
        node.looks.stop()
        server.close()


def _until(waiter: SignalWaiter, metering: Metering) -> str:
    while not metering.is_over:
        seen = waiter.wait(LOOK_PERIOD_S)
        if seen is not None:
            return signal.Signals(seen.number).name
    return "metering failed"


def _tell(totals: Totals, agent: Agent) -> None:
    _log.info("ended: unallocated: %s · %s", totals_text(totals), agent.whereabouts)
