"""OpenAI-style error responses: a status code and ``{"error": {"message", "type", "param", "code"}}``."""

from collections.abc import Mapping

from starlette.responses import JSONResponse


class ApiError(Exception):
    """A request that cannot be answered, with its status code."""

    def __init__(self, status: int, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.param = param
        self.code = code


def error_body(error: ApiError) -> dict[str, object]:
    kinds = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}
    kind = kinds.get(error.status, "server_error" if error.status >= 500 else "invalid_request_error")
    param = None if error.param is None else one_line(error.param, longest=100)
    return {"error": {"message": one_line(str(error)), "type": kind, "param": param, "code": error.code}}


def one_line(text: str, *, longest: int = 1000) -> str:
    """`text` made safe to print: replaces line breaks, escape sequences and lone surrogates quoted from a request."""
    shown = text[: longest - 1] + "…" if len(text) > longest else text
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in shown)


def error_response(error: ApiError) -> JSONResponse:
    headers: Mapping[str, str] = {}
    if error.status == 429:
        headers = {"Retry-After": "1"}
    if error.status == 401:
        headers = {"WWW-Authenticate": "Bearer"}
    return JSONResponse(error_body(error), status_code=error.status, headers=headers)
