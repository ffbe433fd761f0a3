"""A network namespace for a pod: loopback, the address of IMDS, and nothing else."""

import contextlib
import ctypes
import os
import subprocess
import uuid
from collections.abc import Iterator
from types import TracebackType
from typing import Self

IMDS = "169.254.169.254"

_CLONE_NEWNET = 0x40000000


class Namespace:
    """The namespace, as a context manager. What is started inside stays there, sockets included."""

    def __init__(self) -> None:
        self.name = f"emissions-test-{uuid.uuid4().hex[:12]}"

    def __enter__(self) -> Self:
        _ip("netns", "add", self.name)
        _ip("-n", self.name, "link", "set", "lo", "up")
        _ip("-n", self.name, "address", "add", f"{IMDS}/32", "dev", "lo")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        _ip("netns", "delete", self.name)

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        """Take this thread into the namespace, and back; children begin where their thread is."""
        before = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        within = os.open(f"/run/netns/{self.name}", os.O_RDONLY)
        try:
            _enter(within)
            try:
                yield
            finally:
                _enter(before)
        finally:
            os.close(within)
            os.close(before)


def _enter(namespace: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(namespace, _CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), "setns")


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)
