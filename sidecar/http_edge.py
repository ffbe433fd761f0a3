"""What the services share where requests come in: bodies read within bounds, errors told in JSON."""

import asyncio
import contextlib
import math

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response


class BodyFault(Exception):  # noqa: N818 - what is wrong with a request
    """A body that is not read to its end: 413 too long, 408 too slow, 400 cut off; `received` bytes."""

    def __init__(self, status: int, received: int) -> None:
        super().__init__(f"status {status} after {received} bytes")
        self.status = status
        self.received = received


class LargeBodies:
    """Room for few bodies of more than `from_bytes` at a time; more of them wait to be read on.

    However many come at once, they do not fill the memory, and small bodies pass them.
    """

    def __init__(self, at_once: int, from_bytes: int) -> None:
        self.from_bytes = from_bytes
        self._room = asyncio.Semaphore(at_once)

    async def enter(self, leaving: contextlib.AsyncExitStack) -> None:
        """Wait for room, and keep it until the stack is left."""
        await leaving.enter_async_context(self._room)


async def bounded_body(
    request: Request, limit_bytes: int, within_s: float, large: LargeBodies | None = None
) -> bytes:
    """Read a body of at most so many bytes within so many seconds. Raises BodyFault."""
    declared = request.headers.get("content-length", "0")
    if declared.isdecimal() and int(declared[:20]) > limit_bytes:
        raise BodyFault(413, 0)
    content = bytearray()
    waits_from = math.inf if large is None else large.from_bytes
    try:
        async with asyncio.timeout(within_s), contextlib.AsyncExitStack() as leaving:
            async for piece in request.stream():
                content += piece
                if len(content) > limit_bytes:
                    raise BodyFault(413, len(content))
                if large is not None and len(content) > waits_from:
                    await large.enter(leaving)
                    waits_from = math.inf
    except TimeoutError:
        raise BodyFault(408, len(content)) from None
    except ClientDisconnect:
        raise BodyFault(400, len(content)) from None
    return bytes(content)


def http_error_answer(error: Exception, detail: str) -> Response:
    """Answer 404 and 405 as everything else: a short code, and one line."""
    status = error.status_code if isinstance(error, HTTPException) else 500
    headers = error.headers if isinstance(error, HTTPException) else None
    code = {404: "not_found", 405: "method_not_allowed"}.get(status, "bad_request")
    return JSONResponse({"error": code, "detail": detail}, status, headers=headers)
