"""The node meter of this node, asked for this pod's own counters. Whoever answers is not trusted."""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final, cast, get_args

from sidecar import bounded_http
from sidecar.bounded_http import Answer, Limits, NoAnswerError, Request, TokenError, one_line
from sidecar.identity.bounded import shown
from sidecar.kubernetes_http import parse_json
from sidecar.meters.reading import GpuEnergySource, GpuReading

POD_PATH: Final = "/v1/pod"

DEADLINE_S: Final = 1.0
ANSWER_BYTES_MAX: Final = 128 * 1024
"""64 GPUs with all that is told of them are 40 KiB."""

SHARED_S: Final = 0.5
"""One answer serves the meter of the pod and that of its GPUs, if they ask for the same reading."""

FIRST_PAUSE_S: Final = 10.0
LONGEST_PAUSE_S: Final = 320.0
"""After a failure it is not asked for 10 s, after another not for 10 s again, then for twice the time:
less than the ladder of the pod's sources waits, so that its attempts are real ones, and the GPUs' cost
nothing between them."""

GPUS_MAX: Final = 64
LARGEST_INTEGER: Final = 2**63
LARGEST_NUMBER: Final = 1e24
_TEXT_CHARACTERS_MAX: Final = 200
_NOTES_MAX: Final = 8


class NodeMeterError(Exception):
    """The node meter tells nothing. One line: what happened, with which value, and what to do."""


@dataclass(frozen=True, slots=True)
class NodeMeterAnswer:
    """Counters of this pod: since it began (`cpu_s`), or since the node meter has seen it or the GPUs.

    They continue each other while `boot` is the same.
    """

    boot: str
    cpu_s: float
    working_set_bytes: int | None
    memory_byte_s: float
    gpus: tuple[GpuReading, ...]


