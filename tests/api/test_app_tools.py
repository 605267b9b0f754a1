"""Answers that call a tool, at once and in a stream, in OpenAI's form."""

from __future__ import annotations

import json
from typing import Any

import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from glm_edge.api.app import create_app
from glm_edge.api.contract.answers.calls import CallReader
from support.engines.fake_engine import FakeEngine

CHAT = "/v1/chat/completions"
TOOLS = [{"type": "function", "function": {"name": name}} for name in ("get", "get_weather")]
BODY = {"messages": [{"role": "user", "content": "x"}], "tools": TOOLS}
ARGUMENTS = '{"city": "北}京", "more": {"n": [1, {}]}}'
CALL = f'{{"name": "get_weather", "arguments": {ARGUMENTS}}}'


def ask(said: list[str], **fields: Any) -> Any:
    response = create_app(FakeEngine(said)).test_client().post(CHAT, json={**BODY, **fields})
    assert response.status_code == 200, response.get_data(as_text=True)
    if not fields.get("stream"):
        return response.get_json()
    *data, done = [one.removeprefix("data: ") for one in response.get_data(as_text=True).split("\n\n") if one]
    assert done == "[DONE]"
    return [json.loads(one) for one in data]


def in_pieces(text: str, size: int) -> list[str]:
    return [text[i : i + size] for i in range(0, len(text), size)]


def test_a_call_is_the_message() -> None:
    body = ask([CALL], n=2, logprobs=True)
    ChatCompletion.model_validate(body, strict=True)
    ids = set()
    for choice in body["choices"]:
        assert (choice["finish_reason"], choice["message"]["content"]) == ("tool_calls", None)
        (call,) = choice["message"]["tool_calls"]
        assert (call["type"], call["function"]) == ("function", {"name": "get_weather", "arguments": ARGUMENTS})
        ids.add(call["id"])
    assert len(ids) == 2


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
@pytest.mark.parametrize("logprobs", [False, True], ids=["", "logprobs"])
def test_a_call_comes_in_a_stream_name_first(size: int, logprobs: bool) -> None:
    said = in_pieces(CALL, size)
    chunks = ask(said, stream=True, logprobs=logprobs)
    for chunk in chunks:
        ChatCompletionChunk.model_validate(chunk, strict=True)
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert deltas[0] == {"role": "assistant", "content": None, "refusal": None}
    first, *rest = [call for delta in deltas for call in delta.get("tool_calls", [])]
    assert (first["index"], first["type"]) == (0, "function")
    assert first["id"].startswith("call_")
    assert first["function"] == {"name": "get_weather", "arguments": ""}
    assert {tuple(call) for call in rest} == {("index", "function")}
    assert "".join(call["function"]["arguments"] for call in rest) == ARGUMENTS
    assert not any(delta.get("content") for delta in deltas)
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks][-1] == "tool_calls"
    if logprobs:
        scored = [chunk["choices"][0]["logprobs"] for chunk in chunks]
        assert [one["token"] for found in scored if found for one in found["content"]] == said


TEXTS = [
    "你好",
    '{"name": "other", "arguments": {}}',
    '{"city": 1}',
    '{"na',
    "{",
    '{"name": "get", "argu',
    "",
    '{ } "name"',
]


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("size", [1, 1000])
def test_what_is_no_call_is_text(text: str, size: int) -> None:
    said = in_pieces(text, size)
    (choice,) = ask(said)["choices"]
    assert (choice["message"]["content"], choice["finish_reason"]) == (text, "stop")
    assert "tool_calls" not in choice["message"]
    chunks = ask(said, stream=True)
    assert "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks) == text
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"


def test_text_that_cannot_be_a_call_is_not_held_back() -> None:
    reader = CallReader(["get"])
    assert [part.value for part in reader.feed("你")] == ["你"]
    reader = CallReader(["get"])
    assert [reader.feed('{"'), [part.value for part in reader.feed("c")]] == [[], ['{"c']]


@pytest.mark.parametrize("stream", [False, True])
def test_a_call_cut_by_its_length_is_given_as_far_as_it_came(stream: bool) -> None:
    said = in_pieces(CALL, 8)
    answer = ask(said, max_tokens=6, stream=stream)
    if stream:
        calls = [call for one in answer for call in one["choices"][0]["delta"].get("tool_calls", [])]
        arguments, reason = "".join(call["function"]["arguments"] for call in calls), answer[-1]["choices"][0]
    else:
        reason = answer["choices"][0]
        arguments = reason["message"]["tool_calls"][0]["function"]["arguments"]
    assert reason["finish_reason"] == "length"
    assert arguments
    assert ARGUMENTS.startswith(arguments)


NAMED = {"type": "function", "function": {"name": "get_weather"}}


@pytest.mark.parametrize("choice", ["required", NAMED], ids=["required", "named"])
def test_a_call_that_must_come_and_is_cut_before_its_name_is_no_text(choice: Any) -> None:
    fields = {"max_tokens": 2, "tool_choice": choice}
    (whole,) = ask(in_pieces(CALL, 8), **fields)["choices"]
    assert (whole["message"]["content"], whole["finish_reason"]) == (None, "length")
    chunks = ask(in_pieces(CALL, 8), stream=True, **fields)
    assert not any(chunk["choices"][0]["delta"].get("content") for chunk in chunks)
    assert chunks[-1]["choices"][0]["finish_reason"] == "length"


def test_without_tools_a_call_is_text() -> None:
    assert ask([CALL], tool_choice="none")["choices"][0]["message"]["content"] == CALL
