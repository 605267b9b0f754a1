"""Errors as HTTP responses: a status, a body with four keys, headers. The one translation of our error tree. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ...errors import (
    EngineClosedError,
    EngineDiedError,
    GlmEdgeError,
    LoadingError,
    OverloadedError,
    RateLimitError,
    RepeatedCrashError,
    RequestError,
)
from .responses import ErrorBody

# code -> status; a RequestError with another code is 400.
_STATUS = {
    "invalid_api_key": 401,
    "host_not_allowed": 403,
    "origin_not_allowed": 403,
    "model_not_found": 404,
    "unknown_url": 404,
    "method_not_allowed": 405,
    "request_too_large": 413,
    "unsupported_content_type": 415,
    "headers_too_large": 431,
    "not_implemented": 501,
}
_LONGEST_RETRY = 60  # seconds; OpenAI's clients ignore more, and come again at once
_RETRY_CLOSED = 5  # seconds until a restarted server is worth another try


@dataclass(frozen=True)
class ErrorResponse:
    """An error as an HTTP response."""

    status: int
    body: ErrorBody
    headers: tuple[tuple[str, str], ...] = ()


def error_response(error: BaseException, request_id: str) -> ErrorResponse:
    """What the client gets for an error.

    Only errors of our tree explain themselves. Of all others, and of what happened inside the engine, the client learns
    the request's id, under which the log has more.
    """
    if isinstance(error, RequestError):
        status = _STATUS.get(error.code or "", 400)
        headers = (("WWW-Authenticate", "Bearer"),) if status == 401 else ()
        return ErrorResponse(status, _body(str(error), "invalid_request_error", error.param, error.code), headers)
    if isinstance(error, RateLimitError):
        body = _body(str(error), "rate_limit_error", code="rate_limit_exceeded")
        return ErrorResponse(429, body, _retry_after(error.retry_after))
    if isinstance(error, OverloadedError):
        return _unavailable(str(error), "server_is_overloaded", error.retry_after)
    if isinstance(error, LoadingError):
        return _unavailable(str(error), "model_loading", error.retry_after)
    if isinstance(error, EngineClosedError):
        return _unavailable("the server is shutting down", "shutting_down", _RETRY_CLOSED)
    if isinstance(error, EngineDiedError):
        message = f"the engine died during this request and is being restarted; send it again ({request_id})"
        return ErrorResponse(500, _body(message, "server_error", code="engine_died"))
    if isinstance(error, RepeatedCrashError):
        return ErrorResponse(
            500, _body(str(error), "server_error", code="engine_crash"), (("x-should-retry", "false"),)
        )
    problem = "the engine failed" if isinstance(error, GlmEdgeError) else "the server failed"
    return ErrorResponse(500, _body(f"{problem} on this request; the log has more under {request_id}", "server_error"))


def _unavailable(message: str, code: str, retry_after: float) -> ErrorResponse:
    return ErrorResponse(503, _body(message, "server_error", code=code), _retry_after(retry_after))


def _retry_after(seconds: float) -> tuple[tuple[str, str], ...]:
    return (("Retry-After", str(min(_LONGEST_RETRY, max(1, math.ceil(seconds))))),)


def _body(message: str, kind: str, param: str | None = None, code: str | None = None) -> ErrorBody:
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}
