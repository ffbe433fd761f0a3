"""Azure Instance Metadata Service: one GET that says which VM this is.

Protocol: Microsoft Learn, "Azure Instance Metadata Service". Plain HTTP to a link-local address,
header `Metadata: true`, never through a proxy (the standard library's `http.client` knows none),
5 requests a second for a whole node, hence one fetch per process. Whoever answers is not trusted:
time and bytes are bounded at the socket, and only a whitelist of fields leaves this module.
"""

import http.client
import json
import random
import re
import socket
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import SplitResult, urlsplit

from sidecar.identity.bounded import normal_region, plain_text, reason, shown

DEFAULT_ENDPOINT: Final = "http://169.254.169.254"
API_VERSION: Final = "2021-02-01"
"""The version the node scripts of AKS use themselves; old versions stay available."""

COMPUTE_PATH: Final = f"/metadata/instance/compute?api-version={API_VERSION}&format=json"

CONNECT_TIMEOUT_S: Final = 1.0
READ_TIMEOUT_S: Final = 2.0
ATTEMPT_TIMEOUT_S: Final = 5.0
MAX_ANSWER_BYTES: Final = 256 * 1024
"""Status line, headers and body together; an AKS node's answer has about 4 KiB."""

BUSY_PAUSES_S: Final = (1.0, 2.0, 4.0)
"""Pauses before the retries after 429 (too many requests) and 5xx, before jitter."""

GONE_PAUSE_S: Final = 5.0
GONE_PATIENCE_S: Final = 75.0
"""410 means "being updated, retry for up to 70 s" (documentation); azure-identity waits 75 s."""

_MAX_FIELD_CHARACTERS: Final = 512
_MAX_TAGS: Final = 256
_NAME_TAG: Final = "aks-managed-cluster-name"
_POOL_TAG: Final = "aks-managed-poolname"
_AKS_TAGS: Final = frozenset({_NAME_TAG, _POOL_TAG})
_ENVIRONMENTS: Final = {
    name.lower(): name
    for name in (
        "AzurePublicCloud",
        "AzureUSGovernmentCloud",
        "AzureChinaCloud",
        "AzureGermanCloud",
    )
}
_PRIORITIES: Final = {name.lower(): name for name in ("Regular", "Low", "Spot")}
_NODE_GROUP: Final = re.compile(r"MC_(?P<group>[^_]+)_(?P<cluster>[^_]+)", re.IGNORECASE)


class ImdsError(Exception):
    """IMDS gave nothing to work with; the text says what happened and what can be done."""


@dataclass(frozen=True, slots=True)
class ImdsDocument:
    """The whitelisted part of `/metadata/instance/compute`. None = absent, empty or unusable.

    `aks_tags` holds pool and cluster name from `tagsList`, names in lower case. `notes` say which
    fields were refused and why.
    """

    azure_environment: str | None = None
    location: str | None = None
    name: str | None = None
    computer_name: str | None = None
    priority: str | None = None
    provider: str | None = None
    resource_group_name: str | None = None
    subscription_id: str | None = None
    vm_id: str | None = None
    vm_scale_set_name: str | None = None
    vm_size: str | None = None
    zone: str | None = None
    aks_tags: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def cluster(self) -> str | None:
        """Name of the AKS cluster, only where the answer leaves no doubt.

        From the tag `aks-managed-cluster-name`, else from the node group
        `MC_<group>_<cluster>_<region>` if neither group nor cluster holds an underscore (both may)
        and the region is this VM's; any other name can be split in more than one way or was cut.
        """
        if _NAME_TAG in self.aks_tags:
            return self.aks_tags[_NAME_TAG]
        group, suffix = self.resource_group_name, f"_{self.location}"
        if not self.aks_tags or group is None or not group.lower().endswith(suffix):
            return None
        match = _NODE_GROUP.fullmatch(group[: -len(suffix)])
        return match["cluster"] if match else None


