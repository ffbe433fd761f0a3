"""Segments straight to Azure Blob: one Put Blob each, create-only. Needs the extra 'blob'.

A name that exists is looked at, not trusted: the same content is success, other content is refused.
So a segment sent again, because its answer was lost or its sender killed, is stored once.

Failures are raised without what caused them: the SDK's errors quote URLs, and these may hold a SAS.
"""

import errno
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from hashlib import sha256
from typing import Any, Final, Literal, Self, TypeVar
from urllib.parse import parse_qs, urlsplit, urlunsplit

from azure.core.credentials import AzureSasCredential
from azure.core.exceptions import (
    AzureError,
    ClientAuthenticationError,
    DecodeError,
    HttpResponseError,
    ServiceRequestTimeoutError,
    ServiceResponseError,
    ServiceResponseTimeoutError,
)
from azure.storage.blob import ContainerClient, ContentSettings

from sidecar.segment import SEGMENT_BYTES_MAX, NotASegment, Parcel, decompressed
from sidecar.transport.blob_container import (
    API_VERSION,
    CONNECT_TIMEOUT_S,
    READ_TIMEOUT_S,
    close_container,
)
from sidecar.transport.delivery import Delivery, Undelivered

T = TypeVar("T")

_SLOWEST_BYTES_PER_S: Final = 10_000
_UNANSWERED_MAX: Final = 4096
_FOLDERS_MAX: Final = 64
"""Projects of which it is remembered that the SAS could create there."""

_OVERDUE_MAX: Final = 8
_NAME_CHARACTERS_MAX: Final = 1024
"""Of a blob's name: Azure, 'Naming and referencing containers, blobs, and metadata'."""
_CLOCK_TOLERANCE_S: Final = 300.0
"""Azure takes 15 minutes between two clocks; less than that makes no difference to tell."""
_TEXT_CHARACTERS_MAX: Final = 240

_FAILURES: Final = (AzureError, OSError, ValueError)
"""All that the SDK, its transport and the reading of its answers raise."""

_STUMBLES: Final = (TypeError, AttributeError, LookupError)
"""What the SDK raises over an answer that is not Azure's (a gateway's page), while it reads why."""

_SECRET: Final = re.compile(r"eyJ[\w-]+(\.[\w-]*)*|(?<=sig=)[^&\s\"']+|(?<=AccountKey=)[^;\s]+")

_NO_NAME: Final = {"InvalidUri", "InvalidResourceName", "OutOfRangeInput"}
_NETWORK_RULES: Final = (
    "the network rules of the storage account keep this address out; allow its subnet or give it a "
    "private endpoint"
)
_BY_CODE: Final[Mapping[str, str]] = {
    "ContainerNotFound": "there is no such container; create it, or correct EMISSIONS_BLOB_CONTAINER",
    "ContainerBeingDeleted": "the container is being deleted; create it anew when it is gone",
    "AccountIsDisabled": "the storage account is disabled; enable it",
    "KeyBasedAuthenticationNotPermitted": "the storage account takes neither keys nor account SAS; "
    "use workload identity",
    "AuthorizationSourceIPMismatch": "the SAS is not for this address (sip=); make one that is",
    "AuthorizationProtocolMismatch": "the SAS is for https only (spr=); use an https:// address",
    "InvalidHeaderValue": f"a header is not understood; API version {API_VERSION} may be unknown there",
}
_BY_ENTRA_CODE: Final[Mapping[str, str]] = {
    "AADSTS700024": "the service account token has expired or a clock is wrong; check both",
    "AADSTS70021": "no federated credential is for this service account; add one (it takes minutes)",
    "AADSTS700211": "no federated credential is for this cluster's issuer; correct it",
    "AADSTS700213": "no federated credential is for this service account; add one (it takes minutes)",
    "AADSTS700016": "AZURE_CLIENT_ID is not known in this tenant; correct it",
    "AADSTS90002": "AZURE_TENANT_ID is not known; correct it",
}
"""Error codes of Microsoft Entra (documentation: 'Microsoft Entra authentication error codes')."""


@dataclass(frozen=True, slots=True)
class _Deadline:
    """A moment of the monotonic clock until which all must be done."""

    at_s: float

    @classmethod
    def after(cls, timeout_s: float) -> Self:
        return cls(time.monotonic() + timeout_s)

    @property
    def left_s(self) -> float:
        return max(0.001, self.at_s - time.monotonic())

    def timeouts(self, body_bytes: int = 0) -> dict[str, Any]:
        """Return the SDK's per-call timeouts; the body is sent under that for connecting."""
        connect_s = CONNECT_TIMEOUT_S + body_bytes / _SLOWEST_BYTES_PER_S
        left_s = self.left_s
        return {
            "connection_timeout": min(left_s, connect_s),
            "read_timeout": min(left_s, READ_TIMEOUT_S),
        }


