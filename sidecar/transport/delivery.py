"""The protocol of the transports: deliver one parcel, or say why not and whether to try again."""

from typing import Literal, Protocol

from sidecar.segment import Parcel

Delivery = Literal["created", "existing"]
"""`existing`: the same segment was there already, which is as good."""


class Undelivered(Exception):  # noqa: N818 - a state of affairs, told in its text
    """A parcel was not delivered. The text is one line: what happened, with which value, what to do.

    `refused`: the far side will never take this parcel as it is (another content under its name, not
    its owner, malformed): trying again is useless. Otherwise it is worth trying again, not before
    `retry_after_s` seconds where the far side said so. `about_owner`: the reason lies with whose it is,
    and what is of other processes may be delivered meanwhile.
    """

    def __init__(
        self,
        text: str,
        *,
        refused: bool = False,
        retry_after_s: float | None = None,
        about_owner: bool = False,
    ) -> None:
        super().__init__(text)
        self.refused = refused
        self.retry_after_s = retry_after_s
        self.about_owner = about_owner


class Transport(Protocol):
    """One way out. Used by one thread; never raises but `Undelivered`."""

    @property
    def destination(self) -> str:
        """Where it delivers to, for people: no secret in it."""
        ...

    def deliver(self, parcel: Parcel, timeout_s: float) -> Delivery:
        """Deliver within about `timeout_s` seconds; on return it is committed on the far side."""
        ...

    def receipt(self, timeout_s: float) -> str | None:
        """Return what proves later that this pod's segments were its own; None where none is needed.

        Kept beside the segments, so that another pod that finds them can hand them over.
        """
        ...

    def close(self) -> None:
        """Release connections."""
