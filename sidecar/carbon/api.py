"""What the services that know carbon intensity over time have in common: one bounded question each.

Nobody who answers is trusted: answers are bounded in time and bytes, numbers and times are checked one
by one, and a value for another zone or time than asked for is not taken.
"""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any, Final, Protocol
from urllib.parse import urlencode

from sidecar import bounded_http
from sidecar.bounded_http import Answer, Limits, NoAnswerError, Request, one_line
from sidecar.carbon.series import SPANS_MAX, Series, Span, believable, in_order
from sidecar.collector_client import parse_retry_after_s

LIMITS: Final = Limits(timeout_s=10.0, connect_timeout_s=5.0, body_bytes_max=1024 * 1024)
"""The whole answer has this time; 48 hours of half hours with their generation mix are some 100 KiB."""

_PASSING: Final = frozenset({HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS})


class NoIntensityError(Exception):
    """A service gave no values. One line: what happened, with which value, what to do.

    `is_final` where asking again soon cannot help; `status` is that of its answer, where there was one.
    """

    def __init__(
        self,
        text: str,
        *,
        retry_after_s: float = 0.0,
        is_final: bool = False,
        status: int | None = None,
    ) -> None:
        super().__init__(text)
        self.retry_after_s = retry_after_s
        self.is_final = is_final
        self.status = status


class IntensityApi(Protocol):
    """A service that is asked over HTTP. Each call asks once, and raises NoIntensityError alone."""

    @property
    def provider(self) -> str:
        """The word of the setting intensity_source."""
        ...

    def observed(self, zone: str, now_s: float) -> Series:
        """Return the values of the last hours, at best up to now."""
        ...

    def forecast(self, zone: str, now_s: float) -> Series:
        """Return the values of the hours to come."""
        ...


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked: an address, and headers of which `secret` never appears in a message."""

    url: str
    query: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    secret: str = field(default="", repr=False)

    @property
    def address(self) -> str:
        """The address with its query."""
        return f"{self.url}?{urlencode(self.query)}" if self.query else self.url


def asked(question: Question) -> Any:  # noqa: ANN401 - JSON from outside, checked by who asked
    """Ask, and return the JSON of the answer; None for one without content (204).

    Raises NoIntensityError.
    """
    headers = {"Accept": "application/json", **question.headers}
    request = Request("GET", question.address, headers)
    try:
        return bounded_http.exchange(request, LIMITS, lambda answer: _content(answer, question))
    except NoAnswerError as error:
        raise NoIntensityError(f"{question.url}: {error}") from error


def _content(answer: Answer, question: Question) -> Any:  # noqa: ANN401
    body = b"".join(answer.pieces)
    if question.secret:
        body = body.replace(question.secret.encode(), b"[secret]")
    if answer.status == HTTPStatus.NO_CONTENT:
        return None
    if len(body) > LIMITS.body_bytes_max:
        raise NoIntensityError(
            f"{question.url} answered more than {LIMITS.body_bytes_max} bytes", is_final=True
        )
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        content = None
    if answer.status != HTTPStatus.OK:
        raise _refused(answer, question, content)
    if content is None:
        begin = one_line(body[:60].decode(errors="replace"))
        raise NoIntensityError(f"{question.url}: the answer is no JSON; it begins '{begin}'")
    return content


def _refused(answer: Answer, question: Question, content: object) -> NoIntensityError:
    may_pass = answer.status in _PASSING or answer.status >= HTTPStatus.INTERNAL_SERVER_ERROR
    retry_after_s = parse_retry_after_s(answer.headers.get("Retry-After", ""), datetime.now(UTC))
    return NoIntensityError(
        f"{question.url} answered {answer.status}: {_reason(content)}",
        retry_after_s=retry_after_s or 0.0,
        is_final=not may_pass,
        status=answer.status,
    )


def _reason(content: object) -> str:
    """Return the words of an error, wherever the services put them."""
    for name in ("error", "message", "detail", "title"):
        if isinstance(content, dict) and name in content:
            value = content[name]
            if isinstance(value, dict):
                return _reason(value)
            if isinstance(value, str) and value.strip():
                return one_line(value)
    return "no reason given"


def number_in(value: object) -> float | None:
    """Return a finite JSON number; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def time_in(value: object) -> float | None:
    """Return seconds since the epoch of an RFC 3339 text with its offset; None for anything else."""
    if not isinstance(value, str) or len(value) > 64:
        return None
    try:
        moment = datetime.fromisoformat(value)
        return None if moment.tzinfo is None else moment.timestamp()
    except (ValueError, OverflowError):
        return None


def rows_in(content: object, name: str | None = None) -> list[Mapping[str, Any]]:
    """Return the objects of a list, or of the list of this name in an object, so many at most."""
    found = content.get(name) if name is not None and isinstance(content, dict) else content
    rows = found if isinstance(found, list) else []
    return [row for row in rows[: 2 * SPANS_MAX] if isinstance(row, dict)]


def checked(spans: Iterable[Span], now_s: float, url: str) -> tuple[Span, ...]:
    """Return the believable ones in order. Raises NoIntensityError where there is none of them."""
    given = list(spans)
    taken = in_order(span for span in given if believable(span, now_s))
    if not taken:
        raise NoIntensityError(
            f"{url}: none of {len(given)} values can be taken: a value has 0 to 5000 g/kWh and is for "
            "a time near now"
        )
    return taken[-SPANS_MAX:]
