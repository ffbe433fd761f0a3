"""Why a request is refused: one exception, one JSON form."""

from typing import Final

from starlette.responses import JSONResponse

TEXT_CHARACTERS_MAX: Final = 400
_VALUE_CHARACTERS_MAX: Final = 80


class Refusal(Exception):  # noqa: N818 - an answer, not an error of ours
    """A request that is not granted: HTTP status, a short code for programs, one line for people.

    `retry_after_s`: whole seconds after which it is worth coming again, where it is.
    """

    def __init__(
        self, status: int, code: str, detail: str, *, retry_after_s: int | None = None
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code
        self.detail = detail
        self.retry_after_s = retry_after_s

    def answer(self) -> JSONResponse:
        """Return the refusal as the caller gets it."""
        detail = " ".join(self.detail.split())
        if len(detail) > TEXT_CHARACTERS_MAX:
            detail = f"{detail[:TEXT_CHARACTERS_MAX]}…"
        headers = {} if self.retry_after_s is None else {"Retry-After": str(self.retry_after_s)}
        return JSONResponse({"error": self.code, "detail": detail}, self.status, headers=headers)


def shown(value: object) -> str:
    """Return a value of the caller's as an error text may show it: quoted, and not too long."""
    text = str(value)
    cut = f"{text[:_VALUE_CHARACTERS_MAX]}…" if len(text) > _VALUE_CHARACTERS_MAX else text
    return ascii(cut)
