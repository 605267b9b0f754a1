"""POST /v1/responses: what the engine is asked, what comes back, and the events that openai-python's client reads."""

from __future__ import annotations

import json
from typing import Any

import pytest
from openai.types.responses import Response

from glm_edge.api.app import create_app
from glm_edge.api.contract.response_request import parse_response
from glm_edge.errors import EngineError, RequestError
from glm_edge.types import CallFormat, JsonFormat, Message
from support.engines.fake_engine import FakeEngine

PATH = "/v1/responses"
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOL = {"type": "function", "name": "get_weather", "parameters": SCHEMA}
ARGUMENTS = '{"city": "北京"}'
CALL = [*f'{{"name": "get_weather", "arguments": {ARGUMENTS}}}']


def ask(said: list[Any], **fields: Any) -> Any:
    response = create_app(FakeEngine(said)).test_client().post(PATH, json={"input": "x", **fields})
    assert response.status_code == 200, response.get_data(as_text=True)
    return response.get_json()


def events(said: list[Any], **fields: Any) -> list[Any]:
    raw = create_app(FakeEngine(said)).test_client().post(PATH, json={"input": "x", "stream": True, **fields})
    found = []
    for block in raw.get_data(as_text=True).split("\n\n"):
        if block and not block.startswith(":"):
            name, data = block.split("\n")
            found.append(json.loads(data.removeprefix("data: ")))
            assert name == f"event: {found[-1]['type']}"
    assert [one["sequence_number"] for one in found] == list(range(len(found)))
    return found


def test_a_text_is_answered() -> None:
    body = ask(["你", "好"], instructions="短", model="chatglm2-6b", metadata={"a": "b"})
    found = Response.model_validate(body, strict=True)
    assert (found.output_text, found.status, found.instructions) == ("你好", "completed", "短")
    assert found.usage is not None
    assert (found.usage.output_tokens, found.usage.total_tokens) == (2, found.usage.input_tokens + 2)
    assert (body["store"], body["previous_response_id"], body["metadata"]) == (False, None, {"a": "b"})


def test_a_text_comes_in_a_stream() -> None:
    found = events(["你", "好"])
    assert [one["type"].removeprefix("response.") for one in found] == [
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "completed",
    ]
    last = found[-1]["response"]
    Response.model_validate(last, strict=True)
    assert last["output"] == [found[-2]["item"]]
    assert "".join(one["delta"] for one in found if "delta" in one) == last["output"][0]["content"][0]["text"] == "你好"


def test_an_answer_without_a_token_has_all_events_too() -> None:
    assert [one["type"].rpartition(".")[2] for one in events([])][-4:] == ["done", "done", "done", "completed"]


def test_an_answer_that_is_cut_is_incomplete() -> None:
    assert ask(["你", "好"], max_output_tokens=1)["incomplete_details"] == {"reason": "max_output_tokens"}
    last = events(["你", "好"], max_output_tokens=1)[-1]
    assert (last["type"], last["response"]["status"]) == ("response.incomplete", "incomplete")


@pytest.mark.case("S8")
def test_a_stream_that_fails_ends_with_an_error_and_without_its_last_event() -> None:
    client = create_app(FakeEngine(["好", EngineError("broken")])).test_client()
    with pytest.raises(ConnectionAbortedError):
        client.post(PATH, json={"input": "x", "stream": True}).get_data()


def test_a_call_is_an_output_item() -> None:
    body = ask(CALL, tools=[TOOL])
    (call,) = Response.model_validate(body, strict=True).output
    assert call.type == "function_call"
    assert (call.name, call.arguments, call.status) == ("get_weather", ARGUMENTS, "completed")
    assert call.call_id.startswith("call_")


def test_a_call_comes_in_a_stream() -> None:
    found = events(CALL, tools=[TOOL])
    kinds = [one["type"].removeprefix("response.") for one in found]
    assert kinds[:3] == ["created", "in_progress", "output_item.added"]
    assert kinds[-3:] == ["function_call_arguments.done", "output_item.done", "completed"]
    assert found[2]["item"]["name"] == "get_weather"
    assert "".join(one["delta"] for one in found if "delta" in one) == found[-3]["arguments"] == ARGUMENTS
    assert found[-1]["response"]["output"][0]["call_id"] == found[2]["item"]["call_id"]


