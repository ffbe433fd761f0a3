"""Show a report on this machine: a small web server of one directory, for `report serve`."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http import HTTPStatus
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from os import PathLike
from pathlib import Path
from typing import Any, BinaryIO, Final
from urllib.parse import unquote, urlsplit

from sidecar.bounded_http import one_line
from sidecar.status import host_name, is_loopback

_LOG: Final = logging.getLogger(__name__)

REQUEST_TIMEOUT_S: Final = 10.0
"""A browser that sends nothing for so long is let go."""

TYPES: Final = {
    ".html": "text/html; charset=utf-8",
    ".json": "application/json",
    ".ndjson": "application/x-ndjson",
    ".csv": "text/csv; charset=utf-8",
    ".parquet": "application/vnd.apache.parquet",
    ".pdf": "application/pdf",
    ".txt": "text/plain; charset=utf-8",
}
"""What a report holds; nothing else is served."""


class NoReportError(Exception):
    """There is no page to show; the text says where and what to do."""


class _Handler(SimpleHTTPRequestHandler):
    """GET and HEAD of the files of a report; everything else is not found."""

    timeout = REQUEST_TIMEOUT_S
    server_version = "emissions-sidecar"
    sys_version = ""
    protocol_version = "HTTP/1.1"

    def __init__(
        self,
        *args: Any,  # noqa: ANN401
        root: Path,
        is_local: bool,
    ) -> None:
        self._root = root
        self._is_local = is_local
        super().__init__(*args, directory=str(root))

    def send_head(self) -> BytesIO | BinaryIO | None:
        """Answer with a file of the report, or why there is none."""
        if not self._is_for_us():
            self.send_error(HTTPStatus.MISDIRECTED_REQUEST)
            return None
        if self._file() is None:
            self.send_error(HTTPStatus.NOT_FOUND)
            return None
        return super().send_head()

    def translate_path(self, path: str) -> str:
        """Return the file of a request; the base class asks for it after `send_head` has checked."""
        return str(self._file(path) or self._root / "index.html")

    def guess_type(self, path: str | PathLike[str]) -> str:
        """Return the type of a file by its ending."""
        return TYPES.get(Path(path).suffix, "application/octet-stream")

    def end_headers(self) -> None:
        """Add what keeps a report to itself."""
        self.send_header("Cache-Control", "no-cache")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Referrer-Policy", "no-referrer")
        self.send_header("X-Frame-Options", "DENY")
        super().end_headers()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002, ANN401
        """Log at debug level, on one line."""
        _LOG.debug("%s", one_line(format % args))

    def _is_for_us(self) -> bool:
        """Whether the request names this machine: a page elsewhere may rebind its name to loopback."""
        return not self._is_local or is_loopback(host_name(self.headers.get("Host", "")))

    def _file(self, path: str | None = None) -> Path | None:
        """Return the file that a request asks for; None where it is not one of the report."""
        try:
            asked = unquote(urlsplit(path or self.path).path, errors="strict")
            names = [name for name in asked.split("/") if name]
            if any(name.startswith(".") or "\\" in name or "\0" in name for name in names):
                return None
            found = self._root.joinpath(*(names or ["index.html"])).resolve()
            is_ours = found.is_relative_to(self._root) and found.is_file()
        except (OSError, ValueError):  # a name too long, or bytes that are no UTF-8
            return None
        return found if is_ours and found.suffix in TYPES else None


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:  # noqa: ARG002
        """Keep quiet about a browser that went away."""
        _LOG.debug("a request was broken off", exc_info=True)


@contextmanager
def serving(directory: Path, host: str = "127.0.0.1", port: int = 0) -> Iterator[_Server]:
    """Listen; the server's `server_address` tells the port. Raises NoReportError, OSError."""
    root = directory.resolve()
    if not (root / "index.html").is_file():
        raise NoReportError(f"{directory} has no index.html: write a report there first")
    handler = partial(_Handler, root=root, is_local=is_loopback(host))
    with _Server((host, port), handler) as server:
        yield server


def serve(directory: Path, host: str = "127.0.0.1", port: int = 0) -> None:
    """Serve a report's directory until Ctrl-C, and nothing but it. Raises NoReportError, OSError.

    On a loopback address only requests for it by such a name are answered.
    """
    with serving(directory, host, port) as server:
        address = f"[{host}]" if ":" in host else host
        print(f"http://{address}:{server.server_port}/ (Ctrl-C ends)", flush=True)  # noqa: T201
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            _LOG.debug("ended by Ctrl-C")
