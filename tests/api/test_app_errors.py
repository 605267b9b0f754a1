"""Every error has one form and the right status, and the server goes on."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from glm_edge.api.admission import SPARE_REQUESTS, Admission
from glm_edge.api.app import create_app
from glm_edge.errors import EngineClosedError, EngineError, OutOfMemoryError, RepeatedCrashError
from glm_edge.generation import Generation
from glm_edge.types import Chunk, Request
from support.engines.fake_engine import FakeEngine

pytestmark = pytest.mark.case("H5", "H6", "H7", "D4")

BODY = {"messages": [{"role": "user", "content": "你好"}]}
CHAT = "/v1/chat/completions"


@pytest.fixture
def client() -> FlaskClient:
    return create_app(FakeEngine()).test_client()


def error_of(response: TestResponse) -> dict[str, Any]:
    """The error, after a look at what all errors share."""
    assert response.content_type == "application/json"
    assert response.headers["x-request-id"].startswith("req_")
    body = response.get_json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert body["error"]["message"]
    return dict(body["error"])


@pytest.mark.case("H2", "H3", "H4")
@pytest.mark.parametrize(
    "body", [b"", b"{", b"hello", b"[]", b'"x"', b"1", b"null", b"[" * 100_000], ids=lambda b: b[:9]
)
def test_a_bad_body_is_400_and_the_next_request_is_served(client: FlaskClient, body: bytes) -> None:
    response = client.post(CHAT, data=body, content_type="application/json")
    assert response.status_code == 400
    error = error_of(response)
    assert (error["type"], error["param"], error["code"]) == ("invalid_request_error", None, None)
    assert client.post(CHAT, json=BODY).status_code == 200


def test_a_bad_field_is_named(client: FlaskClient) -> None:
    response = client.post(CHAT, json={**BODY, "temperature": 3})
    assert response.status_code == 400
    error = error_of(response)
    assert (error["type"], error["param"], error["code"]) == ("invalid_request_error", "temperature", "invalid_value")


@pytest.mark.case("H8")
@pytest.mark.parametrize(
    "kind", [None, "text/plain", "application/x-www-form-urlencoded", "application/json; charset=gbk", "json", ""]
)
def test_another_content_type_is_415(client: FlaskClient, kind: str | None) -> None:
    response = client.post(CHAT, data=b'{"messages": []}', content_type=kind)
    assert response.status_code == 415
    assert error_of(response)["code"] == "unsupported_content_type"


@pytest.mark.case("H8")
@pytest.mark.parametrize(
    "kind", ["application/json; charset=utf-8", "APPLICATION/JSON", "application/json;charset=UTF-8"]
)
def test_json_in_other_spellings_is_read(client: FlaskClient, kind: str) -> None:
    body = b'{"messages": [{"role": "user", "content": "x"}]}'
    assert client.post(CHAT, data=body, content_type=kind).status_code == 200


@pytest.mark.case("H9")
def test_a_compressed_body_is_415(client: FlaskClient) -> None:
    response = client.post(CHAT, json=BODY, headers={"Content-Encoding": "gzip"})
    assert response.status_code == 415
    assert error_of(response)["code"] == "unsupported_content_type"


@pytest.mark.case("H10")
def test_a_body_over_the_limit_is_413_and_one_at_it_is_read() -> None:
    client = create_app(FakeEngine(), max_body=100).test_client()
    body = b'{"messages": [{"role": "user", "content": "x"}]}'
    at_limit = client.post(CHAT, data=body.ljust(100), content_type="application/json")
    assert at_limit.status_code == 200
    over = client.post(CHAT, data=body.ljust(101), content_type="application/json")
    assert over.status_code == 413
    assert error_of(over)["code"] == "request_too_large"


@pytest.mark.case("H11")
@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("GET", CHAT, "POST"),
        ("PUT", CHAT, "POST"),
        ("DELETE", CHAT, "POST"),
        ("OPTIONS", CHAT, "POST"),
        ("POST", "/v1/models", "GET, HEAD"),
        ("POST", "/health", "GET, HEAD"),
    ],
)
def test_a_wrong_method_is_405(client: FlaskClient, method: str, path: str, allow: str) -> None:
    response = client.open(path, method=method)
    assert response.status_code == 405
    assert response.headers["Allow"] == allow
    assert error_of(response)["code"] == "method_not_allowed"


@pytest.mark.case("H11")
def test_head_has_no_body(client: FlaskClient) -> None:
    response = client.head(CHAT)
    assert (response.status_code, response.data) == (405, b"")
    assert client.head("/v1/models").status_code == 200


@pytest.mark.case("H12")
@pytest.mark.parametrize(
    "path",
    [
        "/nothing",
        "/v1//chat/completions",
        CHAT + "/",
        "/v1/models/",
        "/v1/%2e%2e/health",
        "/" + "x" * 8192,
        "/%00",
        "/é",
    ],
    ids=lambda path: path[:24],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_an_unknown_path_is_404_and_no_redirect(client: FlaskClient, method: str, path: str) -> None:
    response = client.open(path, method=method, json=BODY if method == "POST" else None)
    assert response.status_code == 404
    assert error_of(response)["code"] == "unknown_url"


@pytest.mark.case("H13")
def test_an_unknown_model_is_404(client: FlaskClient) -> None:
    response = client.post(CHAT, json={**BODY, "model": "gpt-4"})
    assert response.status_code == 404
    error = error_of(response)
    assert (error["param"], error["code"]) == ("model", "model_not_found")
    assert "chatglm2-6b" in error["message"]


@pytest.mark.case("H21")
@pytest.mark.parametrize("stream", [False, True])
def test_a_prompt_longer_than_the_context_is_400_streaming_or_not(stream: bool) -> None:
    client = create_app(FakeEngine(n_ctx=10)).test_client()
    response = client.post(CHAT, json={"messages": [{"role": "user", "content": "x" * 12}], "stream": stream})
    assert response.status_code == 400
    error = error_of(response)
    assert (error["param"], error["code"]) == ("messages", "context_length_exceeded")
    assert "10 tokens" in error["message"]
    assert "12" in error["message"]


OVERLONG: dict[str, tuple[str, dict[str, Any], str, str]] = {
    "responses": ("/v1/responses", {"input": "x" * 12}, "input", "shorten the input"),
    "prompt": ("/", {"prompt": "x" * 12}, "prompt", "shorten the prompt"),
    "history": (
        "/",
        {"prompt": "x", "history": [["x" * 12, ""]]},
        "history",
        "shorten the prompt or drop the oldest rounds of the history",
    ),
}


@pytest.mark.parametrize(("path", "body", "param", "advice"), OVERLONG.values(), ids=OVERLONG)
def test_what_is_too_long_has_its_name_in_each_contract(path: str, body: Any, param: str, advice: str) -> None:
    error = error_of(create_app(FakeEngine(n_ctx=10)).test_client().post(path, json=body))
    assert (error["param"], error["code"]) == (param, "context_length_exceeded")
    assert error["message"].endswith(f"; {advice}")


FAULTS = {
    "engine": EngineError("decode failed at 0x7f31 in /home/me/model.gguf"),
    "memory": OutOfMemoryError("no space in /home/me"),
}


@pytest.mark.case("H28", "S8")
@pytest.mark.parametrize("error", FAULTS.values(), ids=FAULTS)
@pytest.mark.parametrize("stream", [False, True])
def test_a_failure_before_the_first_chunk_is_500_and_keeps_its_details(error: Any, stream: bool) -> None:
    response = create_app(FakeEngine([error])).test_client().post(CHAT, json={**BODY, "stream": stream})
    assert response.status_code == 500
    body = error_of(response)
    assert (body["type"], body["param"], body["code"]) == ("server_error", None, None)
    assert response.headers["x-request-id"] in body["message"]
    assert "/home" not in body["message"]
    assert "0x7f31" not in body["message"]


class _BuggyEngine(FakeEngine):
    """An engine with a bug, whose message quotes the conversation."""

    def submit(self, request: Request) -> Generation[Chunk]:
        raise KeyError(request.messages[0].content)


@pytest.mark.case("H28")
def test_a_bug_is_500_and_neither_the_body_nor_the_log_quotes_the_prompt(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        response = create_app(_BuggyEngine()).test_client().post(CHAT, json=BODY)
    assert response.status_code == 500
    error = error_of(response)
    assert error["type"] == "server_error"
    assert "你好" not in error["message"] + caplog.text
    assert "KeyError at " in caplog.text
    assert response.headers["x-request-id"] in caplog.text


@pytest.mark.case("O2")
@pytest.mark.parametrize("stream", [False, True])
def test_an_engine_without_capacity_is_503_with_retry_after(stream: bool) -> None:
    client = create_app(FakeEngine(slots=0, waiting=0)).test_client()
    response = client.post(CHAT, json={**BODY, "stream": stream})
    assert response.status_code == 503
    assert response.headers["Retry-After"] == "4"
    assert error_of(response)["code"] == "server_is_overloaded"


@pytest.mark.case("O2")
def test_a_server_without_capacity_is_503_until_leases_are_released() -> None:
    client = create_app(Admission(FakeEngine(), capacity=1)).test_client()
    held = [client.post(CHAT, json={**BODY, "stream": True}, buffered=False) for _ in range(1 + SPARE_REQUESTS)]
    assert client.post(CHAT, json=BODY).status_code == 503
    assert client.get("/health").get_json() == {"status": "ok"}  # the engine works; the document says no more
    for one in held:
        one.close()
    assert client.post(CHAT, json={**BODY, "temperature": 3}).status_code == 400
    assert client.post(CHAT, json=BODY).status_code == 200
    assert client.post(CHAT, json=BODY).status_code == 200


@pytest.mark.case("O9")
@pytest.mark.parametrize("stream", [False, True])
def test_a_prompt_that_kills_the_engine_is_not_to_be_tried_again(stream: bool) -> None:
    client = create_app(FakeEngine([RepeatedCrashError("the engine died 3 times")])).test_client()
    response = client.post(CHAT, json={**BODY, "stream": stream})
    assert (response.status_code, response.headers["x-should-retry"]) == (500, "false")
    assert error_of(response)["code"] == "engine_crash"


@pytest.mark.case("D8")
def test_while_the_model_loads_chats_are_503_and_the_process_is_alive() -> None:
    admission = Admission()
    client = create_app(admission).test_client()
    for response in (client.post(CHAT, json=BODY), client.get("/v1/models")):
        assert response.status_code == 503
        assert int(response.headers["Retry-After"]) > 0
        assert error_of(response)["code"] == "model_loading"
    assert (client.get("/health").status_code, client.get("/health").get_json()) == (503, {"status": "loading"})
    assert (client.get("/livez").status_code, client.get("/livez").get_json()) == (200, {"status": "ok"})
    admission.ready(FakeEngine())
    assert client.post(CHAT, json=BODY).status_code == 200
    assert client.get("/health").get_json() == {"status": "ok"}


@pytest.mark.case("D2")
def test_while_the_server_ends_chats_are_503() -> None:
    admission = Admission(FakeEngine())
    client = create_app(admission).test_client()
    admission.drain()
    response = client.post(CHAT, json=BODY)
    assert response.status_code == 503
    assert int(response.headers["Retry-After"]) > 0
    assert error_of(response)["code"] == "shutting_down"
    assert (client.get("/health").status_code, client.get("/health").get_json()) == (503, {"status": "shutting_down"})


def test_a_closed_engine_is_503() -> None:
    client = create_app(FakeEngine([EngineClosedError("closed")])).test_client()
    assert error_of(client.post(CHAT, json=BODY))["code"] == "shutting_down"
