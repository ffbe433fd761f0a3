"""Which GPUs a job may use, as `CUDA_VISIBLE_DEVICES` and `NVIDIA_VISIBLE_DEVICES` say it.

CUDA C++ Programming Guide, "CUDA Environment Variables"; NVIDIA Container Toolkit, "Specialized
Configurations": indexes, `GPU-…` UUIDs or a beginning of them, `MIG-…`, `board:slice`.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sidecar.identity.bounded import read_bounded

_INDEX = re.compile(r"\d{1,4}")
_SLICE = re.compile(r"(\d{1,4}):\d{1,4}")
_OLD_MIG = re.compile(r"MIG-(GPU-[0-9a-fA-F-]+)/\d+/\d+")
_NONE = frozenset({"", "-1", "none", "void", "nodevfiles"})

LARGEST_SELECTION = 256

_NAMED = re.compile(r"(?:GPU|MIG)-[0-9A-Za-z/-]{1,100}", re.ASCII)
_VARIABLE: Final = b"NVIDIA_VISIBLE_DEVICES="
_ENVIRONMENT_BYTES_MAX: Final = 256 * 1024
_PROCESSES_MAX: Final = 4096
_PAUSE: Final = b"pause"
"""Name of process 1 in a pod whose containers share one PID namespace (Kubernetes, "Share Process
Namespace between Containers in a Pod"). In any other namespace these are not this pod's processes
alone, or ours only."""


def parse_visible_devices(text: str | None) -> tuple[str, ...] | None:
    """Read such a variable: None = all GPUs (unset or `all`), an empty tuple = none.

    As in CUDA, -1 ends the list. Indexes are taken in the order of the PCI bus, as NVML numbers
    GPUs (CUDA does so with CUDA_DEVICE_ORDER=PCI_BUS_ID; it matters only where models are mixed).
    """
    if text is None or text.strip().lower() == "all":
        return None
    if text.strip().lower() in _NONE:
        return ()
    selected: list[str] = []
    for word in text.split(",")[:LARGEST_SELECTION]:
        name = word.strip()
        if name == "-1":
            break
        if name and name not in selected:
            selected.append(name)
    return tuple(selected)


@dataclass(frozen=True, slots=True)
class Selector:
    """One GPU as a person names it, taken apart."""

    text: str
    index: int | None = None
    uuid_prefix: str | None = None
    mig_uuid: str | None = None
    mig: bool = False

    @classmethod
    def parse(cls, text: str) -> "Selector":
        """Take a name apart; one that means nothing matches no GPU."""
        if _INDEX.fullmatch(text):
            return cls(text, index=int(text))
        if board_slice := _SLICE.fullmatch(text):
            return cls(text, index=int(board_slice[1]), mig=True)
        if old := _OLD_MIG.fullmatch(text):
            return cls(text, uuid_prefix=old[1], mig=True)
        if text.startswith("MIG-"):
            return cls(text, mig_uuid=text, mig=True)
        if text.startswith("GPU-") and len(text) > len("GPU-"):
            return cls(text, uuid_prefix=text)
        return cls(text)

    def find(self, uuids: Sequence[str | None]) -> str | None:
        """Return the one UUID it names among those of the boards in order (None = unreadable)."""
        if self.index is not None:
            return uuids[self.index] if self.index < len(uuids) else None
        if self.uuid_prefix is None:
            return None
        matches = {uuid for uuid in uuids if uuid and uuid.startswith(self.uuid_prefix)}
        return matches.pop() if len(matches) == 1 else None


class GpuSelection:
    """The GPUs a job may use (None = all). Names resolve once: indexes shift when one is lost."""

    def __init__(self, selected: Sequence[str] | None) -> None:
        self._selectors = None if selected is None else [Selector.parse(name) for name in selected]
        self._resolved: dict[str, str] = {}

    @property
    def unresolved(self) -> tuple[str, ...]:
        """The names no GPU was found for."""
        return tuple(
            selector.text
            for selector in self._selectors or ()
            if selector.text not in self._resolved
        )

    def wanted(
        self, uuids: Sequence[str | None], uuid_of_mig_board: Callable[[str], str | None]
    ) -> dict[str, bool]:
        """UUIDs of the selected boards, and whether each was selected by one of its MIG slices."""
        if self._selectors is None:
            return {uuid: False for uuid in uuids if uuid is not None}
        wanted: dict[str, bool] = {}
        for selector in self._selectors:
            uuid = self._resolved.get(selector.text)
            if uuid is None and selector.mig_uuid is not None:
                uuid = uuid_of_mig_board(selector.mig_uuid)
            elif uuid is None:
                uuid = selector.find(uuids)
            if uuid is not None:
                self._resolved[selector.text] = uuid
                wanted[uuid] = wanted.get(uuid, False) or selector.mig
        return wanted


def named_devices(text: str | None) -> tuple[str, ...]:
    """Return the `GPU-…` and `MIG-…` UUIDs in NVIDIA_VISIBLE_DEVICES, each once.

    Nothing else in it tells whose a GPU is: images carry `all`, other ways to hand devices over set
    `void`, and indexes count another container's GPUs.
    """
    words = (word.strip() for word in (text or "").split(",")[:LARGEST_SELECTION])
    return tuple(dict.fromkeys(word for word in words if _NAMED.fullmatch(word)))


def pod_visible_devices(proc_root: Path, own_pid: int) -> str | None:
    """Return the UUIDs in NVIDIA_VISIBLE_DEVICES of the pod's processes, joined by commas.

    None unless the pod's containers share their PID namespace and an environment is readable (same
    user, or CAP_SYS_PTRACE; proc(5)) and names a device. Nothing else of an environment is kept.
    """
    if _content(proc_root / "1" / "comm").strip() != _PAUSE:
        return None
    found: dict[str, None] = {}
    for pid in _processes(proc_root, own_pid):
        for variable in _content(proc_root / pid / "environ").split(b"\0"):
            if variable.startswith(_VARIABLE):
                text = variable[len(_VARIABLE) :].decode("ascii", "replace")
                found.update(dict.fromkeys(named_devices(text)))
    return ",".join(list(found)[:LARGEST_SELECTION]) or None


def _processes(proc_root: Path, own_pid: int) -> Iterator[str]:
    try:
        names = [path.name for path in proc_root.iterdir()]
    except OSError:
        return
    pids = [name for name in names if name.isascii() and name.isdigit()]
    yield from (pid for pid in pids[:_PROCESSES_MAX] if int(pid) not in (1, own_pid))


def _content(path: Path) -> bytes:
    with suppress(OSError):  # the process is gone, or not ours to look into
        return read_bounded(path, _ENVIRONMENT_BYTES_MAX)[0]
    return b""