def test_a_conversation_with_calls_is_read() -> None:
    call, _ = parse_response(
        {
            "instructions": "短",
            "input": [
                {"role": "developer", "content": "礼貌"},
                {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "天气？"}]},
                {"type": "function_call", "call_id": "c", "name": "get_weather", "arguments": ARGUMENTS},
                {"type": "function_call_output", "call_id": "c", "output": "12 °C"},
                {
                    "type": "message",
                    "id": "msg_1",
                    "status": "completed",
                    "role": "assistant",
                    "content": [{"type": "output_text", "text": "十二度", "annotations": [], "logprobs": []}],
                },
                {"role": "user", "content": "好"},
            ],
            "max_output_tokens": 7,
            "text": {"format": {"type": "json_schema", "name": "x", "schema": SCHEMA, "strict": True}},
        }
    )
    assert call.request.messages == (
        Message("system", "短"),
        Message("system", "礼貌"),
        Message("user", "天气？"),
        Message("assistant", f'{{"name": "get_weather", "arguments": {ARGUMENTS}}}'),
        Message("user", "Result of get_weather: 12 °C"),
        Message("assistant", "十二度"),
        Message("user", "好"),
    )
    assert call.request.sampling.response_format == JsonFormat(json.dumps(SCHEMA))
    assert (call.request.max_tokens, call.request.sampling.temperature) == (7, 1.0)


def test_a_function_may_be_asked_for_by_its_name() -> None:
    call, settings = parse_response(
        {"input": "x", "tools": [TOOL], "tool_choice": {"type": "function", "name": "get_weather"}}
    )
    assert isinstance(call.request.sampling.response_format, CallFormat)
    assert call.request.sampling.response_format.required
    assert settings["tool_choice"] == {"type": "function", "name": "get_weather"}


USER = {"role": "user", "content": "x"}
BAD: dict[str, tuple[dict[str, Any], str, str]] = {
    "store": ({"store": True}, "store", "unsupported_parameter"),
    "previous": ({"previous_response_id": "resp_1"}, "previous_response_id", "unsupported_parameter"),
    "conversation": ({"conversation": "c"}, "conversation", "unsupported_parameter"),
    "background": ({"background": True}, "background", "unsupported_parameter"),
    "reasoning": ({"reasoning": {"effort": "high"}}, "reasoning", "unsupported_parameter"),
    "no-input": ({"input": None}, "input", "invalid_type"),
    "empty": ({"input": []}, "input", "empty_array"),
    "no-item": ({"input": ["x"]}, "input[0]", "invalid_type"),
    "image": (
        {"input": [{"role": "user", "content": [{"type": "input_image"}]}]},
        "input[0].content[0].type",
        "unsupported_value",
    ),
    "reference": ({"input": [{"type": "item_reference", "id": "x"}]}, "input[0].type", "invalid_value"),
    "call-without-name": (
        {"input": [{"type": "function_call", "call_id": "c", "arguments": "{}"}, USER]},
        "input[0].name",
        "missing_required_parameter",
    ),
    "answer-last": ({"input": [{"role": "assistant", "content": "x"}]}, "input[0]", "invalid_value"),
    "no-schema": ({"text": {"format": {"type": "json_schema"}}}, "text.format.schema", "invalid_value"),
    "built-in-tool": ({"tools": [{"type": "web_search"}]}, "tools[0].type", "unsupported_value"),
    "string-schema": ({"tools": [{**TOOL, "parameters": {"type": "string"}}]}, "tools[0].parameters", "invalid_value"),
    "chat-tool": ({"tools": [{"type": "function", "function": {}}]}, "tools[0].name", "missing_required_parameter"),
    "format-and-tools": (
        {"tools": [TOOL], "text": {"format": {"type": "json_object"}}},
        "text.format",
        "invalid_value",
    ),
    "unknown": ({"messages": []}, "messages", "unknown_parameter"),
    "zero": ({"max_output_tokens": 0}, "max_output_tokens", "invalid_value"),
}


@pytest.mark.case("H18")
@pytest.mark.parametrize(("fields", "param", "code"), BAD.values(), ids=BAD)
def test_a_fault_is_named(fields: dict[str, Any], param: str, code: str) -> None:
    with pytest.raises(RequestError) as error:
        parse_response({"input": "x", **fields})
    assert (error.value.param, error.value.code) == (param, code)


def test_an_unknown_item_is_told_what_items_there_are() -> None:
    with pytest.raises(RequestError) as error:
        parse_response({"input": [{"type": "bogus"}]})
    known = "'message', 'function_call' or 'function_call_output'"
    assert str(error.value) == f'input[0].type: must be {known}, not "bogus"'
