"""What a pod may know of its own node: VM size, region, zone and pool, from the node's labels."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Final, Protocol

from sidecar.collector.refusal import Refusal, shown
from sidecar.collector.remembered import Remembered

REMEMBERED_S: Final = 300.0
NODES_MAX: Final = 4096
ASKING_MAX: Final = 64

_VM_SIZE: Final = "node.kubernetes.io/instance-type"
_REGION: Final = "topology.kubernetes.io/region"
_ZONE: Final = "topology.kubernetes.io/zone"
_POOLS: Final = ("kubernetes.azure.com/agentpool", "agentpool")


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """Of one node; None where no label says so. `zone` is as IMDS says it: `1`, not `region-1`."""

    node: str
    vm_size: str | None
    region: str | None
    zone: str | None
    pool: str | None


class NodeLabels(Protocol):
    """Who knows the labels of nodes."""

    def node_labels(self, node: str) -> Mapping[str, str] | None:
        """Return the labels; None where there is no such node. Raises Refusal (503)."""
        ...


Threaded = Callable[[Callable[[], Mapping[str, str] | None]], Awaitable[Mapping[str, str] | None]]
"""Runs a blocking call in a thread."""


class Nodes:
    """Looks nodes up; each once in some minutes."""

    def __init__(self, labels: NodeLabels, threaded: Threaded) -> None:
        self._labels = labels
        self._threaded = threaded
        self._remembered: Remembered[str, NodeFacts | None] = Remembered(
            REMEMBERED_S, size=NODES_MAX, asking=ASKING_MAX
        )

    async def facts(self, node: str | None) -> NodeFacts:
        """Return what is known. Raises Refusal: 404 no such node, 503 no answer."""
        if node is None:
            raise Refusal(404, "no_node", "the token names no node; Kubernetes 1.30 or later does")
        facts = await self._remembered.get(node, lambda: self._looked_up(node))
        if facts is None:
            raise Refusal(404, "no_node", f"the cluster has no node {shown(node)}")
        return facts

    async def _looked_up(self, node: str) -> NodeFacts | None:
        labels = await self._threaded(lambda: self._labels.node_labels(node))
        return None if labels is None else facts_of(node, labels)


def facts_of(node: str, labels: Mapping[str, str]) -> NodeFacts:
    """Read the labels that AKS puts on nodes."""
    # AKS labels nodes outside any zone with 0, the others with <region>-<zone>.
    zone = labels.get(_ZONE, "").rpartition("-")[2]
    pools = (labels[name] for name in _POOLS if labels.get(name))
    return NodeFacts(
        node,
        labels.get(_VM_SIZE) or None,
        labels.get(_REGION) or None,
        None if zone in ("", "0") else zone,
        next(pools, None),
    )