class NodeMeterClient:
    """Asks one node meter with this pod's projected token; each request has a connection of its own.

    `node` is the name of this node, where it is known: the answer of another one's is refused. Used in
    one thread.
    """

    def __init__(
        self,
        url: str,
        token_file: Path,
        ca_file: Path | None = None,
        node: str | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.url = url.rstrip("/")
        self._token_file = token_file
        self._ca_file = ca_file
        self._node = node
        self._clock = clock
        self._last: NodeMeterAnswer | NodeMeterError | None = None
        self._until_s = -math.inf
        self._failures = 0

    def ask(self) -> NodeMeterAnswer:
        """Return the counters as of now, or of less than half a second ago; takes 2 s at most.

        Raises NodeMeterError, also without asking while it is not to be asked again.
        """
        if self._last is None or self._clock() >= self._until_s:
            self._last = self._asked()
        if isinstance(self._last, NodeMeterError):
            raise NodeMeterError(str(self._last))
        return self._last

    def _asked(self) -> NodeMeterAnswer | NodeMeterError:
        try:
            answer = self._exchanged_twice()
        except NodeMeterError as error:
            self._failures += 1
            pause_s = FIRST_PAUSE_S * 2.0 ** min(max(self._failures - 2, 0), 16)
            self._until_s = self._clock() + min(pause_s, LONGEST_PAUSE_S)
            return error
        self._until_s = self._clock() + SHARED_S
        self._failures = 0
        return answer

    def _exchanged_twice(self) -> NodeMeterAnswer:
        """Ask once more where the answer before was one: a single late one would cost two windows."""
        try:
            return self._exchanged()
        except NodeMeterError:
            if not isinstance(self._last, NodeMeterAnswer):
                raise
            return self._exchanged()

    def _exchanged(self) -> NodeMeterAnswer:
        try:
            token = bounded_http.read_token(self._token_file)
            headers = {"Authorization": f"Bearer {token}", "Accept": "application/json"}
            request = Request("GET", self.url + POD_PATH, headers, None, self._ca_file)
            limits = Limits(DEADLINE_S, DEADLINE_S, ANSWER_BYTES_MAX)
            return bounded_http.exchange(request, limits, lambda answer: self._taken(answer, token))
        except TokenError as error:
            raise NodeMeterError(f"{error}; the node meter is asked with it") from error
        except NoAnswerError as error:
            url = one_line(self.url)
            if error.fault == "slow":
                told = f"node meter {url} did not answer completely within {DEADLINE_S:g} s"
                raise NodeMeterError(f"{told}; is it overloaded, or its node?") from error
            raise NodeMeterError(
                f"node meter {url} does not answer: {error}; does it run on this node?"
            ) from error

    def _taken(self, answer: Answer, token: str) -> NodeMeterAnswer:
        body = b"".join(answer.pieces)
        try:
            if len(body) > ANSWER_BYTES_MAX:
                raise ValueError(f"its answer is longer than {ANSWER_BYTES_MAX} bytes")
            if answer.status != HTTPStatus.OK:
                raise ValueError(f"HTTP {answer.status}: {_reason(body)}")
            return parse_answer(parse_json(iter((body,))), self._node)
        except ValueError as error:
            told = one_line(str(error).replace(token, "[secret]"))
            raise NodeMeterError(f"node meter {one_line(self.url)}: {told}") from error


def parse_answer(document: object, node: str | None) -> NodeMeterAnswer:
    """Read the document of `/v1/pod`. Raises ValueError for what no node meter says."""
    if not isinstance(document, dict):
        raise ValueError("its answer is no JSON object; is a node meter at this address?")
    told_node = document.get("node")
    if node is not None and isinstance(told_node, str) and told_node != node:
        raise ValueError(
            f"it is that of node {shown(told_node)}, and this is {shown(node)}; its Service needs "
            "internalTrafficPolicy: Local"
        )
    gpus = document.get("gpus")
    if not isinstance(gpus, list) or len(gpus) > GPUS_MAX:
        raise ValueError("its answer has no list of GPUs, or too long a one")
    readings = tuple(_gpu(gpu) for gpu in gpus)
    if len({reading.uuid for reading in readings}) < len(readings):
        raise ValueError("its answer has a GPU twice")
    return NodeMeterAnswer(
        boot=_text(document, "boot"),
        cpu_s=_number(document, "cpu_s"),
        working_set_bytes=_integer(document, "working_set_bytes"),
        memory_byte_s=_number(document, "memory_byte_s"),
        gpus=readings,
    )


def _reason(body: bytes) -> str:
    """Return why it refuses, or what else it says."""
    try:
        told = parse_json(iter((body,)))
    except ValueError as error:
        return str(error)
    told = told if isinstance(told, dict) else {}
    words = [told[name] for name in ("error", "detail") if isinstance(told.get(name), str)]
    return ": ".join(words) or "no reason given"


def _gpu(told: object) -> GpuReading:
    if not isinstance(told, dict):
        raise ValueError("a GPU in its answer is no object")
    energy_mj, pod_energy_mj = (_integer(told, name) for name in ("energy_mj", "pod_energy_mj"))
    if pod_energy_mj is not None and (energy_mj is None or pod_energy_mj > energy_mj):
        raise ValueError("the pod's part of a GPU's energy is more than all of it")
    source = told.get("energy_source")
    if source not in get_args(GpuEnergySource):
        raise ValueError(f"energy_source is {shown(str(source)[:100])}")
    notes = told.get("notes")
    return GpuReading(
        uuid=_text(told, "uuid"),
        model=_text(told, "model"),
        energy_mj=energy_mj,
        energy_source=cast("GpuEnergySource", source),
        utilization_s=_number(told, "utilization_s"),
        observed_s=_number(told, "observed_s"),
        power_limit_w=_number_or_none(told, "power_limit_w"),
        mig=told.get("mig") is True,
        virtual=told.get("virtual") is True,
        notes=_notes(notes) if isinstance(notes, list) else (),
        metered_s=_number_or_none(told, "metered_s"),
        pod_energy_mj=pod_energy_mj,
        pod_share=_share(told),
        share_method="node-meter",
        meter="node-meter",
    )


def _share(told: Mapping[str, Any]) -> float | None:
    share = _number_or_none(told, "pod_share")
    if share is not None and share > 1:
        raise ValueError(f"pod_share is {share:g}, more than all of a GPU")
    return share


def _notes(told: list[Any]) -> tuple[str, ...]:
    return tuple(one_line(note) for note in told[:_NOTES_MAX] if isinstance(note, str))


def _text(told: Mapping[str, Any], name: str) -> str:
    value = told.get(name)
    if not isinstance(value, str) or not 0 < len(value) <= _TEXT_CHARACTERS_MAX:
        raise ValueError(f"{name} is no text, an empty or a long one")
    if not value.isprintable():
        raise ValueError(f"{name} is {shown(value)}")
    return value


def _number(told: Mapping[str, Any], name: str) -> float:
    value: Any = told.get(name)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not 0 <= value <= LARGEST_NUMBER:
        raise ValueError(f"{name} is {shown(str(value)[:100])}, no number that can be")
    return float(value)


def _number_or_none(told: Mapping[str, Any], name: str) -> float | None:
    return None if told.get(name) is None else _number(told, name)


def _integer(told: Mapping[str, Any], name: str) -> int | None:
    value = told.get(name)
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < LARGEST_INTEGER:
        raise ValueError(f"{name} is {shown(str(value)[:100])}, no whole number that can be")
    return value
