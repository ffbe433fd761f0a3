"""The service account token that a request carries, as services take it before it is reviewed."""

import re
from typing import Final

TOKEN_CHARACTERS_MAX: Final = 8192

_TOKEN: Final = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+", re.ASCII)
"""Three parts of base64url, as RFC 7519 writes a signed token."""


class NoBearerTokenError(ValueError):
    """A request without anything that can be a token; the text says what to send."""


def bearer_token(authorization: str | None) -> str:
    """Return the token of an Authorization header. Raises NoBearerTokenError where none can be one."""
    scheme, _, token = (authorization or "").partition(" ")
    token = token.strip()
    if scheme.lower() != "bearer" or not token:
        raise NoBearerTokenError("send 'Authorization: Bearer <service account token>'")
    if len(token) > TOKEN_CHARACTERS_MAX or not _TOKEN.fullmatch(token):
        raise NoBearerTokenError(
            f"{len(token)} characters that are no service account token; send the projected one"
        )
    return token
