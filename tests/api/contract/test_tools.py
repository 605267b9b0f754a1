"""Tools in requests: what is refused, what the engine is asked, and how calls and results become text."""

from __future__ import annotations

import json
from typing import Any

import pytest

from glm_edge.api.contract.chat import parse_chat
from glm_edge.errors import RequestError
from glm_edge.types import CallFormat, Message, Tool

USER = {"role": "user", "content": "北京的天气？"}
PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER = {
    "type": "function",
    "function": {"name": "get_weather", "description": "天气", "parameters": PARAMETERS, "strict": True},
}
TIME = {"type": "function", "function": {"name": "time"}}
TOOLS = (
    Tool("get_weather", json.dumps(PARAMETERS), "tools[0].function.parameters"),
    Tool("time", '{"type": "object", "additionalProperties": false}', "tools[1].function.parameters"),
)


def parse(**fields: Any) -> Any:
    return parse_chat({"messages": [USER], "tools": [WEATHER, TIME], **fields}).request


@pytest.mark.parametrize(
    ("choice", "format"),
    [
        (None, CallFormat(TOOLS)),
        ("auto", CallFormat(TOOLS)),
        ("none", None),
        ("required", CallFormat(TOOLS, required=True)),
        ({"type": "function", "function": {"name": "time"}}, CallFormat(TOOLS[1:], required=True)),
    ],
    ids=["absent", "auto", "none", "required", "named"],
)
def test_a_choice_becomes_the_answers_format(choice: Any, format: CallFormat | None) -> None:
    request = parse(tool_choice=choice, parallel_tool_calls=True)
    assert request.sampling.response_format == format
    described, question = request.messages if format else (None, *request.messages)
    assert question == Message("user", USER["content"])
    if described is not None:
        assert described.role == "system"
        assert "- get_weather: 天气\n  Arguments: " + json.dumps(PARAMETERS) in described.content
        assert "- time\n" in described.content


def test_the_same_tools_are_described_alike_whatever_must_be_called() -> None:
    named = {"type": "function", "function": {"name": "time"}}
    assert parse(tool_choice=named).messages == parse(tool_choice="required").messages == parse().messages


def test_a_schema_without_a_type_is_an_objects() -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": {"description": "x"}}}
    (made,) = parse(tools=[tool]).sampling.response_format.tools
    assert json.loads(made.parameters) == {"type": "object", "description": "x"}


def test_a_call_and_its_result_are_put_into_the_conversation() -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "get_weather", "arguments": '{"city": "北京"}'}}
    request = parse(
        messages=[
            USER,
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "call_1", "content": [{"type": "text", "text": "12 °C"}]},
        ],
        tool_choice="none",
    )
    assert request.messages == (
        Message("user", "北京的天气？"),
        Message("assistant", '{"name": "get_weather", "arguments": {"city": "北京"}}'),
        Message("user", "Result of get_weather: 12 °C"),
    )
    unknown = parse(messages=[USER, {"role": "tool", "tool_call_id": "x", "content": "12"}], tool_choice="none")
    assert unknown.messages[-1] == Message("user", "Result: 12")


def test_a_stop_string_ends_no_call_that_is_required() -> None:
    assert parse(stop=["}"], tool_choice="required").stop == ()
    assert parse(stop=["}"]).stop == ("}",)


def test_a_format_stands_beside_tools_that_are_not_or_must_be_called() -> None:
    asked = {"response_format": {"type": "json_object"}}
    assert isinstance(parse(**asked, tool_choice="required").sampling.response_format, CallFormat)
    assert not isinstance(parse(**asked, tool_choice="none").sampling.response_format, CallFormat)


CALL = {"id": "c", "type": "function", "function": {"name": "time", "arguments": "{}"}}
LAST = {"role": "assistant", "content": "好"}
NAMED = {"type": "function", "function": {"name": "other"}}
BAD: dict[str, tuple[dict[str, Any], str, str]] = {
    "no-array": ({"tools": WEATHER}, "tools", "invalid_type"),
    "no-object": ({"tools": ["get_weather"]}, "tools[0]", "invalid_type"),
    "another-type": ({"tools": [{"type": "web_search"}]}, "tools[0].type", "unsupported_value"),
    "no-function": ({"tools": [{"type": "function"}]}, "tools[0].function", "missing_required_parameter"),
    "no-name": (
        {"tools": [{"type": "function", "function": {}}]},
        "tools[0].function.name",
        "missing_required_parameter",
    ),
    "bad-name": (
        {"tools": [{"type": "function", "function": {"name": "天气"}}]},
        "tools[0].function.name",
        "invalid_value",
    ),
    "bad-schema": (
        {"tools": [{"type": "function", "function": {"name": "f", "parameters": []}}]},
        "tools[0].function.parameters",
        "invalid_type",
    ),
    "schema-of-a-string": (
        {"tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "string"}}}]},
        "tools[0].function.parameters",
        "invalid_value",
    ),
    "schema-of-several-types": (
        {"tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": ["object", "null"]}}}]},
        "tools[0].function.parameters",
        "invalid_value",
    ),
    "unknown-field": ({"tools": [{**TIME, "x": 1}]}, "tools[0].x", "unknown_parameter"),
    "twice": ({"tools": [TIME, TIME]}, "tools", "invalid_value"),
    "too-many": ({"tools": [TIME] * 129}, "tools", "array_above_max_length"),
    "choice-unknown": ({"tool_choice": "always"}, "tool_choice", "invalid_value"),
    "choice-number": ({"tool_choice": 1}, "tool_choice", "invalid_type"),
    "choice-of-several": ({"tool_choice": {"type": "allowed_tools"}}, "tool_choice.type", "unsupported_value"),
    "choice-not-there": ({"tool_choice": NAMED}, "tool_choice", "invalid_value"),
    "choice-without-tools": ({"tools": [], "tool_choice": "required"}, "tool_choice", "invalid_value"),
    "name-without-tools": ({"tools": None, "tool_choice": NAMED}, "tool_choice", "invalid_value"),
    "parallel": ({"parallel_tool_calls": 1}, "parallel_tool_calls", "invalid_type"),
    "format": ({"response_format": {"type": "json_object"}}, "response_format", "invalid_value"),
    "continued": (
        {"messages": [USER, LAST], "continue_final_message": True},
        "continue_final_message",
        "invalid_value",
    ),
    "call-continued": (
        {
            "messages": [USER, {"role": "assistant", "content": None, "tool_calls": [CALL]}],
            "tools": None,
            "continue_final_message": True,
        },
        "messages[1].tool_calls",
        "invalid_value",
    ),
}


@pytest.mark.case("H18")
@pytest.mark.parametrize(("fields", "param", "code"), BAD.values(), ids=BAD)
def test_a_fault_is_named(fields: dict[str, Any], param: str, code: str) -> None:
    with pytest.raises(RequestError) as error:
        parse(**fields)
    assert (error.value.param, error.value.code) == (param, code)


@pytest.mark.parametrize("choice", [None, "none", "auto"])
def test_a_choice_without_tools_may_ask_for_nothing(choice: str | None) -> None:
    assert parse(tools=[], tool_choice=choice).sampling.response_format is None
