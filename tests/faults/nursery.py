"""Processes of `emissions-sidecar` that start at once: forked from one that has loaded everything.

A kill in the first tenth of a second then meets a process that works, not one that imports. Its memory,
descriptors, threads and death are its own, as of any process.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.e2e.commands import ROOT, environment

_PROGRAM = """
import json, os, sys
import sidecar.cli.run, sidecar.transport.blob, sidecar.transport.blob_container
from sidecar.cli.main import main

for line in sys.stdin:
    asked = json.loads(line)
    pid = os.fork()
    if pid == 0:
        os.environ.update(asked["env"])
        nothing = os.open(os.devnull, os.O_RDWR)
        log = os.open(asked["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        for descriptor, number in ((nothing, 0), (nothing, 1), (log, 2)):
            os.dup2(descriptor, number)
        os._exit(main(asked["arguments"]))
    print(pid, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""


class Nursery:
    """Starts one process after the other, as a context manager."""

    def __init__(self) -> None:
        self._pid: int | None = None
        self._process = subprocess.Popen(
            [sys.executable, "-c", _PROGRAM],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env=environment(),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._pid is not None:
            os.kill(self._pid, signal.SIGKILL)
        self._process.communicate(timeout=60)

    def start(self, *arguments: str | Path, env: Mapping[str, str], log: Path) -> int:
        """Start a command; returns its pid, which is its own until `ended`."""
        asked = {"arguments": list(map(str, arguments)), "env": dict(env), "log": str(log)}
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()
        self._pid = self._number()
        return self._pid

    def ended(self) -> int:
        """Wait for the end; returns the exit code, or minus the number of the signal."""
        code = self._number()
        self._pid = None
        return code

    def _number(self) -> int:
        assert self._process.stdout is not None
        return int(self._process.stdout.readline())
