"""What the labels of this pod's node say, as the collector passes them on: where IMDS is blocked.

A pod may not read its node from Kubernetes; the collector may, and knows from the pod's token which
node it is. Its answer is checked like all text from outside.
"""

import math
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final

from sidecar.collector_client import (
    Answer,
    CollectorClient,
    CollectorError,
    CollectorTokenError,
    one_line,
)
from sidecar.identity.bounded import normal_region, plain_text, shown
from sidecar.identity.fields import Findings, Sourced

SOURCE: Final = "node-labels"

PATIENCE_S: Final = 30.0
"""A collector that starts with the cluster is ready by then; later answers help little."""

TRY_TIMEOUT_S: Final = 5.0
PAUSES_S: Final = (1.0, 2.0, 4.0, 8.0)
"""Pauses before asking again, before jitter."""

_PASSING: Final = frozenset({HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS})

_MAX_CHARACTERS: Final = 253
"""Names of nodes are DNS subdomains, and longer than any label (63)."""


class NodeLabelsError(Exception):
    """The labels of the node stay unknown; one line: what happened, and what to do."""


class _AskAgainError(NodeLabelsError):
    def __init__(self, text: str, retry_after_s: float | None = None) -> None:
        super().__init__(text)
        self.retry_after_s = retry_after_s or 0.0


@dataclass(frozen=True, slots=True)
class NodeLabels:
    """Fields of `Identity` that the labels name; `notes` say which were refused and why."""

    findings: Findings
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        size, region = (
            found.value if (found := self.findings.get(name)) else f"unknown {what}"
            for name, what in (("vm_size", "size"), ("region", "region"))
        )
        return "; ".join((f"{size} in {region}", *self.notes))


@dataclass(frozen=True, slots=True)
class NodeLabelsSource:
    """Asks the collector, and again for about half a minute while that may help.

    `wait` sleeps that many seconds and returns True if the caller wants to stop, as
    `threading.Event.wait` does. `jitter` returns a number in 0..1.
    """

    client: CollectorClient
    wait: Callable[[float], bool]
    clock: Callable[[], float] = time.monotonic
    jitter: Callable[[], float] = random.random

    def fetch(self, tell: Callable[[str], None]) -> NodeLabels:
        """Ask until there is an answer or no hope; `tell` hears why it is asked again.

        Raises NodeLabelsError, and nothing else, whatever the other side does.
        """
        ends_s = self.clock() + PATIENCE_S
        for pause_s in (*PAUSES_S, math.inf):
            try:
                return parse_labels(self._ask(min(TRY_TIMEOUT_S, ends_s - self.clock())))
            except _AskAgainError as late:
                jittered_s = max(pause_s * (0.5 + self.jitter()), late.retry_after_s)
                if self.clock() + jittered_s >= ends_s:
                    raise
                tell(f"{late}; it is asked again")
            if self.wait(jittered_s):
                break
        raise NodeLabelsError("stopped while waiting to ask the collector again")

    def _ask(self, timeout_s: float) -> Answer:
        try:
            answer = self.client.node(timeout_s)
        except CollectorTokenError as error:  # mounted before the first container, or never
            raise NodeLabelsError(str(error)) from error
        except CollectorError as error:
            raise _AskAgainError(str(error)) from error
        if answer.status == HTTPStatus.OK:
            return answer
        text = f"{self.client.url} answered {answer.status}: {answer.reason}"
        if answer.status in _PASSING or answer.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            raise _AskAgainError(text, answer.retry_after_s)
        if answer.status == HTTPStatus.UNAUTHORIZED:
            file = one_line(str(self.client.token_file))
            raise NodeLabelsError(f"{text}; check audience and expiry of the token in {file}")
        raise NodeLabelsError(
            f"{text}; check EMISSIONS_COLLECTOR_URL, or set EMISSIONS_REGION and EMISSIONS_VM_SIZE"
        )


def parse_labels(answer: Answer) -> NodeLabels:
    """Take the known fields of an answer; a bad one is left out and noted.

    Raises NodeLabelsError for an answer that names none of them.
    """
    notes: list[str] = []
    findings: dict[str, Sourced] = {}
    for name, read in _READERS.items():
        try:
            value = read(_text(answer.payload, name))
        except ValueError as error:
            notes.append(f"{name} ignored: {error}")
            continue
        if value:
            findings[name] = Sourced(value, SOURCE)
    if not findings:
        told = "; ".join(filter(None, (answer.problem, *notes))) or "no label of it is known"
        raise NodeLabelsError(f"the collector knows nothing of this node: {told}")
    return NodeLabels(findings, tuple(notes))


def _text(payload: Mapping[str, Any], name: str) -> str:
    value = payload.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise ValueError(f"{shown(str(value)[:1000])} is no text")
    return plain_text(value, _MAX_CHARACTERS)


def _region(text: str) -> str:
    return normal_region(text) if text else ""


def _zone(text: str) -> str:
    """AKS labels nodes outside any zone with 0, the others with <region>-<zone>; IMDS says <zone>."""
    zone = text.rpartition("-")[2]
    return "" if zone == "0" else zone


_READERS: Final[Mapping[str, Callable[[str], str]]] = {
    "node": str,
    "vm_size": str,
    "region": _region,
    "zone": _zone,
}
