"""A live view on a terminal of what `run` has metered so far. Needs rich; without it, nothing."""

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from sidecar.agent import Agent
from sidecar.exporters.summary import Totals, totals_text

if TYPE_CHECKING:
    from rich.table import Table


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


def steps_shown() -> Callable[[str, int, int], None]:
    """Return what shows steps of a long work in one line, renewed, where a person watches."""
    if not sys.stderr.isatty():
        return lambda _step, _done, _of: None

    def show(step: str, done: int, of: int) -> None:
        is_last = done >= of
        with contextlib.suppress(OSError):
            sys.stderr.write(f"\r\033[K{'' if is_last else f'{step}: {done} of {of}'}")
            sys.stderr.flush()

    return show
