"""Every field of a chat completion: what is taken and what is refused, by name."""

from __future__ import annotations

from typing import Any

import pytest

from glm_edge.api.contract.chat import parse_chat
from glm_edge.api.contract.fields import CompletionCall
from glm_edge.errors import RequestError
from glm_edge.types import Message, Request, SamplingParams

pytestmark = pytest.mark.case("H5", "H13", "H18", "H19")

USER = {"role": "user", "content": "你好"}


def parse(**fields: Any) -> CompletionCall:
    return parse_chat({"messages": [USER], **fields})


def fault(body: Any) -> tuple[str | None, str | None]:
    with pytest.raises(RequestError) as error:
        parse_chat(body)
    assert str(error.value).isprintable()
    return error.value.param, error.value.code


def test_the_smallest_request_gets_the_defaults_of_the_contract() -> None:
    assert parse() == CompletionCall(
        Request((Message("user", "你好"),), SamplingParams(temperature=1.0, top_p=0.8, seed=None), None, ()), None
    )


def test_every_field_arrives() -> None:
    call = parse(
        history=[{"role": "user", "content": "1+1?"}, {"role": "assistant", "content": "2"}],
        model="chatglm2-6b",
        temperature=0,
        top_p=0.5,
        seed=-7,
        max_tokens=5,
        max_completion_tokens=5,
        stop=["a", "b"],
        stream=True,
        stream_options={"include_usage": True},
    )
    messages = (Message("user", "1+1?"), Message("assistant", "2"), Message("user", "你好"))
    sampling = SamplingParams(temperature=0.0, top_p=0.5, seed=-7)
    assert call == CompletionCall(Request(messages, sampling, 5, ("a", "b")), "chatglm2-6b", True, True)


@pytest.mark.case("H3")
@pytest.mark.parametrize("body", [[], "x", 1, None, True, 1.5], ids=repr)
def test_a_body_that_is_no_object_is_refused(body: Any) -> None:
    assert fault(body) == (None, None)


