"""Live views on a terminal, with rich: what `run` has metered so far, how far a report is."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final, TextIO

from sidecar.agent import Agent
from sidecar.exporters.summary import Totals, totals_text

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

Step = Callable[[str, int, int], None]
"""Told the name of a step, what of it is done, and of how much."""


@contextlib.contextmanager
def progress_shown(agent: Agent) -> Iterator[None]:
    """Show the running totals, renewed at each window, when standard error is a terminal."""
    if not sys.stderr.isatty():
        yield
        return
    try:
        from rich.console import Console  # noqa: PLC0415 - only where a person watches
        from rich.live import Live  # noqa: PLC0415
    except ImportError:
        yield
        return
    live = Live("metering the first window …", console=Console(stderr=True), auto_refresh=False)

    def show(totals: Totals) -> None:
        with contextlib.suppress(OSError):  # the terminal was closed; metering goes on
            live.update(_table(totals), refresh=True)

    with contextlib.suppress(OSError):
        live.start(refresh=True)
    agent.watch(show)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            live.stop()


def _table(totals: Totals) -> "Table":
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    record = totals.merged
    # A project name is pod input: no markup.
    table = Table(title=Text(totals_text(totals)), title_justify="left")
    for heading in ("", "Wh"):
        table.add_column(heading, justify="right" if heading else "left")
    energies = {
        "CPU": record.cpu_energy_kwh,
        "RAM": record.ram_energy_kwh,
        "GPU": record.gpu_energy_kwh,
        "whole node": record.node_energy_kwh,
    }
    for name, energy_kwh in energies.items():
        if energy_kwh is not None:
            table.add_row(name, f"{energy_kwh * 1000:.4g}")
    return table


@contextlib.contextmanager
def steps_shown(console: "Console | None" = None) -> Iterator[Step]:
    """Yield what is told the steps of a long work: a bar where a person watches, else lines."""
    from rich.console import Console  # noqa: PLC0415 - the extra may be missing

    shown_on = console or Console(stderr=True)
    if not shown_on.is_terminal:
        yield lines_shown(sys.stderr)
        return
    bar = _Bar(shown_on)
    try:
        yield bar.show
    finally:
        bar.stop()


class _Bar:
    """One bar, for the step that is under way. A terminal that was closed ends nothing."""

    def __init__(self, console: "Console") -> None:
        from rich import progress  # noqa: PLC0415

        self._progress = progress.Progress(
            progress.TextColumn("{task.description}"),
            progress.BarColumn(),
            progress.TextColumn("{task.completed:,.0f} of {task.total:,.0f}"),
            progress.TimeElapsedColumn(),
            progress.TimeRemainingColumn(),
            console=console,
            transient=True,
        )
        self._tasks: dict[str, progress.TaskID] = {}
        self._is_open = True

    def show(self, step: str, done: int, of: int) -> None:
        """Renew the bar of a step; one that follows another takes its place."""
        if not self._is_open:
            return
        try:
            if not self._tasks:
                self._progress.start()
            for name, task in self._tasks.items():
                self._progress.update(task, visible=name == step)
            if step not in self._tasks:
                self._tasks[step] = self._progress.add_task(step, total=of)
            self._progress.update(self._tasks[step], completed=done, total=of)
        except OSError:
            self._is_open = False

    def stop(self) -> None:
        """Take the bar off the terminal."""
        with contextlib.suppress(OSError):
            self._progress.stop()


EVERY_S: Final = 30.0
"""A log is told of work that takes longer, and then as often."""


def lines_shown(stream: TextIO, clock: Callable[[], float] = time.monotonic) -> Step:
    """Return what writes now and then how far a step is."""
    began: dict[str, float] = {}
    last_s: dict[str, float] = {}

    def show(step: str, done: int, of: int) -> None:
        now_s = clock()
        start_s = began.setdefault(step, now_s)
        took_s = now_s - start_s
        is_last = done >= of
        is_due = now_s - last_s.get(step, start_s) >= EVERY_S
        if not (is_due or (is_last and took_s >= EVERY_S)):
            return
        last_s[step] = now_s
        rest = (
            f"in {_minutes(took_s)}"
            if is_last
            else f"{_minutes(took_s)} so far, about {_minutes(took_s / done * (of - done))} to go"
        )
        with contextlib.suppress(OSError):
            stream.write(f"{step}: {done:,} of {of:,}, {rest}\n")
            stream.flush()

    return show


def _minutes(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes}:{rest:02d}"