@dataclass(frozen=True, slots=True)
class _Access:
    """What is known of the credential, without its secret; times only where it is a SAS."""

    kind: Literal["sas", "key", "identity", "none"]
    permissions: str = ""
    starts: datetime | None = None
    ends: datetime | None = None
    is_lasting: bool = False
    """What it permits stays so: no role of a delegator (skoid), no stored policy (si) can change it."""

    @classmethod
    def of(cls, container: ContainerClient) -> Self:
        credential = container.credential
        if isinstance(credential, AzureSasCredential):
            query = credential.signature.removeprefix("?")
        else:
            query = urlsplit(container.url).query
        sas = {name: values[0] for name, values in parse_qs(query).items()}
        if "sig" in sas:
            is_lasting = not {"skoid", "si"} & set(sas)
            times = (_sas_time(sas.get("st")), _sas_time(sas.get("se")))
            return cls("sas", sas.get("sp", ""), *times, is_lasting)
        if hasattr(credential, "get_token"):
            return cls("identity")
        return cls("key" if hasattr(credential, "account_key") else "none")

    @property
    def creates_only(self) -> bool:
        """It may create, but neither write over nor look."""
        return "c" in self.permissions and not set("wr") & set(self.permissions)

    def out_of_time(self, now: datetime) -> str | None:
        """Return what is wrong with the times of a SAS, by the clock of the storage service."""
        if self.ends is not None and self.ends <= now:
            return f"the SAS expired at {self.ends:%Y-%m-%dT%H:%M:%SZ}; give a new one"
        if self.starts is not None and self.starts > now:
            return (
                f"the SAS is not valid before {self.starts:%Y-%m-%dT%H:%M:%SZ}; wait, or give one that "
                "is valid now"
            )
        return None


def _project_folder(blob_name: str) -> str:
    """Return `records/v1/project=<project>` of a blob's name: what a SAS may be limited to."""
    return "/".join(blob_name.split("/")[:3])


