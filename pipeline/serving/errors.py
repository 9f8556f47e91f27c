"""Turn exceptions into OpenAI-style error responses: a status code and ``{"error": {"message", "type", "param",
"code"}}``."""

from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from pipeline.serving.engine import EngineError, QueueFullError, RequestTimeoutError
from utils.errors import PipelineError


class ErrorDetail(BaseModel):
    message: str
    type: str
    param: str | None
    code: str | None


class ErrorResponse(BaseModel):
    error: ErrorDetail


class ApiError(Exception):
    """A request that cannot be answered, with its status code."""

    def __init__(self, status: int, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.param = param
        self.code = code


DOCUMENTED_ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorResponse, "description": text}
    for status, text in {
        400: "the request is invalid; `param` names the field",
        401: "the API key is missing or wrong",
        403: "the request is for a host that this server does not accept (server.allowed_hosts)",
        404: "unknown model",
        408: "the body took longer than server.body_timeout seconds to arrive",
        413: "the body is larger than server.max_body_bytes",
        429: "server.max_waiting answers are already waiting; try again after Retry-After seconds",
        500: "the model failed",
        504: "the answer took longer than server.request_timeout seconds",
    }.items()
}


def as_api_error(error: Exception) -> ApiError:
    """`error` with its status code."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, RequestValidationError):
        return _of_validation(error)
    if isinstance(error, HTTPException):
        return ApiError(error.status_code, str(error.detail))
    if isinstance(error, QueueFullError):
        return ApiError(429, "too many requests are waiting; try again in a moment", code="queue_full")
    if isinstance(error, RequestTimeoutError):
        return ApiError(504, "the answer took longer than this server allows", code="timeout")
    if isinstance(error, PipelineError):
        return ApiError(400, str(error))
    if isinstance(error, EngineError):
        return ApiError(500, f"the model failed: {error}", code="engine_error")
    return ApiError(500, "internal server error; see the server's log", code="internal_error")


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


def add_error_handlers(app: FastAPI) -> None:
    """Make `app` send every error in OpenAI's format."""
    handled = (ApiError, QueueFullError, RequestTimeoutError, EngineError, PipelineError, RequestValidationError)
    for kind in (*handled, HTTPException, Exception):
        app.add_exception_handler(kind, _answer_error)


async def _answer_error(request: Request, error: Exception) -> JSONResponse:
    response = error_response(as_api_error(error))
    if isinstance(error, HTTPException):
        response.headers.update(error.headers or {})
    return response


def _of_validation(error: RequestValidationError) -> ApiError:
    """The first validation error, with the name of its field."""
    first = error.errors()[0]
    # In a union every member reports an error; the first part of the location is the field name.
    where = [str(part) for part in first["loc"] if part != "body"]
    field = one_line(where[0], longest=100) if where else None
    message = first["msg"]
    if first["type"] == "extra_forbidden":
        message = "this field is not supported"
    return ApiError(400, f"{field}: {message}" if field else message, param=field)
