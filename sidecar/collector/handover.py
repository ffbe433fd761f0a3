"""Receipts: what lets a pod hand over the segments that a pod before it left on their volume.

A receipt is given to a pod with every answer, and kept beside its segments. It names the pod and is
signed with a key that all replicas share, so nobody else can make one.
"""

import base64
import binascii
import hashlib
import hmac
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sidecar.collector.refusal import Refusal, shown
from sidecar.collector.token_review import Caller
from sidecar.settings import SettingsError

KEY_BYTES_MIN: Final = 32
_CHARACTERS_MAX: Final = 2048
_RECEIPT: Final = re.compile(r"v1\.(?P<holder>[A-Za-z0-9_-]+)\.(?P<signature>[A-Za-z0-9_-]{43})")
_PURPOSE: Final = b"emissions-receipt-v1\0"


@dataclass(frozen=True, slots=True)
class Holder:
    """The pod that a receipt was given to; a receipt says nothing of nodes."""

    namespace: str
    service_account: str
    pod: str
    pod_uid: str

    @property
    def node(self) -> None:
        """Not known: a pod's segments are taken from whichever node it was on."""
        return


class Receipts:
    """Gives and reads receipts: `v1.<holder>.<signature>`, HMAC-SHA256, base64url."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def given_to(self, caller: Caller) -> str:
        """Return the receipt of a pod; the same text every time."""
        names = (caller.namespace, caller.service_account, caller.pod, caller.pod_uid)
        holder = _encoded(json.dumps(names, separators=(",", ":")).encode())
        return f"v1.{holder}.{self._signature(holder)}"

    def holder(self, receipt: str) -> Holder:
        """Return whom a receipt was given to. Raises Refusal (403) where we did not give it."""
        match = _RECEIPT.fullmatch(receipt) if len(receipt) <= _CHARACTERS_MAX else None
        if match is None or not hmac.compare_digest(
            self._signature(match["holder"]), match["signature"]
        ):
            raise Refusal(
                403,
                "receipt_refused",
                "Emissions-Handover is no receipt of this collector's key; the key has changed, or "
                "the receipt is damaged",
            )
        try:
            return Holder(*json.loads(base64.urlsafe_b64decode(match["holder"] + "==")))
        except (ValueError, TypeError, binascii.Error) as error:  # signed by us, and yet
            raise Refusal(403, "receipt_refused", "the receipt is of another version") from error

    def _signature(self, holder: str) -> str:
        message = _PURPOSE + holder.encode()
        return _encoded(hmac.digest(self._key, message, hashlib.sha256))


def open_receipts(key_file: Path) -> Receipts:
    """Read the key. Raises SettingsError where it cannot be read or is too short to be one."""
    try:
        key = key_file.read_bytes()
    except OSError as error:
        raise SettingsError(
            f"handover_key_file {key_file}: {error.strerror or error}; mount the key, or leave the "
            "setting out"
        ) from error
    if len(key) < KEY_BYTES_MIN:
        raise SettingsError(
            f"handover_key_file {key_file}: {len(key)} bytes; a key has {KEY_BYTES_MIN} or more, "
            f"such as from 'head -c {KEY_BYTES_MIN} /dev/urandom'"
        )
    return Receipts(key)


def require_holder(receipts: Receipts | None, receipt: str, caller: Caller) -> Holder:
    """Return the holder of a receipt that this caller may use. Raises Refusal (403).

    May: pods of the same namespace and service account, as pods of one workload are.
    """
    if receipts is None:
        raise Refusal(
            403,
            "no_handover",
            "this collector has no handover key and takes a pod's own segments only; set "
            "EMISSIONS_HANDOVER_KEY_FILE there",
        )
    holder = receipts.holder(receipt)
    for name in ("namespace", "service_account"):
        theirs, ours = getattr(holder, name), getattr(caller, name)
        if theirs != ours:
            raise Refusal(
                403,
                "foreign",
                f"the receipt is of {name} {shown(theirs)}, the caller {shown(ours)}",
            )
    return holder


def _encoded(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()
