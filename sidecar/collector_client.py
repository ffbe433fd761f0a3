"""The collector as a sidecar asks it: HTTP with the pod's own token, bounded in time and bytes.

Whoever answers is not trusted, and the token goes nowhere else.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode

from sidecar import bounded_http
from sidecar.bounded_http import (
    TEXT_CHARACTERS_MAX,
    Limits,
    NoAnswerError,
    Request,
    TokenError,
    one_line,
    shown_path,
)

__all__ = [
    "ANSWER_BYTES_MAX",
    "CONNECT_TIMEOUT_S",
    "HANDOVER_HEADER",
    "INTENSITY_PATH",
    "NODE_PATH",
    "RECEIPT_HEADER",
    "RETRY_AFTER_MAX_S",
    "SEGMENTS_PATH",
    "TEXT_CHARACTERS_MAX",
    "Answer",
    "CollectorClient",
    "CollectorError",
    "CollectorTokenError",
    "is_receipt",
    "one_line",
    "parse_retry_after_s",
    "read_token",
]

SEGMENTS_PATH: Final = "/v1/segments"
NODE_PATH: Final = "/v1/node"
INTENSITY_PATH: Final = "/v1/intensity"
HANDOVER_HEADER: Final = "Emissions-Handover"
RECEIPT_HEADER: Final = "Emissions-Receipt"

CONNECT_TIMEOUT_S: Final = 5.0
"""For each address of the host, and again for the TLS handshake."""

ANSWER_BYTES_MAX: Final = 64 * 1024
"""Of a body; the collector's have some hundred bytes. http.client bounds the headers."""

RETRY_AFTER_MAX_S: Final = 3600.0
_ADVICE: Final[Mapping[str, str]] = {
    "look-up": "is the host in EMISSIONS_COLLECTOR_URL right?",
    "refused": "is the collector running and ready?",
}
_ADVICE_ELSE: Final = (
    "is the collector running, and EMISSIONS_COLLECTOR_URL right (https:// or http://)?"
)

_RECEIPT: Final = re.compile(r"[!-~]{1,4096}")
_SECONDS: Final = re.compile(r"[0-9]+", re.ASCII)


class CollectorError(Exception):
    """The collector gave no answer. One line: what happened, with which value, what to do."""


class CollectorTokenError(CollectorError):
    """There is no usable token, so the collector was not asked."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What the collector, or whoever is there, answered.

    `payload` is the JSON object of the body; where it is none, it is empty and `problem` says why.
    `receipt` proves later whose segments these were. `retry_after_s` is within 0 to 3600 seconds.
    """

    status: int
    payload: Mapping[str, Any]
    receipt: str | None = field(default=None, repr=False)
    retry_after_s: float | None = None
    problem: str | None = None

    @property
    def error(self) -> str | None:
        """Return the collector's short code; None where it is not the collector that answers."""
        code = self.payload.get("error")
        return one_line(code) if isinstance(code, str) and code.strip() else None

    @property
    def reason(self) -> str:
        """Return what the answer gives as its reason, in one printable line."""
        detail = self.payload.get("detail")
        told = one_line(detail) if isinstance(detail, str) else ""
        said = ": ".join(text for text in (self.error, told) if text)
        return said or self.problem or "no reason given"


