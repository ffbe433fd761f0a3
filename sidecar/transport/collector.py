"""Deliver through the collector: it checks whose the records are, and answers when they are in Blob.

An answer that is lost after the segment was committed does no harm: the next attempt gets 200.
"""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Final

from sidecar.collector_client import (
    Answer,
    CollectorClient,
    CollectorError,
    is_receipt,
    one_line,
)
from sidecar.segment import COMPRESSED_SUFFIX, HANDED_OVER, Parcel
from sidecar.transport.delivery import Delivery, Undelivered

_REFUSED: Final = frozenset(
    {
        HTTPStatus.BAD_REQUEST,
        HTTPStatus.CONFLICT,
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        HTTPStatus.UNPROCESSABLE_ENTITY,
    }
)
"""The segment itself is at fault, if it is the collector who says so."""

_WRONG_ADDRESS: Final = "check that EMISSIONS_COLLECTOR_URL is the collector's own address"

_HANDOVER: Final = "it takes the receipt of the pod that left it, and a pod of its service account"

_ADVICE: Final[Mapping[int, str]] = {
    HTTPStatus.FORBIDDEN: "check that POD_NAME, POD_NAMESPACE, POD_UID and NODE_NAME come from the "
    "downward API, and that the token is this pod's own projected one",
    HTTPStatus.TOO_MANY_REQUESTS: "this pod sent too much at once",
    **dict.fromkeys(_REFUSED, "the same segment will not be taken again"),
}


class CollectorTransport:
    """The transport `collector`. A parcel with a receipt is handed over for a pod that is gone.

    A refusal (400, 409, 413, 422) is final only with the collector's own reason in it: a proxy that
    takes no large body must not cost a segment. 403 never is: for another pod's segment another pod may
    be the right one to bring it, or that pod is still there; for our own it may be repaired, as 401 may.

    The text of a failure names no segment: while it lasts it stays the same, and is told once.
    """

    def __init__(self, client: CollectorClient) -> None:
        self._client = client
        self._receipt: str | None = None
        self._receipt_settled = False

    @property
    def destination(self) -> str:
        """Return the collector's address."""
        return self._client.url

    def deliver(self, parcel: Parcel, timeout_s: float) -> Delivery:
        """Deliver within about `timeout_s` seconds; raises Undelivered, nothing else."""
        if parcel.receipt is not None and not is_receipt(parcel.receipt):
            raise Undelivered(
                "the receipt kept beside it is damaged, so it cannot be handed over for its pod",
                refused=True,
            )
        try:
            answer = self._client.post_segment(parcel.content, parcel.receipt, timeout_s)
        except CollectorError as error:
            raise Undelivered(str(error)) from error
        if answer.status not in (HTTPStatus.OK, HTTPStatus.CREATED):
            raise self._undelivered(answer, parcel)
        if not _names(answer.payload.get("blob"), parcel):
            found = answer.problem or "it names another blob, or none"
            raise Undelivered(
                f"{self.destination} answered {answer.status}, but not as a collector: {found}; "
                f"{_WRONG_ADDRESS}"
            )
        self._receipt = answer.receipt or self._receipt
        return "created" if answer.status == HTTPStatus.CREATED else "existing"

    def receipt(self, timeout_s: float) -> str | None:
        """Return this pod's receipt, asking for it where no answer brought it; None on failure.

        A collector that answered without one has no key: it is not asked again.
        """
        if self._receipt is None and not self._receipt_settled:
            try:
                answer = self._client.node(timeout_s)
            except CollectorError:
                return None  # told when a segment cannot be delivered either
            told = answer.status in (HTTPStatus.OK, HTTPStatus.NOT_FOUND)  # 404: no such node
            if told and answer.problem is None:
                self._receipt, self._receipt_settled = answer.receipt, True
        return self._receipt

    def close(self) -> None:
        """Do nothing: a connection ends with its answer."""

    def _undelivered(self, answer: Answer, parcel: Parcel) -> Undelivered:
        status = answer.status
        own_reason = answer.error is not None
        foreign = parcel.receipt is not None and status == HTTPStatus.FORBIDDEN
        refused = own_reason and status in _REFUSED
        if (
            status == HTTPStatus.BAD_REQUEST
        ):  # else the connection's or a proxy's fault, not its own
            refused = answer.error == "not_a_segment"
        advice = self._advice(answer, foreign=foreign)
        text = f"{self.destination} answered {status}: {answer.reason}; {advice}"
        retry_after_s = None if refused else answer.retry_after_s
        return Undelivered(
            text, refused=refused, retry_after_s=retry_after_s, about_owner=foreign and own_reason
        )

    def _advice(self, answer: Answer, *, foreign: bool) -> str:
        """Say what to do, or what will happen."""
        status = answer.status
        if 300 <= status <= 399:
            return f"a redirect is never followed; {_WRONG_ADDRESS}"
        if answer.error is None:
            return f"a proxy's answer, not the collector's? is the collector up? {_WRONG_ADDRESS}"
        if foreign:
            is_later = answer.retry_after_s is not None
            return "it is offered again later" if is_later else _HANDOVER
        if status == HTTPStatus.UNAUTHORIZED:
            return (
                f"the token in {one_line(str(self._client.token_file))} has expired or is for another "
                "audience than the collector's EMISSIONS_AUDIENCE (default emissions-collector); it "
                "is read anew for the next attempt"
            )
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR or status == HTTPStatus.REQUEST_TIMEOUT:
            return "it may pass; if it does not, see the collector's log"
        return _ADVICE.get(status, _WRONG_ADDRESS)


def _bare(blob_name: str) -> str:
    last = blob_name.rpartition("/")[2]
    return last.removesuffix(COMPRESSED_SUFFIX).removesuffix(HANDED_OVER)


def _names(blob: Any, parcel: Parcel) -> bool:  # noqa: ANN401 - JSON of someone else
    """Whether the answer is about this very segment, which a portal's or proxy's is not."""
    return isinstance(blob, str) and _bare(blob) == _bare(parcel.blob_name)
