"""Energy and utilisation of GPUs through a vendor's library, across lost boards and reloads."""

import contextlib
import logging
import math
from collections.abc import Callable
from dataclasses import dataclass

from sidecar.meters.condition import Condition
from sidecar.meters.gpu_board import Answers, GpuBoard
from sidecar.meters.gpu_library import BoardHandle, GpuCallError, GpuLibrary
from sidecar.meters.reading import GpuReading, MeterStatus
from sidecar.meters.visible_devices import GpuSelection

log = logging.getLogger(__name__)

LOOK_AGAIN_S = 30.0
"""How often lost GPUs, and selected ones that were not found, are looked for."""

LONGEST_BACKOFF_S = 60.0
MOST_BOARDS = 64


@dataclass(frozen=True, slots=True)
class Vendor:
    """How the GPUs of a vendor are reached, and what messages call it.

    `open_library` loads and initialises, or raises GpuCallError; `absent` says what it means that
    there is no library, and `listing` is the command that lists the GPUs.
    """

    name: str
    title: str
    listing: str
    absent: str
    open_library: Callable[[], GpuLibrary]


class BoardMeter:
    """Meters the GPUs that are selected (None = all that are visible) since it was opened.

    Nothing that the library answers raises out of here: what fails is noted in the readings and the
    status, and tried again: a GPU each 30 s, the library with a growing pause up to 60 s. `lazy`:
    open at the first sample or reading, since a driver without persistence mode takes seconds to
    come up.
    """

    def __init__(
        self, vendor: Vendor, selected: tuple[str, ...] | None = None, *, lazy: bool = False
    ) -> None:
        self._vendor = vendor
        self._selection = GpuSelection(selected)
        self._boards: dict[str, GpuBoard] = {}
        self._library: GpuLibrary | None = None
        self._given_up = selected == ()
        self._open_after_s = -math.inf
        self._backoff_s = 1.0
        self._look_after_s = math.inf
        self._condition = Condition(vendor.name, log)
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
        """Shut the library down. Later reads return the last totals."""
        self._given_up = True
        self._shut_down("the meter is closed")

    def _round(self, now_s: float, *, counters: bool) -> None:
        opening = self._library is None
        if self._given_up or not self._is_open(now_s):
            return
        try:
            self._attend(now_s)
            answers = self._ask_all(GpuBoard.sample, now_s)
            # One call that fails for good is not the end: the counters may still answer.
            # A session that has just been opened counts from now on, not from the next reading.
            if counters or answers.silent or opening:
                answers += self._ask_all(GpuBoard.meter, now_s)
        except GpuCallError as error:
            self._end_session(now_s, str(error))
            return
        if answers.answered:
            self._backoff_s = 1.0
        elif answers.silent:
            self._end_session(now_s, "no GPU answers any more")

    def _attend(self, now_s: float) -> None:
        """Find out what is special to the vendor; raises GpuCallError when the session has ended."""

    @property
    def _present(self) -> tuple[GpuBoard, ...]:
        return tuple(board for board in self._boards.values() if board.present)

    def _ask_all(self, question: Callable[[GpuBoard, float], Answers], now_s: float) -> Answers:
        """Ask every board; raises GpuCallError only when the whole session has ended."""
        total = Answers()
        for board in self._boards.values():
            try:
                total += question(board, now_s)
            except GpuCallError as error:
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
            self._library = self._vendor.open_library()
        except GpuCallError as error:
            if error.library_missing:
                self._given_up = True
                self._condition.absent(self._vendor.absent)
            else:
                self._retry_later(now_s, str(error))
            return False
        return self._look(self._library, now_s)

    def _look(self, library: GpuLibrary, now_s: float) -> bool:
        """Find the selected boards; known ones keep their totals. False = the session ended."""
        try:
            visible = _visible_boards(library)
            wanted = self._selection.wanted(
                [uuid for uuid, _ in visible], library.uuid_of_mig_board
            )
            handles = {uuid: handle for uuid, handle in visible if uuid is not None}
            for uuid, selected_as_mig in wanted.items():
                self._acquire(library, uuid, handles.get(uuid), selected_as_mig=selected_as_mig)
        except GpuCallError as error:
            self._end_session(now_s, str(error))
            return False
        missing = any(uuid is None for uuid, _ in visible) or bool(self._selection.unresolved)
        missing = missing or not all(board.present for board in self._boards.values())
        self._look_after_s = now_s + LOOK_AGAIN_S if missing else math.inf
        self._tell(len(visible))
        return True

    def _acquire(
        self, library: GpuLibrary, uuid: str, handle: BoardHandle | None, *, selected_as_mig: bool
    ) -> None:
        board = self._boards.get(uuid)
        if board is None:
            if len(self._boards) >= MOST_BOARDS:
                return
            board = GpuBoard(uuid, selected_as_mig=selected_as_mig, meter=self._vendor.name)
            self._boards[uuid] = board
        if board.present:
            return
        if handle is None:
            board.release(f"{self._vendor.title} does not show it any more")
            return
        try:
            board.acquire(library, handle)
        except GpuCallError as error:
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
            with contextlib.suppress(GpuCallError):  # the session may have ended by itself
                library.close()

    def _retry_later(self, now_s: float, reason: str) -> None:
        self._condition.fails(f"{reason}; trying again")
        self._open_after_s = now_s + self._backoff_s
        self._backoff_s = min(self._backoff_s * 2, LONGEST_BACKOFF_S)

    def _tell(self, visible: int) -> None:
        if visible == 0:
            self._condition.absent(f"{self._vendor.title} works and shows no GPU to this process")
        else:
            self._condition.works(f"{len(self._present)} of {visible} visible GPUs metered")
        if self._selection.unresolved:
            names = ", ".join(self._selection.unresolved)
            self._selection_condition.fails(
                f"no visible GPU is called {names}: compare with `{self._vendor.listing}`"
            )


def _visible_boards(library: GpuLibrary) -> list[tuple[str | None, BoardHandle | None]]:
    """UUID and handle of each board in order; (None, None) for one that does not answer now."""
    boards: list[tuple[str | None, BoardHandle | None]] = []
    for index in range(min(library.boards(), MOST_BOARDS)):
        try:
            handle = library.board(index)
            boards.append((library.uuid(handle), handle))
        except GpuCallError as error:
            if error.session_ended:
                raise
            boards.append((None, None))
    return boards
