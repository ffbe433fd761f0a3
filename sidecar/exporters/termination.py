"""The termination message: the totals of a container, kept by Kubernetes until its pod object goes.

Kubernetes makes the file (`terminationMessagePath`), and takes at most 4096 bytes of it.
Source: Kubernetes documentation, "Determine the Reason for Pod Failure".
"""

import errno
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from sidecar.exporters.summary import Totals

MESSAGE_BYTES_MAX: Final = 4096

_COLUMNS: Final = (
    "project", "run_id", "pod", "pod_uid", "window_start", "window_end", "duration_s",
    "energy_kwh", "facility_energy_kwh", "emissions_g", "emissions_low_g", "emissions_high_g",
    "embodied_g", "quality", "carbon_intensity_level",
)  # fmt: skip
_TEXT_CHARACTERS_MAX: Final = 200


def termination_message(totals: Totals, left: Mapping[str, Any], reason: str) -> bytes:
    """Return the totals and what is not shipped as one line of JSON, at most 4096 bytes.

    `left` says in plain values (at most 14) what became of the records; long texts are cut.
    """
    row: dict[str, Any] = {"reason": reason, "windows": totals.windows}
    row |= {name: getattr(totals.merged, name) for name in _COLUMNS} | dict(left)
    for length in (_TEXT_CHARACTERS_MAX, 60, 20):
        content = json.dumps({name: _cut(value, length) for name, value in row.items()}).encode()
        if len(content) < MESSAGE_BYTES_MAX:
            return content + b"\n"
    raise AssertionError("a few values of at most 20 characters do not fill 4 KiB")


def _cut(value: object, length: int) -> object:
    if isinstance(value, float) and not math.isfinite(value):
        return None  # JSON knows neither NaN nor infinity
    return f"{value[:length]}…" if isinstance(value, str) and len(value) > length else value


def write_termination_message(path: Path, content: bytes) -> None:
    """Replace the message, where Kubernetes made the file; elsewhere there is none. Raises OSError.

    The file is mounted by itself, so nothing can be renamed over it. A message that was longer is
    first covered by blanks: whoever is killed between the two steps leaves a whole message.
    """
    flags = os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags)
    except FileNotFoundError:
        return
    try:
        size = os.fstat(descriptor).st_size
        covering = content.ljust(min(size, MESSAGE_BYTES_MAX))
        if os.pwrite(descriptor, covering, 0) < len(covering):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        if size > len(content):
            os.ftruncate(descriptor, len(content))
    finally:
        os.close(descriptor)