class BlobTransport:
    """Delivers to one container; many threads may use it. `now` is the wall clock, in seconds."""

    def __init__(self, container: ContainerClient, *, now: Callable[[], float] = time.time) -> None:
        self._container = container
        self._access = _Access.of(container)
        self._address = urlsplit(container.url)
        self._now = now
        self._lock = threading.Lock()
        self._unanswered: dict[str, None] = {}  # in the order of sending
        self._overdue: list[threading.Thread] = []
        self._created_in: set[str] = set()  # folders of projects

    @property
    def destination(self) -> str:
        """The container's URL, without a SAS."""
        return urlunsplit((self._address.scheme, self._address.netloc, self._address.path, "", ""))

    def deliver(self, parcel: Parcel, timeout_s: float) -> Delivery:
        """Put the blob, or find that it is there. Raises Undelivered, and nothing else.

        Refused for good are a name that is none, a blob too large, and other content under the name;
        credentials, roles, containers and networks may be repaired.
        """
        self._refuse_bad_name(parcel.blob_name)
        deadline = _Deadline.after(timeout_s)
        attempted = self._sent(parcel.blob_name)
        try:
            self._in_time(lambda: self._put(parcel, deadline), deadline)
        except _FAILURES as error:
            delivery = self._existing_or_raise(parcel, error, deadline, attempted=attempted)
        else:
            delivery = "created"
            self._remember_creation(parcel.blob_name)
        self._answered(parcel.blob_name)
        return delivery

    def _remember_creation(self, blob_name: str) -> None:
        if self._access.creates_only and self._access.is_lasting:
            if len(self._created_in) >= _FOLDERS_MAX:
                self._created_in.clear()
            self._created_in.add(_project_folder(blob_name))

    def exists(self, blob_name: str, timeout_s: float = READ_TIMEOUT_S) -> bool:
        """Whether there is a blob of this name. Raises Undelivered where that cannot be told."""
        deadline = _Deadline.after(timeout_s)
        blob = self._container.get_blob_client(blob_name)
        try:
            self._in_time(lambda: blob.get_blob_properties(**deadline.timeouts()), deadline)
        except _FAILURES as error:
            if _code(error) == "BlobNotFound":  # a 404 alone may be a gateway's
                return False
            raise self._explained(error) from None
        return True

    def check(self, timeout_s: float = READ_TIMEOUT_S) -> None:
        """Raise Undelivered where the container cannot be reached or the credential is not taken.

        Who may only create may not ask for a container's properties: to be refused just that is fine.
        """
        deadline = _Deadline.after(timeout_s)
        container = self._container
        try:
            self._in_time(
                lambda: container.get_container_properties(**deadline.timeouts()), deadline
            )
        except _FAILURES as error:
            if not self._is_known_but_not_allowed(error):
                raise self._explained(error) from None

    def receipt(self, timeout_s: float) -> str | None:  # noqa: ARG002 - the protocol's
        """Return None: who may write to the container may hand over any segment."""
        return None

    def close(self) -> None:
        """End the connections to the storage account and to the token endpoint."""
        close_container(self._container)

    def _put(self, parcel: Parcel, deadline: _Deadline) -> None:
        self._container.upload_blob(
            parcel.blob_name,
            parcel.content,
            overwrite=False,  # If-None-Match: *
            length=len(parcel.content),
            metadata={"sha256": parcel.sha256, "records": str(parcel.records)},
            content_settings=ContentSettings(content_type="application/gzip"),
            **deadline.timeouts(len(parcel.content)),
        )

    def _existing_or_raise(
        self, parcel: Parcel, error: Exception, deadline: _Deadline, *, attempted: bool
    ) -> Delivery:
        """Look, then decide: a put that failed may have found the blob there."""
        code, status = _code(error), _status(error)
        if status in (409, 412) or code == "UnauthorizedBlobOverwrite":
            if self._is_same(parcel, error, deadline):
                return "existing"
            self._answered(parcel.blob_name)
            raise Undelivered(
                f"{self.destination}: holds other content under this name, {parcel.blob_name}; "
                "compare the two, and remove the wrong one",
                refused=True,
            ) from None
        may_create = attempted or _project_folder(parcel.blob_name) in self._created_in
        if may_create and self._access.creates_only and code == "AuthorizationPermissionMismatch":
            # This is how some answer a create-only SAS about a blob that exists. It is believed where an
            # answer to an earlier attempt was lost, or this very SAS has created others beside it.
            return "existing"
        if not attempted and not self._may_have_arrived(error):
            self._answered(parcel.blob_name)
        raise self._explained(error) from None

    def _may_have_arrived(self, error: Exception) -> bool:
        """Whether the blob may have been stored all the same: the request was sent, the answer lost."""
        if (_host(error) or self._address.netloc) != self._address.netloc:
            return False  # it was a token that was asked for
        status = _status(error)
        if status is None:
            return isinstance(error, (TimeoutError, ServiceResponseError, DecodeError))
        return status >= 500

    def _is_same(self, parcel: Parcel, put_error: Exception, deadline: _Deadline) -> bool:
        try:
            digest = self._in_time(lambda: self._digest(parcel.blob_name, deadline), deadline)
        except _FAILURES as error:
            if _status(error) == 403:
                return True  # it is there, and we may not look: names are never used twice
            # Not there after all (a container being deleted, say): the first answer tells more.
            raise self._explained(put_error if _status(error) == 404 else error) from None
        return digest == parcel.sha256

    def _digest(self, blob_name: str, deadline: _Deadline) -> str | None:
        """Digest of the NDJSON that is stored; None where it is no segment."""
        blob = self._container.get_blob_client(blob_name)
        properties = blob.get_blob_properties(**deadline.timeouts())
        metadata = {name.lower(): value for name, value in (properties.metadata or {}).items()}
        if "sha256" in metadata:
            return metadata["sha256"].lower()
        if (properties.size or 0) > SEGMENT_BYTES_MAX:
            return None
        content = blob.download_blob(max_concurrency=1, **deadline.timeouts()).readall()
        try:
            return sha256(decompressed(content)).hexdigest()
        except NotASegment:
            return None

    def _in_time(self, call: Callable[[], T], deadline: _Deadline) -> T:
        """Run a call until the deadline at most. Raises TimeoutError, and what the call raises.

        In a thread of its own, because name look-ups, token requests and answers that drip heed no
        timeout of ours. One that is overdue ends by itself some time; few may be.
        """
        with self._lock:
            self._overdue = [thread for thread in self._overdue if thread.is_alive()]
            if len(self._overdue) >= _OVERDUE_MAX:
                raise TimeoutError(f"{len(self._overdue)} earlier requests still hang")
        future: Future[T] = Future()

        def run() -> None:
            try:
                future.set_result(call())
            except BaseException as error:  # noqa: BLE001 - raised where the result is waited for
                future.set_exception(error)

        thread = threading.Thread(target=run, name="blob-request", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:  # the pod has no more processes to give
            raise OSError(errno.EAGAIN, str(error)) from error
        try:
            return future.result(deadline.left_s)
        except TimeoutError:
            with self._lock:
                self._overdue.append(thread)
            raise
        except _STUMBLES as error:
            answers = (cause for cause in _causes(error) if isinstance(cause, HttpResponseError))
            raise next(answers, None) or ValueError(f"an answer not understood: {error}") from None

    def _sent(self, blob_name: str) -> bool:
        """Remember that an answer is awaited; return whether one was awaited before."""
        with self._lock:
            before = blob_name in self._unanswered
            self._unanswered[blob_name] = None
            if len(self._unanswered) > _UNANSWERED_MAX:
                del self._unanswered[next(iter(self._unanswered))]
            return before

    def _answered(self, blob_name: str) -> None:
        with self._lock:
            self._unanswered.pop(blob_name, None)

    def _refuse_bad_name(self, name: str) -> None:
        reason = None
        if not 0 < len(name) <= _NAME_CHARACTERS_MAX:
            reason = f"{len(name)} characters are not 1 to {_NAME_CHARACTERS_MAX}"
        elif not name.isprintable() or "\\" in name or {"", ".", ".."} & set(name.split("/")):
            reason = "control character, backslash, or empty, '.' or '..' as a part"
        if reason:
            raise Undelivered(f"{name[:80]!r} is no blob name: {reason}; rename it", refused=True)

    def _is_known_but_not_allowed(self, error: Exception) -> bool:
        is_authenticated = _status(error) == 403 and _code(error) != "AuthenticationFailed"
        right_credential = self._access.kind != "key"  # a key may do everything
        return (
            is_authenticated
            and right_credential
            and self._access.out_of_time(self._service_time(error)) is None
        )

    def _explained(self, error: Exception) -> Undelivered:
        """One line of what happened and what to do; never a query string, a token or a key."""
        response = getattr(error, "response", None)
        host = _host(error)
        is_of_storage = host == self._address.netloc
        if isinstance(error, ClientAuthenticationError) and not is_of_storage:
            return Undelivered(_token_text(error))
        if isinstance(error, HttpResponseError) and response is not None and is_of_storage:
            return self._explained_answer(error)
        if host and not is_of_storage:
            return Undelivered(_connection_text(error, f"token endpoint {host}"))
        return Undelivered(_connection_text(error, self._address.netloc))

    def _explained_answer(self, error: HttpResponseError) -> Undelivered:
        status, code = _status(error) or 0, _code(error)
        refused = code in _NO_NAME or status == 413
        if status in (401, 403):
            what = self._forbidden_text(error)
        elif code in _NO_NAME:
            what = "the name of the blob is not taken; it cannot be stored there"
        elif status == 413:
            what = "the segment is too large for it; it cannot be stored there"
        elif status in (429, 503):
            what = "the storage service is busy; it is tried again later"
        else:
            what = _BY_CODE.get(code, "") or f"{_one_line(error.message)}; it is tried again later"
        return Undelivered(
            f"{self.destination}: answered {status} {code}".rstrip() + f": {what}",
            refused=refused,
            retry_after_s=self._retry_after_s(error),
        )

    def _forbidden_text(self, error: HttpResponseError) -> str:
        code, now = _code(error), self._service_time(error)
        ahead_s = self._now() - now.timestamp()
        if abs(ahead_s) > _CLOCK_TOLERANCE_S:
            direction = "ahead of" if ahead_s > 0 else "behind"
            skew = (
                f"this machine's clock is {abs(ahead_s) / 60:.0f} min {direction} that of the storage "
                "service; set it right"
            )
        else:
            skew = ""
        told = (self._access.out_of_time(now), skew, _BY_CODE.get(code))
        return next(filter(None, told), None) or self._not_allowed_text(error)

    def _not_allowed_text(self, error: HttpResponseError) -> str:
        code, kind = _code(error), self._access.kind
        if kind == "identity" and (_status(error) == 401 or code == "AuthenticationFailed"):
            # Of a key or a SAS this detail would hold a signature; of a token, what is wrong with it.
            details = getattr(error, "additional_info", None) or {}
            detail = _one_line(str(details.get("authenticationerrordetail") or ""))
            return f"the identity's token is not accepted ({detail}); check tenant and clock"
        if kind == "identity":
            return (
                "the identity has no role to create blobs; assign Storage Blob Data Contributor on the "
                "container (it takes up to 15 minutes to take effect)"
            )
        if kind == "sas" and code == "AuthorizationFailure":
            return f"the SAS is not accepted, or {_NETWORK_RULES}"
        if kind == "sas" and code == "AuthorizationPermissionMismatch":
            return (
                f"the SAS (sp={self._access.permissions}) does not allow this, or the blob exists and "
                "the SAS does not allow to look; give one with create and read (sp=cr)"
            )
        if kind == "sas":
            return "the SAS is not accepted; its key may have been rotated, give a new one"
        return f"the account key is wrong or was rotated, give the new one; or {_NETWORK_RULES}"

    def _service_time(self, error: Exception) -> datetime:
        """Return the time of the storage service, as its answer tells it, else our own."""
        header = _header(error, "Date")
        try:
            moment = parsedate_to_datetime(header)
        except ValueError:
            return datetime.fromtimestamp(self._now(), UTC)
        return moment if moment.tzinfo else moment.replace(tzinfo=UTC)

    def _retry_after_s(self, error: Exception) -> float | None:
        text = _header(error, "Retry-After").strip()
        if text.isascii() and text.isdecimal():
            return float(text[:9])
        try:
            wait = parsedate_to_datetime(text) - self._service_time(error)
        except (ValueError, TypeError):
            return None
        return max(0.0, wait.total_seconds())


def _sas_time(text: str | None) -> datetime | None:
    try:
        moment = datetime.fromisoformat(text or "")
    except ValueError:
        return None
    return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)


