"""GET /openapi.json: complete, well formed, and true of what the server takes and answers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from jsonschema import Draft202012Validator

from glm_edge.api.access.keys import Keys
from glm_edge.api.access.policy import PAGE_FILES, AccessPolicy
from glm_edge.api.admission import Admission
from glm_edge.api.app import create_app
from glm_edge.errors import EngineError
from glm_edge.types import Request
from support.engines.fake_engine import FakeEngine, Step

KEY = {"API-KEY": "key"}
CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
TOOL = {"type": "function", "name": "f", "parameters": {"type": "object"}}
CHAT_TOOL = {"type": "function", "function": {"name": "f"}}
CALLING = [{"role": "user", "content": "call"}]
MESSAGES = [{"role": "user", "content": "你好"}]


def script(request: Request) -> list[Step]:
    text = request.prompts[0] if request.prompts else request.messages[-1].content
    said: dict[object, list[Step]] = {"fail": [EngineError("broken")], "call": ['{"name": "f", "argu', 'ments": {}}']}
    return said.get(text, ["你", "好"])


@pytest.fixture(scope="module")
def app() -> Flask:
    return create_app(FakeEngine(script), policy=AccessPolicy(Keys(["key"])), trim=True)


@pytest.fixture(scope="module")
def client(app: Flask) -> Iterator[FlaskClient]:
    with app.test_client() as client:
        yield client


@pytest.fixture(scope="module")
def document(client: FlaskClient) -> Any:
    return client.get("/openapi.json", headers=KEY).get_json()


def validator(document: Any, schema: Any) -> Draft202012Validator:
    """For a schema of the document, whose references stay inside it."""
    return Draft202012Validator({**schema, "components": document["components"]})


def response_schema(document: Any, path: str, method: str, status: int, kind: str = "application/json") -> Any:
    described = document["paths"][path][method.lower()]["responses"][str(status)]
    if "$ref" in described:
        described = document["components"]["responses"][described["$ref"].rsplit("/", 1)[1]]
    return described["content"][kind]["schema"]


def test_the_document_has_every_route_and_no_other(app: Flask, document: Any) -> None:
    served = {
        (rule.rule.replace("<path:name>", "{name}"), method.lower())
        for rule in app.url_map.iter_rules()
        for method in rule.methods or ()
        if method not in ("HEAD", "OPTIONS") and not rule.rule.startswith(PAGE_FILES)
    }
    assert served == {(path, method) for path, item in document["paths"].items() for method in item}


def test_every_schema_is_one(document: Any) -> None:
    for schema in document["components"]["schemas"].values():
        Draft202012Validator.check_schema(schema)
    for item in document["paths"].values():
        for operation in item.values():
            if "requestBody" in operation:
                Draft202012Validator.check_schema(operation["requestBody"]["content"]["application/json"]["schema"])


ANSWERS: dict[str, tuple[str, str, Any, int]] = {
    "chat": ("POST", CHAT, {"messages": MESSAGES}, 200),
    "chat-logprobs": ("POST", CHAT, {"messages": MESSAGES, "n": 2, "logprobs": True, "top_logprobs": 2}, 200),
    "chat-400": ("POST", CHAT, {"messages": []}, 400),
    "chat-404": ("POST", CHAT, {"messages": MESSAGES, "model": "x"}, 404),
    "chat-500": ("POST", CHAT, {"messages": [{"role": "user", "content": "fail"}]}, 500),
    "text": ("POST", TEXT, {"prompt": "x"}, 200),
    "text-logprobs": ("POST", TEXT, {"prompt": "x", "n": 2, "logprobs": 3}, 200),
    "text-400": ("POST", TEXT, {}, 400),
    "response": ("POST", "/v1/responses", {"input": "x", "tools": [TOOL], "metadata": {"a": "b"}}, 200),
    "response-400": ("POST", "/v1/responses", {"input": "x", "store": True}, 400),
    "tools": ("POST", CHAT, {"messages": CALLING, "tools": [CHAT_TOOL], "n": 2}, 200),
    "echo": ("POST", TEXT, {"prompt": ["x", "y"], "echo": True, "max_tokens": 0, "logprobs": 1}, 200),
    "tokenize": ("POST", "/v1/tokenize", {"text": "x"}, 200),
    "tokenize-400": ("POST", "/v1/tokenize", {"text": 1}, 400),
    "chatglm": ("POST", "/", {"prompt": "x", "history": [["a", "b"]]}, 200),
    "chatglm-400": ("POST", "/", {"prompt": None}, 400),
    "models": ("GET", "/v1/models", None, 200),
    "model": ("GET", "/v1/models/chatglm2-6b", None, 200),
    "model-404": ("GET", "/v1/models/x", None, 404),
    "health": ("GET", "/health", None, 200),
    "livez": ("GET", "/livez", None, 200),
}


@pytest.mark.parametrize(("method", "path", "body", "status"), ANSWERS.values(), ids=ANSWERS)
def test_answers_are_what_the_document_says(
    client: FlaskClient, document: Any, method: str, path: str, body: Any, status: int
) -> None:
    response = (
        client.open(path, method=method, json=body, headers=KEY) if body is not None else client.get(path, headers=KEY)
    )
    assert response.status_code == status
    described = "/v1/models/{name}" if path.startswith("/v1/models/") else path
    schema = response_schema(document, described, method, status)
    validator(document, schema).validate(response.get_json())
    if body is not None and status != 400:
        validator(
            document, document["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]
        ).validate(body)


@pytest.mark.parametrize(
    ("path", "body", "name"),
    [
        (CHAT, {"messages": MESSAGES, "n": 2, "logprobs": True, "top_logprobs": 1}, "ChatCompletionChunk"),
        (TEXT, {"prompt": "x", "n": 2, "logprobs": 1}, "CompletionChunk"),
        (
            CHAT,
            {"messages": CALLING, "n": 3, "tools": [CHAT_TOOL]},
            "ChatCompletionChunk",
        ),
    ],
)
def test_events_are_what_the_document_says(client: FlaskClient, document: Any, path: str, body: Any, name: str) -> None:
    body = {**body, "stream": True, "stream_options": {"include_usage": True}}
    raw = client.post(path, json=body, headers=KEY).get_data(as_text=True)
    events = [json.loads(one.removeprefix("data: ")) for one in raw.split("\n\n") if one.startswith("data: {")]
    assert len(events) > 6
    for event in events:
        validator(document, document["components"]["schemas"][name]).validate(event)


REFUSED: dict[str, tuple[str, Any]] = {
    "no-messages": (CHAT, {}),
    "unknown-field": (CHAT, {"messages": MESSAGES, "foo": 1}),
    "role": (CHAT, {"messages": [{"role": "king", "content": "x"}]}),
    "image": (CHAT, {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}),
    "temperature": (CHAT, {"messages": MESSAGES, "temperature": 2.1}),
    "boolean-for-number": (CHAT, {"messages": MESSAGES, "top_p": True}),
    "stop": (CHAT, {"messages": MESSAGES, "stop": ["a"] * 5}),
    "empty-stop": (CHAT, {"messages": MESSAGES, "stop": ""}),
    "tools": (CHAT, {"messages": MESSAGES, "tools": [{}]}),
    "bias": (CHAT, {"messages": MESSAGES, "logit_bias": {"x": 1}}),
    "format": (CHAT, {"messages": MESSAGES, "response_format": {"type": "json_schema"}}),
    "nul": (CHAT, {"messages": [{"role": "user", "content": "\0"}]}),
    "n": (CHAT, {"messages": MESSAGES, "n": 9}),
    "mixed-prompts": (TEXT, {"prompt": ["a", 1]}),
    "no-limit": (TEXT, {"prompt": "a", "max_tokens": 0}),
    "text": ("/v1/tokenize", {"text": None}),
    "pair": ("/", {"prompt": "x", "history": [["a"]]}),
}


@pytest.mark.parametrize(("path", "body"), REFUSED.values(), ids=REFUSED)
def test_what_the_server_refuses_the_document_does_not_allow(
    client: FlaskClient, document: Any, path: str, body: Any
) -> None:
    assert client.post(path, json=body, headers=KEY).status_code == 400
    schema = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert not validator(document, schema).is_valid(body)


def test_a_server_that_loads_answers_as_the_document_says(document: Any) -> None:
    client = create_app(Admission()).test_client()
    for path, method, body in (
        (CHAT, "POST", {"messages": MESSAGES}),
        ("/v1/models", "GET", None),
        ("/health", "GET", None),
    ):
        response = client.open(path, method=method, json=body) if body else client.get(path)
        assert response.status_code == 503
        validator(document, response_schema(document, path, method, 503)).validate(response.get_json())


def test_errors_of_the_door_are_in_the_document(app: Flask, document: Any) -> None:
    client = app.test_client()
    refused = {
        401: client.post(CHAT, json={}),
        403: client.post(CHAT, json={}, headers={"Host": "evil.com"}),
        405: client.get(CHAT, headers=KEY),
        413: client.post(CHAT, data=b"x" * 3_000_000, content_type="application/json", headers=KEY),
        415: client.post(CHAT, data=b"x", headers=KEY),
    }
    for status, response in refused.items():
        assert response.status_code == status
        validator(document, response_schema(document, CHAT, "POST", status)).validate(response.get_json())


@pytest.mark.parametrize("text", ["x", "call"])
def test_events_of_a_response_are_what_the_document_says(client: FlaskClient, document: Any, text: str) -> None:
    body = {"input": text, "stream": True, "tools": [TOOL]}
    raw = client.post("/v1/responses", json=body, headers=KEY).get_data(as_text=True)
    events = [json.loads(one.partition("data: ")[2]) for one in raw.split("\n\n") if one.startswith("event: ")]
    assert len(events) > 6
    for event in events:
        validator(document, document["components"]["schemas"]["ResponseEvent"]).validate(event)
