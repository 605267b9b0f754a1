"""The API as an OpenAPI 3.1 document, for GET /openapi.json. Pure.

What bodies may hold comes from the models that read them (`chat.py`, `completions.py`, `chatglm.py`), what responses
hold from the types that the serializers return (`responses.py`), so the document cannot say otherwise than the server
does. Two rules are in words, because JSON Schema has none for them: whose the last of any number of messages is, with
what continue_final_message and add_generation_prompt say of it, and that max_tokens and max_completion_tokens, where
both are given, are equal.
"""

from __future__ import annotations

from functools import cache
from typing import Any, Literal

from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema

from . import response_objects, responses
from .chat import ChatRequest
from .chatglm import ChatGLMRequest
from .completions import CompletionRequest, TokenizeRequest
from .response_request import ResponseRequest

Schema = dict[str, Any]

_BODIES = (
    ChatRequest,
    CompletionRequest,
    ResponseRequest,
    TokenizeRequest,
    ChatGLMRequest,
    responses.ErrorBody,
    responses.ChatCompletion,
    responses.ChatCompletionChunk,
    responses.Completion,
    responses.CompletionChunk,
    response_objects.ModelResponse,
    response_objects.ResponseEvent,
    responses.TokenIds,
    responses.ChatGLMResponse,
    responses.ModelObject,
    responses.ModelList,
    responses.HealthStatus,
)

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
    " request can be sent again, engine_crash where its prompt, alone, has ended the engine three times.",
    "503": "Loading, shutting down or full; Retry-After says when to try again.",
}

_HEADERS: Schema = {"x-request-id": {"schema": {"type": "string", "pattern": "^req_[0-9a-f]{32}$"}, "required": True}}
_TEXT: Schema = {"schema": {"type": "string"}}


class _Untitled(GenerateJsonSchema):
    """A generator of JSON Schema that gives fields no titles, which would only repeat their names."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


def _schemas() -> Schema:
    """All bodies, and what they refer to, by the names of their types."""
    adapters: list[tuple[str, Literal["validation"], TypeAdapter[Any]]] = [
        (body.__name__, "validation", TypeAdapter(body)) for body in _BODIES
    ]
    _, found = TypeAdapter.json_schemas(
        adapters, ref_template="#/components/schemas/{model}", schema_generator=_Untitled
    )
    definitions: Schema = found["$defs"]
    return definitions


def _json(body: type) -> Schema:
    return {"application/json": {"schema": {"$ref": f"#/components/schemas/{body.__name__}"}}}


def _operation(summary: str, content: Schema, *statuses: str, **more: Any) -> Schema:
    errors = {status: {"$ref": f"#/components/responses/{status}"} for status in ("403", "405", *statuses)}
    answer = {"description": "The answer.", "headers": _HEADERS, "content": content}
    return {"summary": summary, "responses": {"200": answer, **errors}, **more}


def _post(summary: str, request: type, content: Schema) -> Schema:
    statuses = ("400", "401", "404", "413", "415", "429", "431", "500", "503")
    body = {"required": True, "content": _json(request)}
    return {"post": _operation(summary, content, *statuses, requestBody=body)}


def _get(summary: str, content: Schema, *statuses: str, **more: Any) -> Schema:
    return {"get": _operation(summary, content, *statuses, **more)}


def _or_stream(whole: type, chunk: type, end: str = "[DONE]") -> Schema:
    events = f"Events with a {chunk.__name__} as data, the last with {end}; lines that begin with ':' are comments."
    return {**_json(whole), "text/event-stream": {"schema": {"description": events}}}


def _paths() -> Schema:
    closed = ("401", "404", "431", "500", "503")
    name = {"name": "name", "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
    status = _json(responses.HealthStatus)
    health = _get("Whether the engine works.", status, security=[])
    health["get"]["responses"]["200"]["description"] = (
        "The model is loaded and the engine works. While all capacity is taken, a chat gets 503 all the same, with"
        " Retry-After."
    )
    health["get"]["responses"]["503"] = {
        "description": "No chat is taken: loading, shutting down, or failed, and then the log says why.",
        "headers": _HEADERS,
        "content": status,
    }
    chat = _or_stream(responses.ChatCompletion, responses.ChatCompletionChunk)
    text = _or_stream(responses.Completion, responses.CompletionChunk)
    response = _or_stream(response_objects.ModelResponse, response_objects.ResponseEvent, end="response.completed")
    return {
        "/v1/chat/completions": _post("Go on with a conversation.", ChatRequest, chat),
        "/v1/completions": _post("Go on with a text.", CompletionRequest, text),
        "/v1/responses": _post("Answer a text or a conversation.", ResponseRequest, response),
        "/v1/tokenize": _post("The ids of a text.", TokenizeRequest, _json(responses.TokenIds)),
        "/": {
            **_post("ChatGLM2's own contract.", ChatGLMRequest, _json(responses.ChatGLMResponse)),
            **_get("A page to chat on.", {"text/html": _TEXT}, security=[]),
        },
        "/v1/models": _get("The served model.", _json(responses.ModelList), *closed),
        "/v1/models/{name}": _get("The model by a name.", _json(responses.ModelObject), *closed, parameters=[name]),
        "/openapi.json": _get("This document.", {"application/json": {"schema": {"type": "object"}}}, "401", "431"),
        "/metrics": _get("Figures for Prometheus.", {"text/plain": _TEXT}, "401", "431"),
        "/livez": _get("Whether the process is alive.", status, security=[]),
        "/health": health,
    }


@cache
def document(version: str) -> Schema:
    """The whole document, for a server of this version. Made when first asked for: it takes 60 ms."""
    failed = {
        status: {"description": when, "headers": _HEADERS, "content": _json(responses.ErrorBody)}
        for status, when in _ERRORS.items()
    }
    keys = {
        "bearer": {"type": "http", "scheme": "bearer"},
        "header": {"type": "apiKey", "in": "header", "name": "API-KEY"},
        "x-header": {"type": "apiKey", "in": "header", "name": "X-Api-Key"},
    }
    return {
        "openapi": "3.1.0",
        "info": {"title": "GLM Edge", "version": version},
        "paths": _paths(),
        "security": [{name: []} for name in keys],
        "components": {"schemas": _schemas(), "responses": failed, "securitySchemes": keys},
    }
