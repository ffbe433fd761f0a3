"""What the library of a GPU vendor must offer, and the one error that its calls raise."""

from typing import NewType, Protocol

BoardHandle = NewType("BoardHandle", object)


class GpuCallError(Exception):
    """A call of a vendor's library failed; the text is one line."""

    @property
    def library_missing(self) -> bool:
        """There is no such library here, and none will come."""
        return False

    @property
    def session_ended(self) -> bool:
        """The driver went away or came back: everything must be opened anew."""
        return False

    @property
    def board_lost(self) -> bool:
        """The GPU asked is gone or waits for a reset; others are not touched."""
        return False

    @property
    def refused(self) -> bool:
        """The GPU, driver or permission does not offer the call; asking again is no use."""
        return False


class GpuLibrary(Protocol):
    """An opened library of a vendor. Every call may raise GpuCallError."""

    def close(self) -> None:
        """Shut down."""

    def boards(self) -> int:
        """How many GPUs this process may see."""
        ...

    def board(self, index: int) -> BoardHandle:
        """Return the GPU at an index."""
        ...

    def uuid_of_mig_board(self, mig_uuid: str) -> str | None:
        """UUID of the GPU that a MIG device is a slice of; None where there is no such device."""
        ...

    def uuid(self, board: BoardHandle) -> str:
        """Return what names the GPU for ever."""
        ...

    def model(self, board: BoardHandle) -> str:
        """Return the name of the product."""
        ...

    def energy_mj(self, board: BoardHandle) -> int:
        """Millijoules of the whole board since the driver was loaded."""
        ...

    def power_w(self, board: BoardHandle) -> float:
        """Power of the whole board now."""
        ...

    def utilization(self, board: BoardHandle) -> float:
        """Part (0..1) of the last sample period in which something ran."""
        ...

    def enforced_power_limit_w(self, board: BoardHandle) -> float:
        """Return the lowest of all power limits that hold now."""
        ...

    def managed_power_limit_w(self, board: BoardHandle) -> float:
        """Return the power limit that an administrator set."""
        ...

    def is_mig(self, board: BoardHandle) -> bool:
        """Whether the GPU is divided into MIG devices now."""
        ...

    def is_virtual(self, board: BoardHandle) -> bool:
        """Whether this is a part of a card, given to a virtual machine."""
        ...
