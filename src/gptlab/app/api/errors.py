"""Answer mistakes as OpenAI's API does: a status, and an object that names the field."""

from __future__ import annotations

from typing import Any

from starlette.responses import JSONResponse, Response

from gptlab.errors import printable


class ApiError(Exception):
    """A request that is not answered. `param` names the field that is wrong."""

    def __init__(self, status: int, message: str, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.param, self.code = status, param, code

    def record(self) -> dict[str, Any]:
        """Return the error as JSON has it."""
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        return {"error": {"message": printable(str(self)), "type": kind, "param": self.param, "code": self.code}}

    def response(self) -> Response:
        """Return the error as an answer."""
        return JSONResponse(self.record(), self.status)


def refused(message: str, status: int) -> Response:
    """Return the answer to a request that the server's guard does not let in; without the token it is 401."""
    if status == 403:
        return ApiError(401, "Incorrect API key: give the token that was printed", None, "invalid_api_key").response()
    return ApiError(status, message).response()