class ImdsClient:
    """Fetches the document once, with the retries that the protocol asks for.

    `wait` sleeps that many seconds and returns True if the caller wants to stop, as
    `threading.Event.wait` does. `jitter` returns a number in 0..1.
    """

    def __init__(
        self,
        endpoint: str = DEFAULT_ENDPOINT,
        *,
        wait: Callable[[float], bool] | None = None,
        clock: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._endpoint = endpoint
        self._wait = wait or threading.Event().wait
        self._clock = clock
        self._jitter = jitter

    def fetch(self) -> ImdsDocument:
        """Ask until there is an answer or no hope; blocks at most about two minutes.

        Raises `ImdsError`, and nothing else, whatever the other side does.
        """
        patience_ends_s = self._clock() + GONE_PATIENCE_S
        busy_pauses_s = list(BUSY_PAUSES_S)
        gone_pause_s = GONE_PAUSE_S
        while True:
            status, body = self._get()
            if status == http.client.OK:
                return parse_document(body)
            patience_s = patience_ends_s - self._clock()
            if status == http.client.GONE and patience_s > 0:
                pause_s, gone_pause_s = (
                    min(self._jittered(gone_pause_s), patience_s),
                    gone_pause_s * 2,
                )
            elif _is_busy(status) and busy_pauses_s:
                pause_s = self._jittered(busy_pauses_s.pop(0))
            else:
                raise ImdsError(_refusal(self._endpoint, status))
            if self._wait(pause_s):
                raise ImdsError(f"stopped while waiting to ask again after HTTP {status}")

    def _jittered(self, pause_s: float) -> float:
        return pause_s * (0.5 + self._jitter())

    def _get(self) -> tuple[int, bytes]:
        address = _endpoint_address(self._endpoint)
        try:
            return _bounded_get(address)
        except TimeoutError:
            raise ImdsError(
                f"{shown(self._endpoint)} was reached but did not answer within "
                f"{READ_TIMEOUT_S:g} s, or not completely within {ATTEMPT_TIMEOUT_S:g} s: "
                "probably not IMDS"
            ) from None
        except OSError as error:
            raise ImdsError(f"{shown(self._endpoint)}: {reason(error)}") from error
        except (http.client.HTTPException, ValueError) as error:
            detail = shown(f"{type(error).__name__}: {error}")
            raise ImdsError(f"{shown(self._endpoint)} does not speak HTTP: {detail}") from error


def parse_document(body: bytes) -> ImdsDocument:
    """Take the whitelisted fields of an answer; keys in any case, `""` is absent.

    A field of the wrong type, over-long or unprintable is absent and noted. Raises `ImdsError` if
    the answer is no JSON object or describes no VM.
    """
    answer = _Fields(_json_object(body))
    document = ImdsDocument(
        azure_environment=_canonical(answer.text("azEnvironment"), _ENVIRONMENTS),
        location=answer.region("location"),
        name=answer.text("name"),
        computer_name=answer.inner("osProfile").text("computerName"),
        priority=_priority(answer),
        provider=answer.text("provider"),
        resource_group_name=answer.text("resourceGroupName"),
        subscription_id=answer.text("subscriptionId"),
        vm_id=answer.text("vmId"),
        vm_scale_set_name=answer.text("vmScaleSetName"),
        vm_size=answer.text("vmSize"),
        zone=answer.text("zone"),
        aks_tags=_aks_tags(answer),
        notes=tuple(answer.notes),
    )
    if document.vm_id is None and document.vm_size is None and document.location is None:
        noted = "".join(f"; {note}" for note in document.notes)
        raise ImdsError(
            f"the answer names neither vmId, vmSize nor location: not a VM of Azure{noted}"
        )
    return document


class _Fields:
    """A JSON object read case-insensitively, field by field, noting what had to be refused."""

    def __init__(self, content: Mapping[str, Any], notes: list[str] | None = None) -> None:
        self.notes: list[str] = [] if notes is None else notes
        self._values: dict[str, Any] = {}
        for key, value in content.items():
            if self._values.get(key.lower()) in (None, ""):
                self._values[key.lower()] = value

    def get(self, key: str) -> object:
        return self._values.get(key.lower())

    def text(self, key: str) -> str | None:
        value = self.get(key)
        if value is None:
            return None
        if not isinstance(value, str):
            self._refuse(key, f"is {_kind(value)} instead of a string")
            return None
        try:
            return plain_text(value, _MAX_FIELD_CHARACTERS) or None
        except ValueError as error:
            self._refuse(key, str(error))
            return None

    def region(self, key: str) -> str | None:
        value = self.text(key)
        try:
            return None if value is None else normal_region(value)
        except ValueError as error:
            self._refuse(key, str(error))
            return None

    def inner(self, key: str) -> "_Fields":
        value = self.get(key)
        if isinstance(value, dict):
            return _Fields(value, self.notes)
        if value not in (None, ""):
            self._refuse(key, f"is {_kind(value)} instead of an object")
        return _Fields({}, self.notes)

    def items(self, key: str) -> list[Any]:
        value = self.get(key)
        if isinstance(value, list):
            return value
        if value not in (None, ""):
            self._refuse(key, f"is {_kind(value)} instead of a list")
        return []

    def _refuse(self, key: str, why: str) -> None:
        self.notes.append(f"{key} ignored: {why}")


def _json_object(body: bytes) -> dict[str, Any]:
    try:
        # Numbers keep their spelling: no overflow, no limit on digits, and IMDS means strings.
        content = json.loads(body.decode(), parse_int=str, parse_float=str, parse_constant=str)
    except (ValueError, RecursionError):
        begin = shown(body[:200].decode(errors="replace"))
        raise ImdsError(f"the answer is not JSON, so not from IMDS; it begins {begin}") from None
    if not isinstance(content, dict):
        raise ImdsError(f"the answer is {_kind(content)} instead of a JSON object")
    return content


def _kind(value: object) -> str:
    kinds = {list: "a list", dict: "an object", bool: "a boolean", str: "a string or number"}
    return kinds.get(type(value), "null")


def _canonical(value: str | None, spellings: Mapping[str, str]) -> str | None:
    return None if value is None else spellings.get(value.lower(), value)


def _priority(answer: _Fields) -> str | None:
    """`""` means neither Spot nor low-priority, as recorded from an AKS node."""
    if answer.get("priority") == "":
        return "Regular"
    return _canonical(answer.text("priority"), _PRIORITIES)


def _aks_tags(answer: _Fields) -> dict[str, str]:
    """Pool and cluster from `tagsList`; `tags` cannot be split, its values hold colons."""
    tags: dict[str, str] = {}
    for item in answer.items("tagsList")[:_MAX_TAGS]:
        # Tags are the owner's and private: one that is not ours to read is not noted either.
        tag = _Fields(item if isinstance(item, dict) else {})
        name, value = tag.text("name"), tag.text("value")
        if name is not None and value is not None and name.lower() in _AKS_TAGS:
            tags[name.lower()] = value
    return tags


def _is_busy(status: int) -> bool:
    return status == http.client.TOO_MANY_REQUESTS or 500 <= status <= 599


def _refusal(endpoint: str, status: int) -> str:
    why = f"unexpected, IMDS answers 200; is {shown(endpoint)} the right address?"
    if status == http.client.BAD_REQUEST:
        why = f"refused the request; api-version {API_VERSION} may be unknown to it"
    elif status == http.client.NOT_FOUND:
        why = "no instance metadata under this address: not an Azure VM"
    elif status == http.client.GONE:
        why = f"still being updated after {GONE_PATIENCE_S:g} s"
    elif _is_busy(status):
        why = f"still failing after {len(BUSY_PAUSES_S)} retries"
    elif 300 <= status <= 399:
        why = "a redirect, never followed: IMDS does not redirect, a proxy or portal answers here"
    return f"HTTP {status} from {shown(endpoint)}: {why}"


def _endpoint_address(endpoint: str) -> SplitResult:
    try:
        parts = urlsplit(endpoint)
        usable = parts.scheme == "http" and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise ImdsError(f"{shown(endpoint)} is no IMDS endpoint; write it like {DEFAULT_ENDPOINT}")
    return parts


def _bounded_get(address: SplitResult) -> tuple[int, bytes]:
    """One request without proxy, redirect or decoding. The body is read for 200 only."""
    connection = _BoundedConnection(address.hostname or "", address.port or 80)
    with closing(connection):
        path = address.path.rstrip("/") + COMPUTE_PATH
        connection.request("GET", path, headers={"Metadata": "true", "Connection": "close"})
        with closing(connection.getresponse()) as response:
            if response.status != http.client.OK:
                return response.status, b""
            encoding = response.getheader("Content-Encoding", "identity")
            if encoding.lower() != "identity":
                raise ImdsError(
                    f"the answer is encoded as {shown(encoding)}, which was not asked for"
                )
            return response.status, response.read(MAX_ANSWER_BYTES)


class _BoundedSocket(socket.socket):
    """A socket that gives up at a deadline and after a number of bytes, whatever the peer does.

    A timeout alone starts anew with every byte: a server that drips would be read for ever.
    """

    _deadline_s = 0.0
    _taken_bytes = 0

    def allow(self, duration_s: float) -> None:
        self._deadline_s = time.monotonic() + duration_s
        self.settimeout(READ_TIMEOUT_S)

    def recv_into(self, *args: Any, **kwargs: Any) -> int:  # noqa: ANN401 - handed on as they are
        left_s = self._deadline_s - time.monotonic()
        if left_s <= 0:
            raise TimeoutError
        self.settimeout(min(READ_TIMEOUT_S, left_s))
        taken = super().recv_into(*args, **kwargs)
        self._taken_bytes += taken
        if self._taken_bytes > MAX_ANSWER_BYTES:
            raise ImdsError(f"the answer is longer than {MAX_ANSWER_BYTES} bytes, so not from IMDS")
        return taken


class _BoundedConnection(http.client.HTTPConnection):
    """An HTTP connection over a `_BoundedSocket`, which also bounds the reading of headers."""

    def connect(self) -> None:
        started_s = time.monotonic()
        try:
            plain = socket.create_connection((self.host, self.port), timeout=CONNECT_TIMEOUT_S)
        except TimeoutError:
            raise ImdsError(
                f"{shown(self.host)} could not be reached within {CONNECT_TIMEOUT_S:g} s: not an "
                "Azure VM, or IMDS is blocked here (IMDS restriction, NetworkPolicy); if it is, "
                "set EMISSIONS_REGION and EMISSIONS_VM_SIZE"
            ) from None
        bounded = _BoundedSocket(fileno=plain.detach())
        bounded.allow(ATTEMPT_TIMEOUT_S - (time.monotonic() - started_s))
        self.sock = bounded
