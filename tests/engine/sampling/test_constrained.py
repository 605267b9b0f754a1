"""Which texts an answer in a format may be, what a constraint allows, and which schemas are refused where."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from glm_edge.engine.sampling.constrained import Constraint, ConstraintCompiler
from glm_edge.errors import RequestError
from glm_edge.llama.model import Model
from glm_edge.types import JsonFormat
from support.engines.random_answers import fits


@pytest.fixture(scope="module")
def model(demo_file: Path) -> Model:
    return Model(demo_file, vocab_only=True)


@pytest.fixture(scope="module")
def compiler(model: Model) -> ConstraintCompiler:
    return ConstraintCompiler(model)


def compiled(compiler: ConstraintCompiler, schema: Any = None) -> Constraint:
    (constraint,) = compiler.compile(JsonFormat(None if schema is None else json.dumps(schema)), 1)
    return constraint


OBJECTS = {
    "{}": True,
    '{"a": 1}': True,
    '{"a":[1,2.5e-3,{"x":null,"y":true}],"é中":"\\n\\u12ab 中"}': True,
    '{\n  "a": {\n    "b": []\n  }\n}': True,
    "[1]": False,
    '{"a":01}': False,
    '{"a":1,}': False,
    '{"a":"x\ny"}': False,
    '{"a":"\\ud800"}': False,
    '{"a":NaN}': False,
    '{"a":1} {}': False,
    '{"a":' + " " * 50 + "1}": False,
}


@pytest.mark.parametrize(("text", "good"), OBJECTS.items(), ids=[t[:30] for t in OBJECTS])
def test_any_object_is_just_what_json_allows(model: Model, compiler: ConstraintCompiler, text: str, good: bool) -> None:
    assert fits(model, compiled(compiler), text) is good


NODE = {
    "type": "object",
    "properties": {"v": {"type": "integer"}, "next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]}},
    "required": ["v", "next"],
}
SOME = {
    "type": "object",
    "title": "notes are no rules",
    "properties": {"a": {"type": "string"}, "b": {"type": "integer"}, "c": {"type": ["string", "null"]}},
    "required": ["b"],
}
SCHEMAS: dict[str, tuple[Any, list[str], list[str]]] = {
    "properties": (
        SOME,
        ['{"b":1}', '{"a":"x","b":2}', '{"b":1,"c":null}', '{ "a": "x", "b": 2, "c": "s" }'],
        ['{"a":"x"}', "{}", '{"b":1,"a":"x"}', '{"b":1.5}', '{"b":1,}', '{"b":1,"d":1}'],
    ),
    "all-optional": ({"properties": {"a": {}, "b": {}}}, ["{}", '{"b":1}', '{"a":1,"b":[]}'], ['{,"b":1}', '{"c":1}']),
    "required-only": ({"required": ["x"]}, ['{"x":[1]}'], ["{}"]),
    "map": ({"additionalProperties": {"type": "integer"}}, ["{}", '{"x":1,"y":2}'], ['{"x":"y"}']),
    "empty-object": ({"type": "object", "additionalProperties": False}, ["{}"], ['{"a":1}']),
    "no-items": ({"type": "array", "maxItems": 0}, ["[]"], ["[1]"]),
    "one-item": ({"type": "array", "minItems": 1, "maxItems": 1}, ["[1]"], ["[]", "[1,2]"]),
    "items": (
        {"items": {"type": "integer"}, "minItems": 2, "maxItems": 3},
        ["[1,2]", "[1, 2,3]"],
        ["[1]", "[1,2,3,4]"],
    ),
    "tuple": ({"prefixItems": [{"const": 1}, {"type": "string"}]}, ['[1,"x"]'], ["[1]", '["x",1]']),
    "no-string": ({"type": "string", "maxLength": 0}, ['""'], ['"a"']),
    "long-string": ({"type": "string", "minLength": 500, "maxLength": 500}, [f'"{"中" * 500}"'], ['"中"']),
    "date": ({"type": "string", "format": "date"}, ['"2024-12-31"', '"2024-02-28"'], ['"2024-02-30"', '"2024-04-31"']),
    "date-time": ({"type": "string", "format": "date-time"}, ['"2024-12-31T10:00:00Z"'], ['"2024-12-31"']),
    "time": ({"type": "string", "format": "time"}, ['"23:59:59+08:00"'], ['"24:00:00Z"']),
    "uuid": ({"type": "string", "format": "uuid"}, ['"01234567-89ab-cdef-0123-456789ABCDEF"'], ['"0123"']),
    "const": ({"const": 'a\\b"c\n\t中'}, ['"a\\\\b\\"c\\n\\t中"'], ['"a"', '"a\\b"']),
    "enum": ({"enum": [1, 12, "x", None, {"k": [1]}]}, ["1", "12", '"x"', "null", '{"k": [1]}'], ["2", '"y"']),
    "enum-of-type": ({"type": "string", "enum": ["a", 1]}, ['"a"'], ["1"]),
    "recursion": (
        {"$ref": "#/$defs/node", "$defs": {"node": NODE}},
        ['{"v":1,"next":{"v":2,"next":null}}'],
        ['{"v":1}', '{"v":1,"next":{"v":2}}'],
    ),
    "same-last-name": (
        {
            "properties": {"p": {"$ref": "#/$defs/a/x"}, "q": {"$ref": "#/$defs/b/x"}},
            "required": ["p", "q"],
            "$defs": {"a": {"x": {"type": "null"}}, "b": {"x": {"type": "boolean"}}},
        },
        ['{"p":null,"q":true}'],
        ['{"p":null,"q":null}'],
    ),
    "escaped-reference": ({"$ref": "#/$defs/a~1b%20c", "$defs": {"a/b c": {"const": 1}}}, ["1"], ["2"]),
    "all-of-one": ({"allOf": [{"$ref": "#/$defs/s"}], "$defs": {"s": {"type": "null"}}}, ["null"], ["1"]),
    "anything": (True, ["1", '"a"', "[{}]"], ["x"]),
    "names-of-rules": (
        {"properties": {"string": {"const": 1}, "ws": {"const": 2}, "": {}}},
        ['{"ws":2,"":0}'],
        ['{"x":1}'],
    ),
    "open-on-demand": (
        {"properties": {"a": {"type": "integer"}}, "additionalProperties": {"type": "null"}},
        ['{"a":1,"z":null}', "{}"],
        ['{"a":1,"z":1}', '{"z":null,"a":1}'],
    ),
    "merged": (
        {"allOf": [{"properties": {"a": {"type": "null"}}}, {"type": "object", "required": ["b"]}]},
        ['{"a":null,"b":1}', '{"b":1}'],
        ['{"a":1,"b":1}', '{"a":null}'],
    ),
    "integer-bounds": ({"minimum": 3, "maximum": 12, "type": "integer"}, ["3", "12"], ["2", "13", "3.5"]),
    "implied-number": ({"minimum": 3}, ["3", "4.5"], ["2", '"x"']),
    "options-of-llguidance": ({"const": 1, "x-guidance": {"lenient": True}}, ["1"], ["2"]),
}


@pytest.mark.parametrize(("schema", "good", "bad"), SCHEMAS.values(), ids=SCHEMAS)
def test_texts_fit_that_obey_the_schema_and_no_others(
    model: Model, compiler: ConstraintCompiler, schema: Any, good: list[str], bad: list[str]
) -> None:
    assert [text for text in good if not fits(model, compiled(compiler, schema), text)] == []
    assert [text for text in bad if fits(model, compiled(compiler, schema), text)] == []


NO_SCHEMA = {
    "not-json": ("{", "not JSON"),
    "deep": ("[" * 60_000, "not JSON"),
    "long": ('"' + "x" * 70_000 + '"', "65536"),
    "number": ("5", "must be a schema"),
    "infinite": ('{"const": 1e400}', "infinite"),
    "properties-array": ('{"properties": []}', "#/properties"),
    "property-number": ('{"properties": {"a": 1}}', "#/properties"),
    "required-text": ('{"required": "a"}', "#/required"),
    "enum-object": ('{"enum": {}}', "#/enum"),
    "enum-empty": ('{"enum": []}', "#/enum"),
    "enum-of-no-type": ('{"enum": [1], "type": "string"}', "#/enum"),
    "type-number": ('{"type": 5}', "#/type"),
    "any-of-nothing": ('{"anyOf": []}', "#/anyOf"),
    "format-list": ('{"format": []}', "#/format"),
    "items-negative": ('{"type": "array", "minItems": -1}', "#/minItems"),
    "items-boolean": ('{"type": "array", "maxItems": true}', "#/maxItems"),
    "length-crossed": ('{"type": "string", "minLength": 2, "maxLength": 1}', "#/maxLength"),
    "multiple-of-nothing": ('{"type": "integer", "multipleOf": 0}', "#/multipleOf"),
    "reference-number": ('{"$ref": 5}', "#/$ref"),
}


@pytest.mark.parametrize(("text", "named"), NO_SCHEMA.values(), ids=NO_SCHEMA)
def test_what_is_no_schema_is_refused_with_its_path(compiler: ConstraintCompiler, text: str, named: str) -> None:
    with pytest.raises(RequestError, match=r"^response_format: the schema\b") as caught:
        compiler.compile(JsonFormat(text), 1)
    assert named in str(caught.value)
    assert caught.value.param == "response_format"
    assert len(str(caught.value)) < 300


def test_every_answer_to_a_request_goes_its_own_way(model: Model, compiler: ConstraintCompiler) -> None:
    one, other = compiler.compile(JsonFormat(json.dumps({"enum": ["yes", "no"]})), 2)
    assert fits(model, one, '"yes"')
    assert fits(model, other, '"no"')


def test_after_a_whole_answer_only_the_end_of_text_is_allowed(model: Model, compiler: ConstraintCompiler) -> None:
    constraint = compiled(compiler, {"const": 1})
    assert fits(model, constraint, "1")
    assert np.flatnonzero(constraint.allowed()).tolist() == [model.eos]


def test_control_tokens_are_never_allowed(model: Model, compiler: ConstraintCompiler) -> None:
    constraint = compiled(compiler)
    for token in model.tokenize('{"a'):
        constraint.accept(token)
    allowed = np.flatnonzero(constraint.allowed())
    assert len(allowed) > 1000
    assert all(model.piece(int(token)) for token in allowed)


def test_a_token_that_is_not_allowed_is_an_error(model: Model, compiler: ConstraintCompiler) -> None:
    for token in (model.tokenize("x")[-1], model.n_vocab - 1):
        with pytest.raises(RequestError, match="cannot go on"):
            compiled(compiler).accept(token)