CALLED = {"name": "f", "arguments": "{}"}
MESSAGES = {
    "missing": ({}, "messages", "missing_required_parameter"),
    "null": ({"messages": None}, "messages", "invalid_type"),
    "string": ({"messages": "hi"}, "messages", "invalid_type"),
    "object": ({"messages": USER}, "messages", "invalid_type"),
    "empty": ({"messages": []}, "messages", "empty_array"),
    "empty-after-history": ({"messages": [], "history": [USER]}, "messages", "empty_array"),
    "number-inside": ({"messages": [123]}, "messages[0]", "invalid_type"),
    "empty-object": ({"messages": [{}]}, "messages[0].role", "missing_required_parameter"),
    "role-number": ({"messages": [{"role": 123, "content": "x"}]}, "messages[0].role", "invalid_type"),
    "role-null": ({"messages": [{"role": None, "content": "x"}]}, "messages[0].role", "invalid_type"),
    "role-unknown": ({"messages": [{"role": "king", "content": "x"}]}, "messages[0].role", "invalid_value"),
    "role-upper-case": ({"messages": [{"role": "User", "content": "x"}]}, "messages[0].role", "invalid_value"),
    "role-function": (
        {"messages": [{"role": "function", "content": "x"}, USER]},
        "messages[0].role",
        "unsupported_value",
    ),
    "role-tool": (
        {"messages": [{"role": "tool", "content": "x"}, USER]},
        "messages[0].tool_call_id",
        "missing_required_parameter",
    ),
    "content-missing": ({"messages": [{"role": "user"}]}, "messages[0].content", "missing_required_parameter"),
    "content-null": (
        {"messages": [{"role": "system", "content": None}, USER]},
        "messages[0].content",
        "missing_required_parameter",
    ),
    "content-number": ({"messages": [{"role": "user", "content": 123}]}, "messages[0].content", "invalid_type"),
    "content-empty-array": ({"messages": [{"role": "user", "content": []}]}, "messages[0].content", "empty_array"),
    "content-string-array": (
        {"messages": [{"role": "user", "content": ["x"]}]},
        "messages[0].content[0]",
        "invalid_type",
    ),
    "content-nul": ({"messages": [{"role": "user", "content": "a\0b"}]}, "messages[0].content", "invalid_value"),
    "part-image": (
        {"messages": [USER, USER, {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
        "messages[2].content[0].type",
        "unsupported_value",
    ),
    "part-without-text": (
        {"messages": [{"role": "user", "content": [{"type": "text"}]}]},
        "messages[0].content[0].text",
        "missing_required_parameter",
    ),
    "name-too-long": ({"messages": [{**USER, "name": "a" * 65}]}, "messages[0].name", "invalid_value"),
    "name-with-space": ({"messages": [{**USER, "name": "a b"}]}, "messages[0].name", "invalid_value"),
    "name-with-line-end": ({"messages": [{**USER, "name": "a\n"}]}, "messages[0].name", "invalid_value"),
    "name-chinese": ({"messages": [{**USER, "name": "小明"}]}, "messages[0].name", "invalid_value"),
    "unknown-key": ({"messages": [{**USER, "weight": 1}]}, "messages[0].weight", "unknown_parameter"),
    "tool-calls": (
        {"messages": [{"role": "assistant", "tool_calls": [{}]}, USER]},
        "messages[0].tool_calls[0].id",
        "missing_required_parameter",
    ),
    "users-tool-calls": (
        {"messages": [{**USER, "tool_calls": [{"id": "1", "type": "function", "function": CALLED}]}, USER]},
        "messages[0].tool_calls",
        "invalid_value",
    ),
    "last-is-assistant": (
        {"messages": [USER, {"role": "assistant", "content": "x"}]},
        "messages[1].role",
        "invalid_value",
    ),
    "two-trailing-assistants": (
        {"messages": [USER, *[{"role": "assistant", "content": "x"}] * 2]},
        "messages[2].role",
        "invalid_value",
    ),
    "last-is-system": ({"messages": [USER, {"role": "system", "content": "x"}]}, "messages[1].role", "invalid_value"),
    "history-of-pairs": ({"messages": [USER], "history": [["q", "a"]]}, "history[0]", "invalid_type"),
    "history-bad-role": (
        {"messages": [USER], "history": [USER, {"role": 1, "content": ""}]},
        "history[1].role",
        "invalid_type",
    ),
}


@pytest.mark.case("H14")
@pytest.mark.parametrize(("body", "param", "code"), MESSAGES.values(), ids=MESSAGES)
def test_a_bad_message_is_refused_with_the_path_of_its_fault(body: Any, param: str, code: str) -> None:
    assert fault(body) == (param, code)


def test_messages_of_every_allowed_form_are_read() -> None:
    call = parse(
        messages=[
            {"role": "developer", "content": "be brief", "name": "Boss_1"},
            {"role": "assistant", "content": None, "refusal": None, "tool_calls": [], "function_call": None},
            {"role": "assistant"},
            {"role": "user", "content": [{"type": "text", "text": "一"}, {"type": "text", "text": "二"}]},
            {"role": "user", "content": ""},
        ]
    )
    assert call.request.messages == (
        Message("system", "be brief"),
        Message("assistant", ""),
        Message("assistant", ""),
        Message("user", "一\n二"),
        Message("user", ""),
    )


ASSISTANT = {"role": "assistant", "content": "好的"}


@pytest.mark.parametrize("fields", [{}, {"add_generation_prompt": False}], ids=["alone", "with add_generation_prompt"])
def test_a_last_message_of_the_assistant_is_continued_where_that_is_asked_for(fields: Any) -> None:
    call = parse(messages=[USER, ASSISTANT], continue_final_message=True, **fields)
    assert call.request.messages == (Message("user", "你好"), Message("assistant", "好的"))


CONTINUED: dict[str, tuple[Any, str]] = {
    "not-asked-for": ({"messages": [USER, ASSISTANT], "continue_final_message": False}, "messages[1].role"),
    "no-prompt-alone": ({"messages": [USER, ASSISTANT], "add_generation_prompt": False}, "messages[1].role"),
    "nothing-to-continue": ({"messages": [USER], "continue_final_message": True}, "messages[0].role"),
    "both": (
        {"messages": [USER, ASSISTANT], "continue_final_message": True, "add_generation_prompt": True},
        "add_generation_prompt",
    ),
    "neither": ({"messages": [USER], "add_generation_prompt": False}, "add_generation_prompt"),
}


@pytest.mark.case("H14")
@pytest.mark.parametrize(("body", "param"), CONTINUED.values(), ids=CONTINUED)
def test_what_is_continued_must_be_there_and_be_asked_for(body: Any, param: str) -> None:
    assert fault(body) == (param, "invalid_value")


VALUES = {
    "temperature": ([-0.1, 2.01, 10**30], ["1", True, [], {}]),
    "top_p": ([-0.1, 1.01], ["1", False]),
    "max_tokens": ([0, -1], [1.5, "1", True]),
    "max_completion_tokens": ([0, -1], [1.5, "1", True]),
    "seed": ([2**63, -(2**63) - 1], [1.5, "1", True]),
    "stream": ([], ["true", 1, 0]),
    "model": (["a\0"], [1, [], {}, True]),
    "stop": ([""], [5, {}, True]),
    "user": (["\0"], [1, {}]),
    "metadata": ([{str(n): "x" for n in range(17)}, {"x" * 65: "y"}], ["x", []]),
}
BAD = [(name, value, "invalid_value") for name, (values, _) in VALUES.items() for value in values]
BAD += [(name, value, "invalid_type") for name, (_, values) in VALUES.items() for value in values]


@pytest.mark.case("H15", "H16", "H17")
@pytest.mark.parametrize(("name", "value", "code"), BAD, ids=[f"{n}={str(v)[:20]!r}" for n, v, _ in BAD])
def test_a_bad_value_is_refused(name: str, value: Any, code: str) -> None:
    assert fault({"messages": [USER], name: value}) == (name, code)


@pytest.mark.parametrize("name", VALUES)
def test_null_means_the_default(name: str) -> None:
    assert parse(**{name: None}) == parse()


STOPS = {
    "five": (["a", "b", "c", "d", "e"], "stop", "array_above_max_length"),
    "empty-inside": (["a", ""], "stop[1]", "invalid_value"),
    "number-inside": (["a", 1], "stop[1]", "invalid_type"),
    "10-kb": ("x" * 10_000, "stop", "string_above_max_length"),
}


@pytest.mark.case("H17")
@pytest.mark.parametrize(("value", "param", "code"), STOPS.values(), ids=STOPS)
def test_a_bad_stop_is_refused(value: Any, param: str, code: str) -> None:
    assert fault({"messages": [USER], "stop": value}) == (param, code)


@pytest.mark.case("H17")
@pytest.mark.parametrize(("value", "stop"), [("。", ("。",)), (["a", "b", "c", "d"], ("a", "b", "c", "d")), ([], ())])
def test_a_good_stop_is_read(value: Any, stop: tuple[str, ...]) -> None:
    assert parse(stop=value).request.stop == stop


@pytest.mark.case("H16")
def test_a_huge_max_tokens_passes_and_two_different_ones_do_not() -> None:
    assert parse(max_tokens=10**30).request.max_tokens == 10**30
    assert parse(max_completion_tokens=7).request.max_tokens == 7
    assert parse(max_tokens=7.0).request.max_tokens == 7
    assert fault({"messages": [USER], "max_tokens": 5, "max_completion_tokens": 6}) == ("max_tokens", "invalid_value")


@pytest.mark.case("S3")
@pytest.mark.parametrize(
    ("options", "param", "code"),
    [
        ({"stream_options": {"include_usage": True}}, "stream_options", "invalid_value"),
        ({"stream": False, "stream_options": {}}, "stream_options", "invalid_value"),
        ({"stream": True, "stream_options": "x"}, "stream_options", "invalid_type"),
        ({"stream": True, "stream_options": {"include_usage": 1}}, "stream_options.include_usage", "invalid_type"),
        ({"stream": True, "stream_options": {"foo": 1}}, "stream_options.foo", "unknown_parameter"),
    ],
)
def test_stream_options_without_a_stream_or_of_a_bad_form_are_refused(options: Any, param: str, code: str) -> None:
    assert fault({"messages": [USER], **options}) == (param, code)
