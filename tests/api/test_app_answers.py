"""What a chat over HTTP answers, at once and as a stream, on a scripted engine."""

from __future__ import annotations

import json
from typing import Any

import pytest
from flask.testing import FlaskClient
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from glm_edge.api.app import create_app
from glm_edge.types import Message, Request, SamplingParams
from support.engines.fake_engine import FakeEngine, Script

BODY = {"messages": [{"role": "user", "content": "你好"}]}
CHAT = "/v1/chat/completions"


def client_of(script: Script, **options: Any) -> FlaskClient:
    return create_app(FakeEngine(script), **options).test_client()


def events(client: FlaskClient, **fields: Any) -> list[Any]:
    """The data of every event; None for [DONE]."""
    response = client.post(CHAT, json={**BODY, "stream": True, **fields})
    assert response.status_code == 200
    text = response.get_data(as_text=True)
    assert text.endswith("\n\n")
    data = [event.removeprefix("data: ") for event in text.split("\n\n")[:-1] if not event.startswith(":")]
    return [None if one == "[DONE]" else json.loads(one) for one in data]


@pytest.mark.case("H1")
def test_a_minimal_request_gets_a_whole_completion() -> None:
    engine = FakeEngine(["你好", "！"])
    response = create_app(engine).test_client().post(CHAT, json=BODY)
    assert response.status_code == 200
    assert response.content_type == "application/json"
    body = response.get_json()
    ChatCompletion.model_validate(body, strict=True)
    assert body["choices"] == [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "你好！", "refusal": None},
            "logprobs": None,
            "finish_reason": "stop",
        }
    ]
    assert (body["object"], body["model"]) == ("chat.completion", "chatglm2-6b")
    assert body["id"].startswith("chatcmpl-")
    assert isinstance(body["created"], int)
    assert body["usage"] == {
        "prompt_tokens": 2,
        "completion_tokens": 2,
        "total_tokens": 4,
        "prompt_tokens_details": {"cached_tokens": 0},
    }
    assert engine.requests == [Request((Message("user", "你好"),), SamplingParams(1.0, 0.8, None))]


def test_chinese_is_not_escaped() -> None:
    client = client_of(["你好"])
    assert '"content":"你好"' in client.post(CHAT, json=BODY).get_data(as_text=True)
    assert '"content":"你好"' in client.post(CHAT, json={**BODY, "stream": True}).get_data(as_text=True)


@pytest.mark.case("S1")
def test_a_stream_is_role_text_finish_and_done() -> None:
    client = client_of(["你", "好"])
    response = client.post(CHAT, json={**BODY, "stream": True})
    assert response.headers["Content-Type"] == "text/event-stream; charset=utf-8"
    assert response.headers["Cache-Control"] == "no-cache"
    assert response.headers["X-Accel-Buffering"] == "no"
    *chunks, done = events(client)
    assert done is None
    assert None not in chunks
    for chunk in chunks:
        ChatCompletionChunk.model_validate(chunk, strict=True)
        assert "usage" not in chunk
    assert [chunk["choices"][0]["delta"] for chunk in chunks] == [
        {"role": "assistant", "content": "", "refusal": None},
        {"content": "你"},
        {"content": "好"},
        {},
    ]
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None, None, None, "stop"]
    assert len({(chunk["id"], chunk["created"], chunk["model"], chunk["object"]) for chunk in chunks}) == 1


@pytest.mark.case("S2")
def test_usage_is_an_event_of_its_own_when_asked_for() -> None:
    *chunks, usage, done = events(client_of(["你", "好"]), stream_options={"include_usage": True})
    assert done is None
    assert all(chunk["usage"] is None for chunk in chunks)
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"
    assert usage["choices"] == []
    assert usage["usage"]["total_tokens"] == 4
    ChatCompletionChunk.model_validate(usage, strict=True)


@pytest.mark.case("S2")
@pytest.mark.parametrize("options", [None, {}, {"include_usage": False}, {"include_usage": None}], ids=str)
def test_there_is_no_usage_when_not_asked_for(options: Any) -> None:
    *chunks, _ = events(client_of(["你", "好"]), stream_options=options)
    assert len(chunks) == 4
    assert all("usage" not in chunk for chunk in chunks)


@pytest.mark.case("S10")
def test_an_empty_answer_is_an_empty_string() -> None:
    client = client_of([])
    assert client.post(CHAT, json=BODY).get_json()["choices"][0]["message"]["content"] == ""
    role, finish, done = events(client)
    assert role["choices"][0]["delta"]["content"] == ""
    assert finish["choices"][0]["finish_reason"] == "stop"
    assert done is None


@pytest.mark.case("S11")
@pytest.mark.parametrize("text", ["a\n\nb", "data: [DONE]\n\n", "a\u2028b\u2029c\x85d", "\r\n: ping\r\n\r\n"], ids=repr)
def test_text_that_looks_like_the_protocol_stays_text(text: str) -> None:
    client = client_of([text])
    raw = client.post(CHAT, json={**BODY, "stream": True}).get_data(as_text=True)
    lines = [line for line in raw.splitlines() if line]  # splits at more than SSE does, as some clients do
    assert len(lines) == 4
    assert json.loads(lines[1].removeprefix("data: "))["choices"][0]["delta"]["content"] == text


@pytest.mark.case("S12")
def test_max_tokens_ends_the_answer_with_length() -> None:
    client = client_of(["a", "b", "c"])
    body = client.post(CHAT, json={**BODY, "max_tokens": 2}).get_json()
    assert body["choices"][0]["finish_reason"] == "length"
    assert body["choices"][0]["message"]["content"] == "ab"
    assert body["usage"]["completion_tokens"] == 2
    *_, finish, _ = events(client, max_tokens=2)
    assert finish["choices"][0]["finish_reason"] == "length"


def test_history_goes_before_messages() -> None:
    engine = FakeEngine()
    history = [{"role": "system", "content": "s"}, {"role": "user", "content": "q"}, {"role": "assistant"}]
    create_app(engine).test_client().post(CHAT, json={**BODY, "history": history})
    assert [(m.role, m.content) for m in engine.requests[0].messages] == [
        ("system", "s"),
        ("user", "q"),
        ("assistant", ""),
        ("user", "你好"),
    ]


@pytest.mark.case("H13")
def test_the_answer_names_the_served_model_whatever_alias_was_asked_for() -> None:
    client = client_of(["x"], aliases=["gpt-4o"])
    assert client.post(CHAT, json={**BODY, "model": "gpt-4o"}).get_json()["model"] == "chatglm2-6b"
    assert client.post(CHAT, json={**BODY, "model": None}).get_json()["model"] == "chatglm2-6b"
    assert events(client, model="gpt-4o")[0]["model"] == "chatglm2-6b"


def test_the_models_are_listed() -> None:
    client = client_of([], aliases=["org/alias"])
    listed = client.get("/v1/models").get_json()
    assert [one["id"] for one in listed["data"]] == ["chatglm2-6b"]
    assert client.get("/v1/models/chatglm2-6b").get_json() == listed["data"][0]
    assert client.get("/v1/models/org/alias").get_json() == listed["data"][0]
    response = client.get("/v1/models/gpt-4")
    assert response.status_code == 404
    assert response.get_json()["error"]["code"] == "model_not_found"
