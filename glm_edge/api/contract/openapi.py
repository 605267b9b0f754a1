"""The API as an OpenAPI 3.1 document, for GET /openapi.json. Pure.

What requests may hold comes from the very checks that read them (`fields.py` and its neighbours), so the document
cannot say otherwise than the server does. Two rules are in words, because JSON Schema has none for them: that the last
of any number of messages is the user's, and that max_tokens and max_completion_tokens, where both are given, are equal.
What answers look like is written here, and tests hold real answers against it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from . import chatglm as chatglm_wire
from . import text as text_wire
from .checks import Check, schema_of, table
from .fields import CHAT

Schema = dict[str, Any]

_TEXT: Schema = {"type": "string"}
_COUNT: Schema = {"type": "integer", "minimum": 0}
_MS: Schema = {"type": "number", "minimum": 0}
_REASON: Schema = {"enum": ["stop", "length"]}
_REASON_OR_NULL: Schema = {"enum": ["stop", "length", None]}


def _object(properties: Mapping[str, Schema], *, optional: tuple[str, ...] = ()) -> Schema:
    """An object with these fields, all of them there but the optional ones, and no others."""
    required = [name for name in properties if name not in optional]
    return {"type": "object", "properties": {**properties}, "required": required, "additionalProperties": False}


def _list(items: Schema) -> Schema:
    return {"type": "array", "items": items}


def _or_null(schema: Schema) -> Schema:
    return {"anyOf": [schema, {"type": "null"}]}


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


_HEAD: Schema = {"id": _TEXT, "object": _TEXT, "created": {"type": "integer"}, "model": _TEXT}
_TOKEN: Schema = {"token": _TEXT, "logprob": {"type": "number", "maximum": 0}, "bytes": _list(_COUNT)}


def _answer(kind: str, choice: Schema, *, streamed: bool) -> Schema:
    fields = {
        **_HEAD,
        "object": {"const": kind},
        "choices": _list(choice),
        "usage": _or_null(_ref("Usage")) if streamed else _ref("Usage"),
        "glm_edge": _ref("Figures"),
    }
    return _object(fields, optional=("usage", "glm_edge") if streamed else ())


def _text_choice(reason: Schema) -> Schema:
    return _object(
        {"index": _COUNT, "text": _TEXT, "logprobs": _or_null(_ref("TextLogprobs")), "finish_reason": reason}
    )


def _chat_choice(name: str, message: Schema, reason: Schema) -> Schema:
    return _object(
        {"index": _COUNT, name: message, "logprobs": _or_null(_ref("ChatLogprobs")), "finish_reason": reason}
    )


_MESSAGE: Schema = {"role": {"const": "assistant"}, "content": _TEXT, "refusal": {"type": "null"}}

SCHEMAS: dict[str, Schema] = {
    "Error": _object(
        {
            "error": _object(
                {"message": _TEXT, "type": _TEXT, "param": _or_null(_TEXT), "code": _or_null(_TEXT)},
            )
        }
    ),
    "Usage": _object(
        {
            "prompt_tokens": _COUNT,
            "completion_tokens": _COUNT,
            "total_tokens": _COUNT,
            "prompt_tokens_details": _object({"cached_tokens": _COUNT}),
        }
    ),
    "Figures": _object(
        {"queue_ms": _MS, "prefill_ms": _MS, "decode_ms": _MS, "trimmed_rounds": _COUNT}, optional=("trimmed_rounds",)
    ),
    "ChatLogprobs": _object(
        {"content": _list(_object({**_TOKEN, "top_logprobs": _list(_object(_TOKEN))})), "refusal": {"type": "null"}}
    ),
    "TextLogprobs": _object(
        {
            "tokens": _list(_TEXT),
            "token_logprobs": _list({"type": "number", "maximum": 0}),
            "top_logprobs": _list({"type": "object", "additionalProperties": {"type": "number", "maximum": 0}}),
            "text_offset": _list(_COUNT),
        }
    ),
    "ChatCompletion": _answer("chat.completion", _chat_choice("message", _object(_MESSAGE), _REASON), streamed=False),
    "ChatCompletionChunk": _answer(
        "chat.completion.chunk",
        _chat_choice("delta", _object(_MESSAGE, optional=("role", "content", "refusal")), _REASON_OR_NULL),
        streamed=True,
    ),
    "Completion": _answer("text_completion", _text_choice(_REASON), streamed=False),
    "CompletionChunk": _answer("text_completion", _text_choice(_REASON_OR_NULL), streamed=True),
    "Ids": _object({"ids": _list(_COUNT)}),
    "ChatGLM": _object(
        {
            "response": _TEXT,
            "history": _list({**_list(_TEXT), "minItems": 2, "maxItems": 2}),
            "status": {"const": 200},
            "time": {"type": "string", "pattern": r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d$"},
            "trimmed_rounds": {"type": "integer", "minimum": 1},
        },
        optional=("trimmed_rounds",),
    ),
    "Model": _object({"id": _TEXT, "object": {"const": "model"}, "created": {"type": "integer"}, "owned_by": _TEXT}),
    "Models": _object({"object": {"const": "list"}, "data": _list(_ref("Model"))}),
    "Status": _object({"status": {"enum": ["ok", "loading", "shutting_down"]}}),
}

_HEADERS: Schema = {"x-request-id": {"schema": {"type": "string", "pattern": "^req_[0-9a-f]{32}$"}, "required": True}}

# status -> when
_ERRORS = {
    "400": "The request is not well formed, or a field is not; `param` and `code` say which and how.",
    "401": "A key is needed.",
    "403": "Not for this Host, or not from this Origin.",
    "404": "No such model, or no such path.",
    "405": "No such method here.",
    "413": "The body is too large.",
    "415": "The body is not plain JSON in UTF-8.",
    "429": "This key has as many answers as it may have at once; Retry-After says when to try again.",
    "431": "The headers are too large.",
    "500": "The engine or the server failed; the log has more under the request's id. `code` is engine_died where the"
    " request can be sent again, engine_crash where its prompt has ended the engine three times.",
    "503": "Loading, shutting down or all places taken; Retry-After says when to try again.",
}


def _json(schema: Schema) -> Schema:
    return {"application/json": {"schema": schema}}


def _operation(summary: str, content: Schema, *statuses: str, **more: Any) -> Schema:
    errors = {status: {"$ref": f"#/components/responses/{status}"} for status in ("403", "405", *statuses)}
    answer = {"description": "The answer.", "headers": _HEADERS, "content": content}
    return {"summary": summary, "responses": {"200": answer, **errors}, **more}


def _needs(field: str, nothing: list[Any], other: str) -> Schema:
    """Values of `field` that are not `nothing` need the other one to be true."""
    return {"anyOf": [{"properties": {field: {"enum": nothing}}}, _set_true(other)]}


def _set_true(field: str) -> Schema:
    return {"properties": {field: {"const": True}}, "required": [field]}


_STREAM_RULE = _needs("stream_options", [None], "stream")
_LOGPROBS_RULE = _needs("top_logprobs", [None, 0], "logprobs")


def _post(
    summary: str, fields: dict[str, Check[Any]], required: str, content: Schema, rules: tuple[Schema, ...] = ()
) -> Schema:
    schema = schema_of(table(fields, required=(required,)))
    body = {"required": True, "content": _json({**schema, "allOf": [*rules]} if rules else schema)}
    statuses = ("400", "401", "404", "413", "415", "429", "431", "500", "503")
    return {"post": _operation(summary, content, *statuses, requestBody=body)}


def _get(summary: str, content: Schema, *statuses: str, **more: Any) -> Schema:
    return {"get": _operation(summary, content, *statuses, **more)}


def _stream(whole: str, chunk: str) -> Schema:
    events = f"Events whose data is a {chunk}, then one whose data is [DONE]; lines that begin with ':' are comments."
    return {**_json(_ref(whole)), "text/event-stream": {"schema": {"description": events}}}


def _paths() -> Schema:
    closed = ("401", "404", "431", "500", "503")
    name = {"name": "name", "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
    health = _get("Whether a chat would be taken now.", _json(_ref("Status")), security=[])
    health["get"]["responses"]["503"] = {
        "description": "It would not.",
        "headers": _HEADERS,
        "content": _json(_ref("Status")),
    }
    return {
        "/v1/chat/completions": _post(
            "Go on with a conversation. The last message is the user's; max_tokens and max_completion_tokens are the"
            " same, one is enough.",
            CHAT,
            "messages",
            _stream("ChatCompletion", "ChatCompletionChunk"),
            (_STREAM_RULE, _LOGPROBS_RULE),
        ),
        "/v1/completions": _post(
            "Go on with a text.", text_wire.TEXT, "prompt", _stream("Completion", "CompletionChunk"), (_STREAM_RULE,)
        ),
        "/v1/tokenize": _post("The ids of a text.", text_wire.TOKENIZE, "text", _json(_ref("Ids"))),
        "/": {
            **_post("ChatGLM2's own contract.", chatglm_wire.FIELDS, "prompt", _json(_ref("ChatGLM"))),
            **_get("A page to chat on.", {"text/html": {"schema": _TEXT}}, security=[]),
        },
        "/v1/models": _get("The served model.", _json(_ref("Models")), *closed),
        "/v1/models/{name}": _get("The model by a name.", _json(_ref("Model")), *closed, parameters=[name]),
        "/openapi.json": _get("This document.", _json({"type": "object"}), "401", "431"),
        "/metrics": _get("Figures for Prometheus.", {"text/plain": {"schema": _TEXT}}, "401", "431"),
        "/livez": _get("Whether the process is alive.", _json(_ref("Status")), security=[]),
        "/health": health,
    }


def document(version: str) -> dict[str, Any]:
    """The whole document, for a server of this version."""
    failed = {
        status: {"description": when, "headers": _HEADERS, "content": _json(_ref("Error"))}
        for status, when in _ERRORS.items()
    }
    keys = {
        "bearer": {"type": "http", "scheme": "bearer"},
        "header": {"type": "apiKey", "in": "header", "name": "API-KEY"},
    }
    return {
        "openapi": "3.1.0",
        "info": {"title": "GLM Edge", "version": version},
        "paths": _paths(),
        "security": [{name: []} for name in keys],
        "components": {"schemas": SCHEMAS, "responses": failed, "securitySchemes": keys},
    }
