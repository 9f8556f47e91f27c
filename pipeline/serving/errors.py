"""Errors in OpenAI's shape: ``{"error": {"message", "type", "param", "code"}}``, each with its status code."""

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
        self.status, self.param, self.code = status, param, code


DOCUMENTED_ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorResponse, "description": text}
    for status, text in {
        400: "the request does not fit; `param` names the field",
        401: "no API key, or a wrong one",
        403: "sent to a host that is not one of this server's (server.allowed_hosts)",
        404: "no such model",
        408: "the body took longer than server.body_timeout seconds to arrive",
        413: "the body is larger than server.max_body_bytes",
        429: "as many requests wait as server.max_waiting allows; try again after Retry-After seconds",
        500: "the model failed",
        504: "longer than server.request_timeout seconds",
    }.items()
}


def as_api_error(error: Exception) -> ApiError:
    """What went wrong, with the status code that it stands for."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, QueueFullError):
        return ApiError(429, "too many requests are waiting; try again in a moment", code="queue_full")
    if isinstance(error, RequestTimeoutError):
        return ApiError(504, "the answer took longer than this server allows a request", code="timeout")
    if isinstance(error, PipelineError):
        return ApiError(400, str(error))
    if isinstance(error, EngineError):
        return ApiError(500, f"the model failed: {error}", code="engine_error")
    return ApiError(500, "the server failed; its log says more", code="internal_error")


def error_body(error: ApiError) -> dict[str, Any]:
    kinds = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}
    kind = kinds.get(error.status, "server_error" if error.status >= 500 else "invalid_request_error")
    param = None if error.param is None else one_line(error.param, longest=100)
    return {"error": {"message": one_line(str(error)), "type": kind, "param": param, "code": error.code}}


def one_line(text: str, *, longest: int = 1000) -> str:
    """`text` as it can be shown anywhere: it may quote line ends, escape sequences and lone surrogates of a request."""
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
    """Every error of the app leaves in OpenAI's shape."""

    async def known(request: Request, error: Exception) -> JSONResponse:
        return error_response(as_api_error(error))

    async def malformed(request: Request, error: RequestValidationError) -> JSONResponse:
        return error_response(_of_validation(error))

    async def of_http(request: Request, error: HTTPException) -> JSONResponse:
        response = error_response(ApiError(error.status_code, str(error.detail)))
        response.headers.update(error.headers or {})
        return response

    for kind in (ApiError, QueueFullError, RequestTimeoutError, EngineError, PipelineError, Exception):
        app.add_exception_handler(kind, known)
    app.add_exception_handler(RequestValidationError, malformed)
    app.add_exception_handler(HTTPException, of_http)


def _of_validation(error: RequestValidationError) -> ApiError:
    """The first thing that does not fit, by the name of its field."""
    first = error.errors()[0]
    # Of a union each member complains; the field's own name is the first part.
    where = [str(part) for part in first["loc"] if part != "body"]
    field = one_line(where[0], longest=100) if where else None
    message = first["msg"]
    if first["type"] == "extra_forbidden":
        message = "this field is not supported"
    return ApiError(400, f"{field}: {message}" if field else message, param=field)
