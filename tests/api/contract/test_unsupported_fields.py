"""Fields that ask for what is not there: named, never ignored; values that ask for nothing pass."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from glm_edge.api.contract.chat import ChatRequest, parse_chat
from glm_edge.api.contract.completions import CompletionRequest, parse_completion
from glm_edge.api.contract.fields import CompletionCall, CompletionFields
from glm_edge.api.contract.served_model import adapter_named
from glm_edge.errors import RequestError
from glm_edge.types import ModelInfo
from support.server.bad_bodies import UNSUPPORTED

BODY = {"messages": [{"role": "user", "content": "x"}]}
SERVED = ModelInfo("chatglm2-6b", Path("model.gguf"), n_params=1, n_ctx=8192)


NOTHING = [
    {"n": 1},
    {"tools": []},
    {"tools": None, "tool_choice": None},
    {"tool_choice": "none"},
    {"tool_choice": "auto"},
    {"functions": []},
    {"parallel_tool_calls": True},
    {"logprobs": False},
    {"logprobs": None, "top_logprobs": None},
    {"logit_bias": {}},
    {"frequency_penalty": 0},
    {"presence_penalty": 0.0},
    {"response_format": {"type": "text"}},
    {"top_logprobs": 0},
    {"top_k": 0, "min_p": 0, "repetition_penalty": 1},
    {"repeat_penalty": 1},
    {"modalities": ["text"]},
    {"store": False},
    {"user": "u-1", "safety_identifier": "s"},
    {"metadata": {"a": "b"}},
    {"service_tier": "auto"},
    {"stream": False, "stream_options": None},
    {"tools": [], "tool_choice": "none", "parallel_tool_calls": False},
    {"seed": None, "stop": None, "n": None, "user": None},
    {"reasoning_effort": "none", "verbosity": "medium"},
    {"messages": [{"role": "user", "content": "x", "name": None}]},
    {"prompt_cache_key": "k"},
]


@pytest.mark.case("H18")
@pytest.mark.parametrize(("name", "value"), UNSUPPORTED.items(), ids=UNSUPPORTED)
def test_an_unsupported_field_is_named(name: str, value: Any) -> None:
    with pytest.raises(RequestError) as error:
        parse_chat({**BODY, name: value})
    assert (error.value.param, error.value.code) == (name, "unsupported_parameter")
    assert name in str(error.value)


@pytest.mark.case("H18")
@pytest.mark.parametrize("fields", NOTHING, ids=str)
def test_a_value_that_asks_for_nothing_passes(fields: dict[str, Any]) -> None:
    assert parse_chat({**BODY, **fields}) == parse_chat(BODY)


@pytest.mark.case("H18")
@pytest.mark.parametrize(
    ("parse", "model", "needed"),
    [(parse_chat, ChatRequest, BODY), (parse_completion, CompletionRequest, {"prompt": "x"})],
    ids=["chat", "text"],
)
def test_null_is_absent_in_every_field(
    parse: Callable[[Any], CompletionCall], model: type[CompletionFields], needed: dict[str, Any]
) -> None:
    """Clients fill in null for what their user has not set."""
    assert parse({**dict.fromkeys(model.model_fields), **needed}) == parse(needed)
    for name in model.model_fields:
        assert parse({name: None, **needed}) == parse(needed)


@pytest.mark.case("H18")
@pytest.mark.parametrize("value", [0, 1, "false"], ids=repr)
def test_a_number_is_not_taken_for_a_boolean(value: Any) -> None:
    with pytest.raises(RequestError) as error:
        parse_chat({**BODY, "logprobs": value})
    assert error.value.param == "logprobs"


@pytest.mark.case("H19")
@pytest.mark.parametrize("name", ["foo", "Temperature", "", "messages ", "x" * 10_000], ids=lambda name: name[:10])
def test_an_unknown_field_is_named(name: str) -> None:
    with pytest.raises(RequestError) as error:
        parse_chat({**BODY, name: None})
    assert (error.value.param, error.value.code) == (name[:64], "unknown_parameter")


@pytest.mark.case("H19")
@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({**BODY, **dict.fromkeys(map(str, range(200_000)))}, "0"),
        ({"messages": [{"role": "user", "content": "x", **dict.fromkeys(map(str, range(200_000)))}]}, "messages[0].0"),
    ],
    ids=["body", "message"],
)
def test_the_first_of_many_unknown_fields_is_named_without_an_error_for_each(body: Any, param: str) -> None:
    tracemalloc.start()
    with pytest.raises(RequestError) as error:
        parse_chat(body)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (error.value.param, error.value.code) == (param, "unknown_parameter")
    assert peak < 1_000_000  # bytes


@pytest.mark.case("H13")
@pytest.mark.parametrize("name", [None, "", "chatglm2-6b", "ChatGLM2-6B", "my-file", "MY-FILE", "gpt-4o", "GPT-4o"])
def test_the_served_model_its_aliases_and_no_name_are_accepted(name: str | None) -> None:
    assert adapter_named(name, replace(SERVED, id="my-file"), ["gpt-4o"]) is None


@pytest.mark.case("H13")
@pytest.mark.parametrize(("name", "adapter"), [("adgen", "adgen"), ("ADGEN", "adgen"), ("chatglm2-6b", None)])
def test_an_adapter_is_asked_for_by_its_name(name: str, adapter: str | None) -> None:
    assert adapter_named(name, replace(SERVED, adapters=("adgen", "chat"))) == adapter


@pytest.mark.case("H13")
@pytest.mark.parametrize("name", ["gpt-4", " ", "chatglm2", "\x1b[31m"])
def test_another_model_does_not_exist(name: str) -> None:
    with pytest.raises(RequestError) as error:
        adapter_named(name, SERVED)
    assert (error.value.param, error.value.code) == ("model", "model_not_found")
    assert "chatglm2-6b" in str(error.value)
    assert str(error.value).isprintable()
