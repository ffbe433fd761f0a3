"""Why a request is refused: one exception, and the JSON form that the collector has, too."""

import json
from typing import Final

from sidecar.bounded_http import one_line
from sidecar.status import Answer

JSON: Final = "application/json"


class Refusal(Exception):  # noqa: N818 - an answer, not an error of ours
    """A request that is not granted: HTTP status, a short code for programs, one line for people."""

    def __init__(self, status: int, code: str, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code
        self.detail = detail

    def answer(self) -> Answer:
        """Return the refusal as the caller gets it."""
        body = json.dumps({"error": self.code, "detail": one_line(self.detail)})
        return Answer(self.status, body.encode(), JSON)
