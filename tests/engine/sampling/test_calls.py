"""Answers that may call a tool, or must: which texts a constraint allows, and what chance makes of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from glm_edge.engine.sampling.constrained import ConstraintCompiler
from glm_edge.errors import RequestError
from glm_edge.llama.model import Model
from glm_edge.types import CallFormat, Tool
from support.engines.random_answers import RandomAnswers, fits

CITY = {
    "type": "object",
    "properties": {"city": {"$ref": "#/$defs/City"}},
    "required": ["city"],
    "additionalProperties": False,
    "$defs": {"City": {"type": "string", "maxLength": 5}},
}
DAYS = {"type": "object", "properties": {"days": {"type": "integer", "minimum": 1, "maximum": 9}}, "required": ["days"]}
SCHEMAS = {"get": CITY, "get_forecast": DAYS}
TOOLS = tuple(Tool(name, json.dumps(schema), f"tools[{n}]") for n, (name, schema) in enumerate(SCHEMAS.items()))


@pytest.fixture(scope="module")
def model(demo_file: Path) -> Model:
    return Model(demo_file, vocab_only=True)


@pytest.fixture(scope="module")
def compiler(model: Model) -> ConstraintCompiler:
    return ConstraintCompiler(model)


# text -> whether it may be an answer where a call is required, and where it is not
TEXTS = {
    '{"name": "get", "arguments": {"city": "北京"}}': (True, True),
    '{"name":"get_forecast","arguments":{"days":3}}': (True, True),
    '{ "name" : "get", "arguments" : { "city" : "x" } }': (True, True),
    '{"name": "get", "arguments": {"city": 5}}': (False, False),
    '{"name": "get", "arguments": {"days": 3}}': (False, False),
    '{"name": "get", "arguments": {"city": "x"}': (False, False),
    '{"name": "get", "arguments": {"city": "x"}} 好': (False, False),
    '{"name": "other", "arguments": {}}': (False, True),
    '{"city": "x"}': (False, True),
    "你好，\n世界": (False, True),
    "": (False, True),
}


@pytest.mark.parametrize(("text", "may"), TEXTS.items(), ids=[text[:30] for text in TEXTS])
def test_an_answer_is_a_whole_call_or_where_that_is_allowed_text(
    model: Model, compiler: ConstraintCompiler, text: str, may: tuple[bool, bool]
) -> None:
    for required, allowed in zip((True, False), may, strict=True):
        (constraint,) = compiler.compile(CallFormat(TOOLS, required), 1)
        assert fits(model, constraint, text) is allowed


def test_required_calls_are_valid_whatever_the_model_writes(model: Model) -> None:
    answers = RandomAnswers(model)
    called: set[str] = set()
    for seed in range(30):
        written = answers.write(CallFormat((TOOLS[seed % 2],), required=True), seed)
        if written is not None:
            call = json.loads(written)
            Draft202012Validator(SCHEMAS[call["name"]]).validate(call["arguments"])
            called.add(call["name"])
    assert called == set(SCHEMAS)


FAULTS: dict[str, tuple[Any, str]] = {
    "keyword": ({"type": "object", "properties": {"a": {"not": {}}}}, "#/properties/a/not is not supported"),
    "nothing-matches": ({"$ref": "#"}, "cannot be used"),
    "crossed": ({"type": "object", "properties": {"a": {"type": "integer", "minimum": 2, "maximum": 1}}}, "#/"),
}


@pytest.mark.parametrize(("schema", "words"), FAULTS.values(), ids=FAULTS)
def test_a_schema_that_cannot_be_kept_is_refused_by_its_tool(
    compiler: ConstraintCompiler, schema: Any, words: str
) -> None:
    tools = (TOOLS[0], Tool("bad", json.dumps({**schema, "required": ["a"]}), "tools[1].function.parameters"))
    with pytest.raises(RequestError) as error:
        compiler.compile(CallFormat(tools), 1)
    assert error.value.param == "tools[1].function.parameters"
    assert words in str(error.value)
    assert "response_format" not in str(error.value)
