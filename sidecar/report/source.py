"""What records are read from: files, in a directory or in a container of Azure Blob, and its address."""

from typing import BinaryIO, Final, Protocol

from sidecar.settings import SettingsError, parse_container

BLOB_SCHEME: Final = "az://"

REPORTS: Final = "reports/v1"
"""Below a source: where reports are written, never read."""


class SourceUnreadable(Exception):  # noqa: N818 - a state of affairs, told in its text
    """A source that cannot be read any further: one line with what to do. No total would be true."""


class RecordFile(Protocol):
    """One file of records."""

    @property
    def name(self) -> str:
        """Path relative to the source."""
        ...

    def open(self) -> BinaryIO:
        """Return its bytes as they are stored.

        Raises OSError (FileNotFoundError: it is gone since it was listed), and so does reading; where
        the whole source fails, SourceUnreadable.
        """
        ...


def blob_address(text: str) -> tuple[str, str]:
    """Return container and prefix of `az://container[/prefix]`; the prefix is a folder, or nothing.

    The prefix is taken as it is, percent signs and all. Raises SettingsError.
    """
    address, query, _ = text.removeprefix(BLOB_SCHEME).partition("?")
    if query:
        raise SettingsError(
            f"{BLOB_SCHEME}{address}?…: an address without query is wanted; a SAS is given in "
            "EMISSIONS_BLOB_SAS"
        )
    container, _, prefix = address.partition("/")
    try:
        return parse_container(container), prefix.strip("/")
    except ValueError as error:
        raise SettingsError(
            f"{text}: {error}; write it like {BLOB_SCHEME}emissions/records/v1"
        ) from error