class CollectorClient:
    """Asks one collector; each request has a connection of its own, and may come from any thread.

    `url` without a path's last slash. The token is read from `token_file` for each request, because
    kubelet replaces it; `ca_file` is trusted instead of the well-known authorities.
    """

    def __init__(self, url: str, token_file: Path, ca_file: Path | None = None) -> None:
        self.url = url.rstrip("/")
        self.token_file = token_file
        self.ca_file = ca_file

    def post_segment(self, content: bytes, handover: str | None, timeout_s: float) -> Answer:
        """Send one compressed segment; `handover` is the receipt of the pod that left it.

        Raises CollectorError, and ValueError for a receipt that `is_receipt` denies.
        """
        headers = {"Content-Type": "application/gzip"}
        if handover is not None:
            if not is_receipt(handover):
                raise ValueError("a receipt has 1 to 4096 printable ASCII characters, no space")
            headers[HANDOVER_HEADER] = handover
        return self._ask(_Question("POST", SEGMENTS_PATH, headers, content), timeout_s)

    def node(self, timeout_s: float) -> Answer:
        """Ask what the collector knows of this pod's node. Raises CollectorError."""
        return self._ask(_Question("GET", NODE_PATH), timeout_s)

    def intensity(self, zone: str, timeout_s: float, *, with_forecast: bool = False) -> Answer:
        """Ask for the carbon intensity of a zone over time. Raises CollectorError."""
        query = {"zone": zone, **({"forecast": "true"} if with_forecast else {})}
        return self._ask(_Question("GET", f"{INTENSITY_PATH}?{urlencode(query)}"), timeout_s)

    def _ask(self, question: "_Question", timeout_s: float) -> Answer:
        """Ask within `timeout_s` seconds, the look-up of the host included."""
        token = read_token(self.token_file)
        if timeout_s <= 0:
            raise CollectorError(f"{self.url} was not asked: no time left")
        headers = {
            **question.headers,
            "Authorization": f"Bearer {token}",
            "Accept": "application/json",
        }
        request = Request(
            question.method, self.url + question.path, headers, question.content, self.ca_file
        )
        limits = Limits(timeout_s, CONNECT_TIMEOUT_S, ANSWER_BYTES_MAX)
        secrets = (token, question.headers.get(HANDOVER_HEADER, ""))
        to_hide = [secret.encode() for secret in secrets if secret]
        try:
            return bounded_http.exchange(request, limits, lambda raw: _answer(raw, to_hide))
        except NoAnswerError as error:
            raise CollectorError(self._trouble(error, timeout_s)) from error

    def _trouble(self, error: NoAnswerError, timeout_s: float) -> str:
        """Say in one line why there is no answer, and what to do."""
        if error.fault == "slow":
            return (
                f"{self.url} did not answer completely within {round(timeout_s, 1):g} s; is it "
                "overloaded, or a NetworkPolicy in the way?"
            )
        if error.fault == "connect":
            patience_s = min(CONNECT_TIMEOUT_S, round(timeout_s, 1))
            return (
                f"{self.url} could not be reached within {patience_s:g} s; is a NetworkPolicy in the "
                "way, or EMISSIONS_COLLECTOR_URL wrong?"
            )
        if error.fault == "ca-file" and self.ca_file is not None:
            shown = shown_path(self.ca_file)
            return f"CA file {shown} cannot be read; check EMISSIONS_COLLECTOR_CA_FILE"
        if error.fault == "tls":
            trusted = "not set" if self.ca_file is None else shown_path(self.ca_file)
            return (
                f"{self.url}: no TLS connection: {error}; check that "
                f"EMISSIONS_COLLECTOR_CA_FILE ({trusted}) holds the authority of the collector's "
                "certificate, and the certificate's names and dates"
            )
        if error.fault == "not-asked":
            return f"{self.url} was not asked: {error}"
        return f"{self.url}: {error}; {_ADVICE.get(error.fault, _ADVICE_ELSE)}"


def is_receipt(text: str) -> bool:
    """Whether this could be a receipt: one word of printable ASCII, at most 4096 characters."""
    return _RECEIPT.fullmatch(text) is not None


def read_token(path: Path) -> str:
    """Return the token in this file. Raises CollectorTokenError, never with the content in it."""
    try:
        return bounded_http.read_token(path)
    except TokenError as error:
        raise CollectorTokenError(
            f"{error}; mount a projected service account token there, or set "
            "EMISSIONS_COLLECTOR_TOKEN_FILE"
        ) from error


def parse_retry_after_s(text: str, now: datetime) -> float | None:
    """Return the seconds of a `Retry-After` (RFC 9110 §10.2.3: seconds or a date), within 0 to 3600.

    None for what is neither.
    """
    value = text.strip()
    if _SECONDS.fullmatch(value):
        return min(float(value), RETRY_AFTER_MAX_S)
    moment = _http_date(value)
    if moment is None:
        return None
    return min(max((moment - now).total_seconds(), 0.0), RETRY_AFTER_MAX_S)


@dataclass(frozen=True, slots=True)
class _Question:
    method: str
    path: str
    headers: Mapping[str, str] = field(default_factory=dict)
    content: bytes | None = None


def _answer(raw: bounded_http.Answer, secrets: list[bytes]) -> Answer:
    """Take from an answer what is ours to take; a secret that comes back is not repeated."""
    body = b"".join(raw.pieces)
    for secret in secrets:
        body = body.replace(secret, b"[secret]")
    payload, problem = _json_object(body)
    receipt = raw.headers.get(RECEIPT_HEADER, "").strip()
    now = _http_date(raw.headers.get("Date", "")) or datetime.now(UTC)
    return Answer(
        status=raw.status,
        payload=payload,
        receipt=receipt if is_receipt(receipt) else None,
        retry_after_s=parse_retry_after_s(raw.headers.get("Retry-After", ""), now),
        problem=problem,
    )


def _json_object(body: bytes) -> tuple[Mapping[str, Any], str | None]:
    if len(body) > ANSWER_BYTES_MAX:
        return {}, f"the answer is longer than {ANSWER_BYTES_MAX} bytes"
    try:
        content = json.loads(body.decode())
    except (ValueError, RecursionError):
        content = None
    if isinstance(content, dict):
        return content, None
    begin = one_line(body[:60].decode(errors="replace"))
    return {}, f"the answer is no JSON object; it begins '{begin}'" if body else "an empty answer"


def _http_date(text: str) -> datetime | None:
    try:
        moment = parsedate_to_datetime(text[:64])
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment
