"""The wire format: JSON to our types and back, errors to HTTP statuses. Pure: no server, no clock, no global state.

The contract is OpenAI's chat completions plus `history` (a conversation that goes before `messages`). Which field
takes which values stands in `fields.py`; strict parsing of bytes in `strict_json.py`.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

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
from ...generation import Progress
from ...types import Message, ModelInfo, Request, SamplingParams, Stats, TokenLogprob
from . import strict_json
from .checks import fail, show, table
from .fields import CHAT

DEFAULT_TEMPERATURE = 1.0  # the contract's; the model's own is in SamplingParams

LEAST_LOGPROB = -9999.0  # how the contract writes what is hardly possible; JSON has no infinity

DONE = b"data: [DONE]\n\n"
PING = b": ping\n\n"  # a comment: every reader of event streams skips it, and the ones of `comment`


@dataclass(frozen=True)
class ChatCall:
    """A checked request for a chat completion."""

    request: Request
    model: str | None  # as the client named it
    stream: bool = False
    include_usage: bool = False  # an event with the counts at the end of a stream


@dataclass(frozen=True)
class Head:
    """What all events of one answer share."""

    id: str
    created: int  # seconds since 1970
    model: str
    include_usage: bool = False
    logprobs: bool = False
    trim: bool = False  # whether old rounds may have been left out


@dataclass(frozen=True)
class Choice:
    """One whole answer."""

    text: str
    finish_reason: str
    stats: Stats
    logprobs: Sequence[TokenLogprob] = ()


@dataclass(frozen=True)
class Failure:
    """An error as HTTP says it."""

    status: int
    body: dict[str, Any]
    headers: tuple[tuple[str, str], ...] = ()


def parse_chat(body: Any) -> ChatCall:
    """Check a chat completion's body, field by field; the first fault found is raised as RequestError."""
    if not isinstance(body, dict):
        raise RequestError("the body must be a JSON object")
    fields = table(CHAT, required=("messages",))(body, "")
    stream = fields.get("stream", False)
    if "stream_options" in fields and not stream:
        raise fail("stream_options", "invalid_value", "is only allowed with stream: true")
    request = Request(
        messages=_conversation(fields),
        sampling=sampling(fields),
        max_tokens=_max_tokens(fields),
        stop=fields.get("stop", ()),
        n=fields.get("n", 1),
    )
    usage = fields.get("stream_options", {}).get("include_usage", False)
    return ChatCall(request, fields.get("model"), stream, usage)


def _conversation(fields: dict[str, Any]) -> tuple[Message, ...]:
    messages: tuple[Message, ...] = fields["messages"]
    last = len(messages) - 1
    if messages[last].role != "user":
        raise fail(
            f"messages[{last}].role",
            "invalid_value",
            f"the last message must be the user's, not {show(messages[last].role)}",
        )
    history: tuple[Message, ...] = fields.get("history", ())
    return history + messages


_SAMPLING = (
    "top_p",
    "seed",
    "top_k",
    "min_p",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
    "logit_bias",
    "response_format",
    "logprobs",
    "top_logprobs",
)


def sampling(fields: dict[str, Any]) -> SamplingParams:
    """How to draw, out of checked fields."""
    given = {name: fields[name] for name in _SAMPLING if name in fields}
    if given.get("top_logprobs", 0) and not given.get("logprobs", False):
        raise fail("top_logprobs", "invalid_value", "is only allowed with logprobs: true")
    return SamplingParams(temperature=fields.get("temperature", DEFAULT_TEMPERATURE), **given)


def _max_tokens(fields: dict[str, Any]) -> int | None:
    """Larger than the context is allowed, and means: as many as there is room for."""
    old, new = fields.get("max_tokens"), fields.get("max_completion_tokens")
    if old is not None and new is not None and old != new:
        raise fail("max_tokens", "invalid_value", f"is {old}, but max_completion_tokens is {new}; send one of them")
    limit: int | None = old if new is None else new
    return limit


def check_model(name: str | None, served: str, aliases: Collection[str] = ()) -> None:
    """Raise RequestError unless `name` is the served model, one of its aliases, or nothing."""
    if name is not None and name != served and name not in aliases:
        raise RequestError(
            f"the model {show(name)} does not exist here; this server has {show(served)}",
            param="model",
            code="model_not_found",
        )


def model_object(info: ModelInfo, created: int) -> dict[str, Any]:
    return {"id": info.id, "object": "model", "created": created, "owned_by": "glm-edge"}


def model_list(info: ModelInfo, created: int) -> dict[str, Any]:
    return {"object": "list", "data": [model_object(info, created)]}


def total(stats: Sequence[Stats]) -> Stats:
    """The figures of several answers to one prompt, which is counted once; one computed it, the others shared it."""
    return replace(
        stats[0],
        completion_tokens=sum(one.completion_tokens for one in stats),
        cached_tokens=min(one.cached_tokens for one in stats),
        decode_s=max(one.decode_s for one in stats),
    )


def usage(stats: Stats) -> dict[str, Any]:
    return {
        "prompt_tokens": stats.prompt_tokens,
        "completion_tokens": stats.completion_tokens,
        "total_tokens": stats.prompt_tokens + stats.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": stats.cached_tokens},
    }


def figures(stats: Stats | None, *, trim: bool = False) -> dict[str, Any]:
    """What the contract has no place for, under one key of our own: times, and what was left out of the prompt."""
    if stats is None:
        return {}
    ours: dict[str, Any] = {f"{name}_ms": round(1000 * seconds, 3) for name, seconds in times(stats).items()}
    return {"glm_edge": {**ours, **({"trimmed_rounds": stats.trimmed_rounds} if trim else {})}}


def times(stats: Stats) -> dict[str, float]:
    """Seconds of each stage of an answer."""
    return {"queue": stats.queue_s, "prefill": stats.prefill_s, "decode": stats.decode_s}


def server_timing(stats: Stats) -> str:
    """The value of a Server-Timing header, in milliseconds, as browsers' tools show it."""
    return ", ".join(f"{name};dur={1000 * seconds:.1f}" for name, seconds in times(stats).items())


def finite(logprob: float) -> float:
    """As the contract writes a logarithm of what is hardly possible."""
    return max(logprob, LEAST_LOGPROB)


def event(data: dict[str, Any]) -> bytes:
    """A server-sent event. JSON has no raw line end in it, so one data line holds it all."""
    return f"data: {strict_json.dumps(data)}\n\n".encode()


def comment(progress: Progress) -> bytes:
    """How far a request is, for whoever reads a stream's comments: ": queue 2 eta 30" (seconds), ": prefill 96/500"
    (tokens)."""
    if not progress.place:
        return f": prefill {progress.done}/{progress.total}\n\n".encode()
    eta = "" if progress.wait_s is None else f" eta {math.ceil(progress.wait_s)}"
    return f": queue {progress.place}{eta}\n\n".encode()


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
_RETRY_CLOSED = 5  # seconds until a restarted server is worth another try


def failure(error: BaseException, request_id: str) -> Failure:
    """What the client gets for an error. Only what is in our tree explains itself; of all else, and of what happened
    inside the engine, the client learns the request's id, under which the log has more."""
    if isinstance(error, RequestError):
        status = _STATUS.get(error.code or "", 400)
        headers = (("WWW-Authenticate", "Bearer"),) if status == 401 else ()
        return Failure(status, error_body(str(error), "invalid_request_error", error.param, error.code), headers)
    if isinstance(error, RateLimitError):
        body = error_body(str(error), "rate_limit_error", code="rate_limit_exceeded")
        return Failure(429, body, _retry_after(error.retry_after))
    if isinstance(error, OverloadedError):
        return _unavailable(str(error), "server_is_overloaded", error.retry_after)
    if isinstance(error, LoadingError):
        return _unavailable(str(error), "model_loading", error.retry_after)
    if isinstance(error, EngineClosedError):
        return _unavailable("the server is shutting down", "shutting_down", _RETRY_CLOSED)
    if isinstance(error, EngineDiedError):
        message = f"the engine died during this request and is being restarted; send it again ({request_id})"
        return Failure(500, error_body(message, "server_error", code="engine_died"))
    if isinstance(error, RepeatedCrashError):
        return Failure(500, error_body(str(error), "server_error", code="engine_crash"), (("x-should-retry", "false"),))
    problem = "the engine failed" if isinstance(error, GlmEdgeError) else "the server failed"
    return Failure(500, error_body(f"{problem} on this request; the log has more under {request_id}", "server_error"))


def _unavailable(message: str, code: str, retry_after: float) -> Failure:
    return Failure(503, error_body(message, "server_error", code=code), _retry_after(retry_after))


def _retry_after(seconds: float) -> tuple[tuple[str, str], ...]:
    return (("Retry-After", str(max(1, math.ceil(seconds)))),)


def error_body(message: str, kind: str, param: str | None = None, code: str | None = None) -> dict[str, Any]:
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}