def _code(error: Exception) -> str:
    """Return the storage service's error code; empty where it gave none."""
    code = getattr(error, "error_code", None)
    return str(getattr(code, "value", code) or _header(error, "x-ms-error-code"))


def _status(error: Exception) -> int | None:
    return error.status_code if isinstance(error, HttpResponseError) else None


def _header(error: Exception, name: str) -> str:
    response = getattr(error, "response", None)
    return str(response.headers.get(name) or "") if response is not None else ""


def _one_line(text: str) -> str:
    """Return the first line of a far side's text, shortened, without what may be a secret."""
    line = next(iter(text.strip().splitlines()), "no reason given")
    line = _SECRET.sub("…", line).partition(" Trace ID:")[0].rstrip(" .;")
    return line if len(line) <= _TEXT_CHARACTERS_MAX else line[:_TEXT_CHARACTERS_MAX] + "…"


def _token_text(error: ClientAuthenticationError) -> str:
    text = _one_line(error.message)
    match = re.search(r"AADSTS\d+", text)
    what = _BY_ENTRA_CODE.get(match[0]) if match else None
    return f"no token for the storage account: {text}; " + (
        what or "check the identity and its federated credential, or sign in"
    )


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and all it came from, the outermost first; each library keeps it elsewhere."""
    waiting: list[object] = [error]
    seen: set[int] = set()
    while waiting:
        cause = waiting.pop(0)
        if not isinstance(cause, BaseException) or id(cause) in seen:
            continue
        seen.add(id(cause))
        yield cause
        inner = (getattr(cause, "inner_exception", None), getattr(cause, "reason", None))
        waiting += [*inner, cause.__cause__, cause.__context__, *cause.args]


def _host(error: Exception) -> str | None:
    """Host and port of the request that failed, where the error tells it."""
    for cause in _causes(error):
        asked = getattr(cause, "response", None) or cause
        url = getattr(getattr(asked, "request", None), "url", None)
        if isinstance(url, str):
            return urlsplit(url).netloc
    return None


def _connection_text(error: Exception, host: str) -> str:
    timeouts = (TimeoutError, ServiceRequestTimeoutError, ServiceResponseTimeoutError)
    for cause in _causes(error):
        if isinstance(cause, socket.gaierror):
            reason = f"cannot be resolved ({cause.strerror}); check the address and the DNS"
        elif isinstance(cause, ConnectionRefusedError):
            reason = "refuses connections; check the address"
        elif isinstance(cause, ssl.SSLCertVerificationError):
            reason = (
                f"has a certificate that is not trusted ({cause.verify_message}); name its authority "
                "in REQUESTS_CA_BUNDLE"
            )
        elif isinstance(cause, ConnectionError) and not hasattr(cause, "request"):
            reason = "closed the connection without an answer"
        elif isinstance(cause, timeouts):
            reason = "did not answer in time; is a firewall in the way?"
        elif isinstance(cause, OSError) and cause.filename:
            return (
                f"the federated token {cause.filename!s} cannot be read ({cause.strerror}); mount it, "
                "or correct AZURE_FEDERATED_TOKEN_FILE"
            )
        else:
            continue
        return f"{host}: {reason}"
    return (
        f"{host}: {type(error).__name__}: {_one_line(_without_urls(str(error)))}; it is tried again"
    )


def _without_urls(text: str) -> str:
    return re.sub(r"\?[^\s'\")]+", "?…", text)
