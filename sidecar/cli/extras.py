"""What the services and the reports need beyond the lean half, and how they listen."""

import contextlib
import importlib.util
from collections.abc import Iterable
from typing import TYPE_CHECKING

from sidecar.settings import Settings, SettingsError

if TYPE_CHECKING:
    from sidecar.serving import TlsFiles


def require_extra(what: str, extra: str, modules: Iterable[str]) -> None:
    """Raise SettingsError, one line with what to install, where one of the modules is missing."""
    for module in modules:
        found = None
        with contextlib.suppress(ModuleNotFoundError):  # the package of a dotted name is missing
            found = importlib.util.find_spec(module)
        if found is None:
            raise SettingsError(
                f"{what} needs {module}; install the extra {extra!r}, from a clone: "
                f"pip install '.[{extra}]'"
            )


def tls_files(settings: Settings) -> "TlsFiles | None":
    """Return certificate and key to serve https with; None for http. Raises SettingsError."""
    from sidecar.serving import TlsFiles  # noqa: PLC0415 - the extra may be missing

    if settings.tls_cert is None and settings.tls_key is None:
        return None
    if settings.tls_cert is None or settings.tls_key is None:
        raise SettingsError("tls_cert and tls_key belong together; give both, or neither")
    return TlsFiles(settings.tls_cert, settings.tls_key)
