"""Turn exceptions into OpenAI-style error responses: a status code and ``{"error": {"message", "type", "param",
"code"}}``."""

from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from pipeline.generation.settings import ContextLengthError
from pipeline.serving.engine import EngineError, QueueFullError, RequestTimeoutError
from pipeline.web.errors import ApiError, error_body, error_response, one_line
from utils.errors import PipelineError

__all__ = ["ApiError", "error_body", "error_response", "one_line"]  # shared with other pages


class ErrorDetail(BaseModel):
    message: str
    type: str
    param: str | None
    code: str | None


class ErrorResponse(BaseModel):
    error: ErrorDetail


DOCUMENTED_ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorResponse, "description": text}
    for status, text in {
        400: "the request is invalid; `param` names the field",
        401: "the API key is missing or wrong",
        403: "the request is for a host that this server does not accept (server.allowed_hosts)",
        404: "unknown model",
        408: "the body took longer than server.body_timeout seconds to arrive",
        415: "the Content-Type is not application/json",
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
    if isinstance(error, ContextLengthError):
        return ApiError(400, str(error), code="context_length_exceeded")
    if isinstance(error, PipelineError):
        return ApiError(400, str(error))
    if isinstance(error, EngineError):
        return ApiError(500, f"the model failed: {error}", code="engine_error")
    return ApiError(500, "internal server error; see the server's log", code="internal_error")


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
    field = first.get("ctx", {}).get("field", field)  # validators of several fields name the one at fault
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        message = "this field is not supported"
    return ApiError(400, f"{field}: {message}" if field else message, param=field)
