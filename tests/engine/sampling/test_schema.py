"""JSON Schema to grammar: which texts fit, what is refused by name, and that no schema costs more than a moment."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from glm_edge.engine.sampling.gbnf import json_object_grammar
from glm_edge.engine.sampling.schema import schema_grammar
from glm_edge.errors import EngineError, RequestError
from glm_edge.llama.grammar import Grammar
from glm_edge.llama.model import Model


@pytest.fixture(scope="module")
def model(tiny_f32: Path) -> Model:
    return Model(tiny_f32, vocab_only=True)


def fits(model: Model, grammar: str, text: str) -> bool:
    """Whether an answer may be this text, token by token, and end there."""
    rules = Grammar(model, grammar)
    for token in [*model.tokenize(text), model.eos]:
        if not rules.allowed(np.array([token], np.int32))[0]:
            return False
        if token != model.eos:
            rules.accept(token)
    return True


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
def test_any_object_is_just_what_json_allows(model: Model, text: str, good: bool) -> None:
    assert fits(model, json_object_grammar(), text) is good


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
    "const-half-a-pair": ({"const": "中\ud800"}, ['"\\u4e2d\\ud800"'], ['"中"']),
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
}


@pytest.mark.parametrize(("schema", "good", "bad"), SCHEMAS.values(), ids=SCHEMAS)
def test_texts_fit_that_obey_the_schema_and_no_others(
    model: Model, schema: Any, good: list[str], bad: list[str]
) -> None:
    grammar = schema_grammar(json.dumps(schema))
    assert [text for text in good if not fits(model, grammar, text)] == []
    assert [text for text in bad if fits(model, grammar, text)] == []


REFUSED = {
    "not-json": ("{", "not JSON"),
    "deep": ("[" * 60_000, "not JSON"),
    "long": ('"' + "x" * 70_000 + '"', "65536"),
    "no-schema": ("5", "schema"),
    "false": ("false", "schema"),
    "type-unknown": ({"type": "float"}, "/type"),
    "type-number": ({"type": 5}, "/type"),
    "pattern": ({"type": "string", "pattern": "^a+$"}, "pattern"),
    "minimum": ({"type": "integer", "minimum": 1}, "minimum"),
    "one-of": ({"oneOf": [{}]}, "oneOf"),
    "not": ({"not": {}}, "not"),
    "unknown": ({"foo": 1}, "foo"),
    "of-another-type": ({"type": "string", "items": {}}, "items"),
    "beside-a-reference": ({"$ref": "#", "minLength": 1}, "minLength"),
    "all-of-two": ({"allOf": [{}, {}]}, "allOf"),
    "any-of-nothing": ({"anyOf": []}, "anyOf"),
    "reference-http": ({"$ref": "http://127.0.0.1:9/x"}, "into the schema itself"),
    "reference-https": ({"$ref": "https://127.0.0.1:9/x"}, "into the schema itself"),
    "reference-file": ({"$ref": "file:///etc/passwd"}, "into the schema itself"),
    "reference-number": ({"$ref": 5}, "into the schema itself"),
    "reference-to-nothing": ({"$ref": "#/$defs/x"}, "nothing"),
    "properties-array": ({"properties": []}, "properties"),
    "property-number": ({"properties": {"a": 1}}, "properties/a"),
    "required-string": ({"required": "a"}, "required"),
    "required-forbidden": ({"required": ["a"], "additionalProperties": False}, "properties/a"),
    "enum-object": ({"enum": {}}, "enum"),
    "enum-empty": ({"enum": []}, "no value"),
    "enum-of-no-type": ({"enum": [1], "type": "string"}, "no value"),
    "infinite": ('{"const": 1e400}', "infinite"),
    "format-unknown": ({"type": "string", "format": "email"}, "format"),
    "format-list": ({"type": "string", "format": []}, "format"),
    "items-negative": ({"type": "array", "minItems": -1}, "minItems"),
    "items-huge": ({"type": "array", "minItems": 10**12}, "minItems"),
    "items-boolean": ({"type": "array", "maxItems": True}, "maxItems"),
    "length-crossed": ({"type": "string", "minLength": 2, "maxLength": 1}, "maxLength"),
    "tuple-too-short": ({"prefixItems": [{}], "minItems": 2}, "prefixItems"),
}


@pytest.mark.parametrize(("schema", "named"), REFUSED.values(), ids=REFUSED)
def test_what_is_no_schema_or_not_supported_is_refused_by_name(schema: Any, named: str) -> None:
    with pytest.raises(RequestError, match=r"^response_format: ") as caught:
        schema_grammar(schema if isinstance(schema, str) else json.dumps(schema))
    assert named in str(caught.value)
    assert caught.value.param == "response_format"
    assert len(str(caught.value)) < 300


def twice(n: int) -> Any:
    """Two alternatives that begin alike, each with the next definition inside: 2^n ways after n characters."""
    inner = {"$ref": f"#/$defs/d{n + 1}"}
    return {"anyOf": [{"type": "array", "items": inner}, {"type": "array", "items": inner, "maxItems": 9}]}


def chain(make: Any, n: int) -> Any:
    return {"$ref": "#/$defs/d0", "$defs": {**{f"d{i}": make(i) for i in range(n)}, f"d{n}": {"type": "null"}}}


ARRAYS_OF = {
    name: [{"type": "array", "items": {"$ref": f"#/$defs/{x}"}} for x in name + "ab"[name == "a"]] for name in "ab"
}
HOSTILE = {
    "doubling-in-depth": chain(twice, 15),
    "doubling-at-once": chain(
        lambda i: {"anyOf": [{"$ref": f"#/$defs/d{i + 1}"}, {"anyOf": [{"$ref": f"#/$defs/d{i + 1}"}]}]}, 20
    ),
    "doubling-by-recursion": {
        "$ref": "#/$defs/a",
        "$defs": {name: {"anyOf": both} for name, both in ARRAYS_OF.items()},
    },
    "only-itself": {"$ref": "#"},
    "itself-or-null": {"anyOf": [{"$ref": "#"}, {"type": "null"}]},
    "long-chain": chain(lambda i: {"$ref": f"#/$defs/d{i + 1}"}, 400),
    "many-repeats": {"prefixItems": [{"type": "string", "maxLength": 1000}] * 60},
    "many-values": {"enum": list(range(501))},
    "many-properties": {"properties": {f"p{i}": {} for i in range(300)}},
}


@pytest.mark.parametrize("schema", HOSTILE.values(), ids=HOSTILE)
def test_a_schema_that_would_cost_too_much_is_refused_at_once(model: Model, schema: Any) -> None:
    began = time.monotonic()
    with pytest.raises(RequestError) as caught:
        Grammar(model, schema_grammar(json.dumps(schema)))
    assert caught.value.param == "response_format"
    assert time.monotonic() - began < 2


def test_the_largest_schemas_that_are_taken_cost_a_moment(model: Model) -> None:
    largest = [
        {"enum": [f"value {i:04}" * 6 for i in range(490)]},
        {"properties": {f"p{i}": {"type": "string"} for i in range(245)}},
        {"prefixItems": [{"type": "string", "maxLength": 1000}] * 40},
    ]
    every = np.arange(model.n_vocab, dtype=np.int32)
    for schema in largest:
        began = time.monotonic()
        Grammar(model, schema_grammar(json.dumps(schema))).allowed(every)
        assert time.monotonic() - began < 5


def test_a_token_that_does_not_fit_is_an_error_and_not_the_end_of_the_process(model: Model) -> None:
    rules = Grammar(model, json_object_grammar())
    for token in (model.eos, 5, model.tokenize("x")[-1]):
        with pytest.raises(EngineError, match="does not fit"):
            rules.accept(token)


def test_control_tokens_are_never_allowed(model: Model) -> None:
    rules = Grammar(model, json_object_grammar())
    for token in model.tokenize('{"a'):
        rules.accept(token)
    allowed = rules.allowed(np.arange(model.n_vocab, dtype=np.int32))
    assert allowed.any()
    assert not (allowed & model.silent).any()
