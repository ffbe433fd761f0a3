"""Energy and utilisation of NVIDIA GPUs through NVML, across lost boards and driver reloads."""

import contextlib
import logging
import math
from collections.abc import Callable
from types import ModuleType

from sidecar.meters.condition import Condition
from sidecar.meters.gpu_board import Answers, GpuBoard
from sidecar.meters.nvml_library import (
    LIBRARY_NOT_FOUND,
    BoardHandle,
    NvmlCallError,
    NvmlLibrary,
)
from sidecar.meters.reading import GpuReading, MeterStatus
from sidecar.meters.visible_devices import GpuSelection

log = logging.getLogger(__name__)

LOOK_AGAIN_S = 30.0
"""How often lost GPUs, and selected ones that were not found, are looked for."""

LONGEST_BACKOFF_S = 60.0
MOST_BOARDS = 64


class NvmlMeter:
    """Meters the GPUs that are selected (None = all that are visible) since it was opened.

    Nothing that NVML answers raises out of here: what fails is noted in the readings and the
    status, and tried again: a GPU each 30 s, the library with a growing pause up to 60 s.
    `nvml` is the module `pynvml`, imported only where a driver is in reach. `lazy`: open at the
    first sample or reading, since a driver without persistence mode takes seconds to come up.
    """

    def __init__(
        self,
        nvml: ModuleType | None = None,
        selected: tuple[str, ...] | None = None,
        *,
        lazy: bool = False,
    ) -> None:
        self._binding = nvml
        self._selection = GpuSelection(selected)
        self._boards: dict[str, GpuBoard] = {}
        self._library: NvmlLibrary | None = None
        self._given_up = selected == ()
        self._open_after_s = -math.inf
        self._backoff_s = 1.0
        self._look_after_s = math.inf
        self._condition = Condition("nvml", log)
        self._selection_condition = Condition("gpu-selection", log)
        if self._given_up:
            self._condition.absent("no GPU is selected")
        elif not lazy:
            self._open(-math.inf)

    @property
    def needs_sampling(self) -> bool:
        """Whether `sample` should be called each second."""
        return not self._given_up and any(board.needs_sampling for board in self._boards.values())

    def sample(self, monotonic_s: float) -> None:
        """Take the samples of this second: utilisation, and power where there is no counter."""
        self._round(monotonic_s, counters=False)

    def read(self, monotonic_s: float) -> tuple[GpuReading, ...]:
        """Sample, read the counters, and return every GPU seen so far with its totals."""
        self._round(monotonic_s, counters=True)
        return tuple(board.reading() for board in self._boards.values())

    def status(self) -> tuple[MeterStatus, ...]:
        """Say how the library does, then a selection that failed, then each lost GPU."""
        states = [self._condition.status]
        if self._selection.unresolved:
            states.append(self._selection_condition.status)
        states.extend(board.status for board in self._boards.values() if not board.present)
        return tuple(states)

    def close(self) -> None:
        """Shut NVML down. Later reads return the last totals."""
        self._given_up = True
        self._shut_down("the meter is closed")

    def _round(self, now_s: float, *, counters: bool) -> None:
        opening = self._library is None
        if self._given_up or not self._is_open(now_s):
            return
        try:
            answers = self._ask_all(GpuBoard.sample, now_s)
            # One call that fails for good is not the end: the counters may still answer.
            # A session that has just been opened counts from now on, not from the next reading.
            if counters or answers.silent or opening:
                answers += self._ask_all(GpuBoard.meter, now_s)
        except NvmlCallError as error:
            self._end_session(now_s, str(error))
            return
        if answers.answered:
            self._backoff_s = 1.0
        elif answers.silent:
            self._end_session(now_s, "no GPU answers any more")

    def _ask_all(self, question: Callable[[GpuBoard, float], Answers], now_s: float) -> Answers:
        """Ask every board; raises NvmlCallError only when the whole session has ended."""
        total = Answers()
        for board in self._boards.values():
            try:
                total += question(board, now_s)
            except NvmlCallError as error:
                if not error.board_lost:
                    raise
                board.release(str(error))
                self._look_after_s = min(self._look_after_s, now_s + LOOK_AGAIN_S)
                total += Answers(asked=1, answered=1)  # by the driver
        return total

    def _is_open(self, now_s: float) -> bool:
        if self._library is None:
            return now_s >= self._open_after_s and self._open(now_s)
        return now_s < self._look_after_s or self._look(self._library, now_s)

    def _open(self, now_s: float) -> bool:
        try:
            self._library = NvmlLibrary(self._binding)
        except NvmlCallError as error:
            if error.code == LIBRARY_NOT_FOUND:
                self._given_up = True
                self._condition.absent("not found: no libnvidia-ml.so.1, so no NVIDIA driver here")
            else:
                self._retry_later(now_s, str(error))
            return False
        return self._look(self._library, now_s)

    def _look(self, library: NvmlLibrary, now_s: float) -> bool:
        """Find the selected boards; known ones keep their totals. False = the session ended."""
        try:
            visible = _visible_boards(library)
            wanted = self._selection.wanted(
                [uuid for uuid, _ in visible], library.uuid_of_mig_board
            )
            handles = {uuid: handle for uuid, handle in visible if uuid is not None}
            for uuid, selected_as_mig in wanted.items():
                self._acquire(library, uuid, handles.get(uuid), selected_as_mig=selected_as_mig)
        except NvmlCallError as error:
            self._end_session(now_s, str(error))
            return False
        missing = any(uuid is None for uuid, _ in visible) or bool(self._selection.unresolved)
        missing = missing or not all(board.present for board in self._boards.values())
        self._look_after_s = now_s + LOOK_AGAIN_S if missing else math.inf
        self._tell(len(visible))
        return True

    def _acquire(
        self, library: NvmlLibrary, uuid: str, handle: BoardHandle | None, *, selected_as_mig: bool
    ) -> None:
        board = self._boards.get(uuid)
        if board is None:
            if len(self._boards) >= MOST_BOARDS:
                return
            board = self._boards[uuid] = GpuBoard(uuid, selected_as_mig=selected_as_mig)
        if board.present:
            return
        if handle is None:
            board.release("NVML does not show it any more")
            return
        try:
            board.acquire(library, handle)
        except NvmlCallError as error:
            if not error.board_lost:
                raise
            board.release(str(error))

    def _end_session(self, now_s: float, reason: str) -> None:
        self._shut_down(reason)
        self._retry_later(now_s, reason)

    def _shut_down(self, reason: str) -> None:
        for board in self._boards.values():
            if board.present:
                board.release(reason)
        library, self._library = self._library, None
        if library is not None:
            with contextlib.suppress(NvmlCallError):  # the session may have ended by itself
                library.close()

    def _retry_later(self, now_s: float, reason: str) -> None:
        self._condition.fails(f"{reason}; trying again")
        self._open_after_s = now_s + self._backoff_s
        self._backoff_s = min(self._backoff_s * 2, LONGEST_BACKOFF_S)

    def _tell(self, visible: int) -> None:
        present = sum(board.present for board in self._boards.values())
        if visible == 0:
            self._condition.absent("NVML works and shows no GPU to this process")
        else:
            self._condition.works(f"{present} of {visible} visible GPUs metered")
        if self._selection.unresolved:
            names = ", ".join(self._selection.unresolved)
            self._selection_condition.fails(
                f"no visible GPU is called {names}: compare with `nvidia-smi -L`"
            )


def _visible_boards(library: NvmlLibrary) -> list[tuple[str | None, BoardHandle | None]]:
    """UUID and handle of each board in order; (None, None) for one that does not answer now."""
    boards: list[tuple[str | None, BoardHandle | None]] = []
    for index in range(min(library.boards(), MOST_BOARDS)):
        try:
            handle = library.board(index)
            boards.append((library.uuid(handle), handle))
        except NvmlCallError as error:
            if error.session_ended:
                raise
            boards.append((None, None))
    return boards
