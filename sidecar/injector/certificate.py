"""When the certificate that is served expires."""

import ssl
import time
from pathlib import Path
from typing import Final

from cryptography import x509

_MAX_BYTES: Final = 1024**2


class Certificate:
    """Follows a pair of PEM files; like the server, it stays with what fitted last."""

    def __init__(self, path: Path, key: Path) -> None:
        self._path = path
        self._key = key
        self._expiry_s: float | None = None

    def expiry_s(self) -> float | None:
        """Return the Unix time from which on callers refuse it; None before one could be read."""
        try:
            content = self._path.read_bytes()[:_MAX_BYTES]
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(
                self._path, self._key, password=b""
            )
            served = x509.load_pem_x509_certificates(content)[0]
        except (OSError, ValueError):
            return self._expiry_s
        self._expiry_s = served.not_valid_after_utc.timestamp()
        return self._expiry_s

    def obstacle(self) -> str | None:
        """Return why callers refuse it; None where they do not."""
        expiry_s = self.expiry_s()
        if expiry_s is None or expiry_s > time.time():
            return None
        moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(expiry_s))
        return f"the certificate {self._path} expired at {moment}; renew it"
