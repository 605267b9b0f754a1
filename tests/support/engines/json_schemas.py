"""The battery of JSON schemas: every keyword alone, what zod and pydantic write, recursion, and hostile ones.

WORKING schemas compile, and finished answers match them. REFUSED ones get an error that names the path given here.
HOSTILE ones may do either, as long as nobody waits for them.
"""

from __future__ import annotations

from typing import Any


def an_object(**properties: Any) -> dict[str, Any]:
    """A strict object whose properties are all required, as OpenAI's strict mode wants it."""
    required = list(properties)
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def string(**keywords: Any) -> dict[str, Any]:
    return {"type": "string", **keywords}


def integer(**keywords: Any) -> dict[str, Any]:
    return {"type": "integer", **keywords}


def number(**keywords: Any) -> dict[str, Any]:
    return {"type": "number", **keywords}


def array(items: Any, **keywords: Any) -> dict[str, Any]:
    return {"type": "array", "items": items, **keywords}


INT, TEXT, NULL = integer(), string(), {"type": "null"}
_CAT = {**an_object(kind=string(const="cat", title="Kind"), lives=integer(title="Lives")), "title": "Cat"}
_DOG = {**an_object(kind=string(const="dog", title="Kind"), name=string(title="Name")), "title": "Dog"}
_TREE = {
    "type": "object",
    "properties": {"value": INT, "children": array({"$ref": "#/$defs/Tree"}, maxItems=2)},
    "required": ["value", "children"],
    "additionalProperties": False,
}
_LIST = {
    "type": "object",
    "properties": {"v": INT, "next": {"anyOf": [{"$ref": "#/$defs/list"}, NULL]}},
    "required": ["v", "next"],
}
_DRAFT = "https://json-schema.org/draft/2020-12/schema"
_SAFE = 9007199254740991  # zod's bounds of an integer

KEYWORDS: dict[str, Any] = {
    "true": True,
    "empty": {},
    "type-object": {"type": "object"},
    "type-array": {"type": "array"},
    "type-string": TEXT,
    "type-integer": INT,
    "type-number": number(),
    "type-boolean": {"type": "boolean"},
    "type-null": NULL,
    "type-list": {"type": ["integer", "null"]},
    "enum": {"enum": ["red", "green", 3, None, {"k": [1]}]},
    "const": {"const": {"a": [1, "two"]}},
    "const-text": {"const": 'quote " backslash \\ line\n中'},
    "properties": {"properties": {"a": INT, "b": TEXT}},
    "required": {"required": ["x"]},
    "additionalProperties-false": {"type": "object", "additionalProperties": False},
    "additionalProperties-schema": {"type": "object", "additionalProperties": INT},
    "additionalProperties-true": {"type": "object", "properties": {"a": INT}, "additionalProperties": True},
    "patternProperties": {"type": "object", "patternProperties": {"^x-": INT}, "additionalProperties": False},
    "minProperties": {"type": "object", "minProperties": 1, "additionalProperties": {"type": "boolean"}},
    "maxProperties": {"type": "object", "maxProperties": 2, "additionalProperties": {"type": "boolean"}},
    "items": array(INT),
    "items-false": {"type": "array", "items": False},
    "prefixItems": {"prefixItems": [INT, TEXT]},
    "prefixItems-items": {"type": "array", "prefixItems": [INT], "items": {"type": "boolean"}},
    "minItems": array(INT, minItems=2),
    "maxItems": array(INT, maxItems=2),
    "minLength": string(minLength=3),
    "maxLength": string(maxLength=3),
    "pattern": string(pattern="^[a-f]{2,4}-\\d+$"),
    "pattern-anywhere": string(pattern="[a-m]"),
    **{
        f"format-{name}": string(format=name)
        for name in ["date", "time", "date-time", "duration", "email", "hostname", "ipv4", "ipv6", "uri", "uuid"]
    },
    "minimum": integer(minimum=10),
    "maximum": integer(maximum=-5),
    "exclusiveMinimum": integer(exclusiveMinimum=0, maximum=20),
    "exclusiveMaximum": number(exclusiveMaximum=1, minimum=0),
    "bounds-of-numbers": number(minimum=-1.5, maximum=2.25),
    "multipleOf": integer(multipleOf=7),
    "multipleOf-fraction": number(multipleOf=0.25),
    "anyOf": {"anyOf": [INT, TEXT]},
    "oneOf": {"oneOf": [{"type": "boolean"}, NULL]},
    "allOf": {"allOf": [integer(minimum=3), {"maximum": 9}]},
    "allOf-objects": {
        "allOf": [
            {"type": "object", "properties": {"a": INT}, "required": ["a"]},
            {"type": "object", "properties": {"b": TEXT}, "required": ["b"]},
        ]
    },
    "ref": {"$ref": "#/$defs/n", "$defs": {"n": integer(minimum=1)}},
    "ref-with-more": {"$ref": "#/$defs/n", "maximum": 5, "$defs": {"n": integer(minimum=1)}},
    "definitions": {"$ref": "#/definitions/n", "definitions": {"n": NULL}},
    "notes": {
        **integer(minimum=0, default=1, examples=[1], deprecated=True, readOnly=True, writeOnly=False),
        "title": "T",
        "description": "D",
        "$comment": "C",
        "$schema": _DRAFT,
        "$id": "urn:x",
        "x-order": 1,
    },
    "contentEncoding": string(contentEncoding="base64", contentMediaType="image/png"),
}
GENERATED: dict[str, Any] = {
    "zod-object": {"$schema": _DRAFT, **an_object(name=TEXT, age=integer(minimum=-_SAFE, maximum=_SAFE))},
    "zod-positive": integer(exclusiveMinimum=0, maximum=_SAFE),
    "zod-optional": {"type": "object", "properties": {"a": TEXT, "b": number()}, "required": ["a"]},
    "zod-nullable": {"anyOf": [TEXT, NULL]},
    "zod-enum": string(enum=["Salmon", "Tuna", "Trout"]),
    "zod-literals": {"enum": ["a", 1, True]},
    "zod-record": {"type": "object", "propertyNames": TEXT, "additionalProperties": number()},
    "zod-tuple": {"type": "array", "prefixItems": [TEXT, number()]},
    "zod-union": {"anyOf": [an_object(ok={"const": True}), an_object(error=TEXT)]},
    "zod-discriminated-union": {"oneOf": [_CAT, _DOG]},
    "zod-intersection": {
        "allOf": [
            {"type": "object", "properties": {"a": TEXT}, "required": ["a"]},
            {"type": "object", "properties": {"b": INT}, "required": ["b"]},
        ]
    },
    "zod-iso": an_object(day=string(format="date"), at=string(format="date-time")),
    "zod-uuid": string(
        format="uuid", pattern="^([0-9a-fA-F]{8}-[0-9a-fA-F]{4}-4[0-9a-fA-F]{3}-[89ab][0-9a-fA-F]{3}-[0-9a-fA-F]{12})$"
    ),
    "pydantic-model": {
        "title": "User",
        "type": "object",
        "properties": {
            "id": integer(title="Id", exclusiveMinimum=0),
            "name": string(title="Name", default="Jane", maxLength=8),
            "tags": array(TEXT, title="Tags", default=[], maxItems=2),
            "manager": {"anyOf": [INT, NULL], "default": None, "title": "Manager"},
        },
        "required": ["id"],
    },
    "pydantic-nested": {
        "$defs": {
            "Color": {"enum": ["red", "blue"], "title": "Color", "type": "string"},
            "Item": an_object(color={"$ref": "#/$defs/Color"}, price=number(minimum=0)),
        },
        "type": "object",
        "properties": {"items": array({"$ref": "#/$defs/Item"}, maxItems=2)},
        "required": ["items"],
        "title": "Order",
    },
    "pydantic-v1-field": {
        "type": "object",
        "properties": {"c": {"title": "C", "description": "x", "allOf": [{"$ref": "#/definitions/C"}]}},
        "required": ["c"],
        "definitions": {"C": string(enum=["a", "b"])},
    },
    "pydantic-discriminated-union": {
        "$defs": {"Cat": _CAT, "Dog": _DOG},
        "type": "object",
        "properties": {
            "pet": {
                "discriminator": {"mapping": {"cat": "#/$defs/Cat", "dog": "#/$defs/Dog"}, "propertyName": "kind"},
                "oneOf": [{"$ref": "#/$defs/Cat"}, {"$ref": "#/$defs/Dog"}],
            }
        },
        "required": ["pet"],
    },
    "pydantic-tuple": {"type": "array", "prefixItems": [INT, TEXT], "minItems": 2, "maxItems": 2},
    "pydantic-dict": {"type": "object", "additionalProperties": array(INT, maxItems=2), "maxProperties": 2},
    "pydantic-recursive": {"$defs": {"Tree": _TREE}, "$ref": "#/$defs/Tree"},
    "list": {"$defs": {"list": _LIST}, "$ref": "#/$defs/list"},
    "recursion-at-the-root": {"anyOf": [an_object(a={"$ref": "#"}), NULL]},
}
WORKING = {**KEYWORDS, **GENERATED}

REFUSED: dict[str, tuple[Any, str]] = {
    "false": (False, "must be a schema"),
    "not": ({"not": {}}, "#/not"),
    "not-inside": (an_object(a=array({"not": {}})), "#/properties/a/items/not"),
    "if": ({"if": {"type": "null"}, "then": {}}, "#/if"),
    "dependentRequired": ({"dependentRequired": {"a": ["b"]}}, "#/dependentRequired"),
    "dependentSchemas": ({"dependentSchemas": {}}, "#/dependentSchemas"),
    "unevaluatedProperties": ({"type": "object", "unevaluatedProperties": False}, "#/unevaluatedProperties"),
    "unevaluatedItems": ({"type": "array", "unevaluatedItems": False}, "#/unevaluatedItems"),
    "uniqueItems": (an_object(a=array(INT, uniqueItems=True)), "#/properties/a/uniqueItems"),
    "contains": ({"type": "array", "contains": INT}, "#/contains"),
    "propertyNames": ({"type": "object", "propertyNames": {"pattern": "^a"}}, "#/propertyNames"),
    "typo": (
        an_object(a=string(maxlength=3)),
        "the schema's keyword maxlength at #/properties/a/maxlength is not supported",
    ),
    "type-unknown": (an_object(a={"type": "float"}), "#/properties/a/type"),
    "format-unknown": ({"$defs": {"a": string(format="iri")}, "$ref": "#/$defs/a"}, "#/$defs/a/format"),
    "look-ahead": (an_object(a=string(pattern="^(?=a)b")), "#/properties/a/pattern"),
    "look-ahead-pydantic": ({"anyOf": [INT, string(pattern="^(?!^[-+.]*$)[+-]?\\d*$")]}, "#/anyOf/1/pattern"),
    "back-reference": (string(pattern="(a)\\1"), "#/pattern"),
    "one-of-overlapping": ({"oneOf": [INT, number()]}, "#/oneOf"),
    "bounds-crossed": (integer(minimum=5, maximum=3), "#/maximum"),
    "bounds-crossed-inside": (an_object(a=integer(minimum=5, maximum=3)), "#/required cannot be used: Unsatisfiable"),
    "required-forbidden": (
        {"type": "object", "required": ["a"], "additionalProperties": False},
        "#/additionalProperties",
    ),
    "reference-outside": ({"$ref": "https://127.0.0.1:9/x"}, "#/$ref"),
    "reference-to-nothing": (an_object(a={"$ref": "#/$defs/x"}), "#/properties/a/$ref"),
    "only-itself": ({"$ref": "#"}, "no answer"),
    "multiple-of-a-large-prime": (integer(multipleOf=999983), "multipleOf"),
    "multiples-of-several": ({"allOf": [integer(multipleOf=p) for p in (97, 89, 83)]}, "multipleOf"),
    "too-many-properties": (an_object(a={"properties": {f"p{i}": INT for i in range(501)}}), "#/properties/a"),
    "half-a-surrogate-pair": ({"const": "\ud800"}, "surrogate"),
}


def _chain(make: Any, n: int) -> Any:
    return {"$ref": "#/$defs/d0", "$defs": {**{f"d{i}": make(i) for i in range(n)}, f"d{n}": NULL}}


def _twice(n: int) -> Any:
    """Two alternatives that begin alike, each with the next definition inside: 2^n ways after n characters."""
    inner = {"$ref": f"#/$defs/d{n + 1}"}
    return {"anyOf": [array(inner), array(inner, maxItems=9)]}


def _deep(n: int) -> Any:
    schema: Any = TEXT
    for _ in range(n):
        schema = {"type": "object", "properties": {"a": schema}}
    return schema


_ARRAYS_OF = {name: [array({"$ref": f"#/$defs/{x}"}) for x in name + "ab"[name == "a"]] for name in "ab"}
HOSTILE: dict[str, Any] = {
    "doubling-in-depth": _chain(_twice, 15),
    "doubling-at-once": _chain(lambda i: {"anyOf": [{"$ref": f"#/$defs/d{i + 1}"}] * 2}, 20),
    "doubling-by-recursion": {
        "$ref": "#/$defs/a",
        "$defs": {name: {"anyOf": both} for name, both in _ARRAYS_OF.items()},
    },
    "itself-or-null": {"anyOf": [{"$ref": "#"}, NULL]},
    "never-ends": {"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]},
    "long-chain": _chain(lambda i: {"$ref": f"#/$defs/d{i + 1}"}, 400),
    "deep": _deep(55),
    "too-deep": _deep(300),
    "many-values": {"enum": list(range(5000))},
    "many-properties": {"properties": {f"p{i}": {} for i in range(500)}},
    "many-objects": array({"anyOf": [{"properties": {f"p{i}_{j}": {} for j in range(180)}} for i in range(10)]}),
    "merged-objects": {
        "allOf": [{"type": "object", "properties": {f"p{i}_{j}": INT for j in range(20)}} for i in range(60)]
    },
    "product-of-choices": {
        "allOf": [{"anyOf": [an_object(**{f"a{i}": INT}), an_object(**{f"b{i}": INT})]} for i in range(20)]
    },
    "many-items": array(INT, minItems=10**12),
    "long-string": string(minLength=60_000),
    "longest-string": string(maxLength=10**12),
    "repeats-of-repeats": string(pattern="^((a{1,1000}){1,1000}){1,1000}$"),
    "exponential-automaton": string(pattern="^(a|b)*a(a|b){30}$"),
    "intersected-patterns": {"allOf": [string(pattern=f"[{c}].*[{c}].*{c}") for c in "abcdefghijklmnop"]},
    "unicode-classes": string(pattern="^(\\w|\\d|\\s){1,500}$"),
    "fine-multiples": number(multipleOf=1e-9),
    "wide-bounds": number(minimum=-1.2345678901234567e300, maximum=1.2345678901234567e300),
    "many-patterns": {"type": "object", "patternProperties": {f"^a{i}.*b": INT for i in range(300)}},
    "many-alternatives": {"oneOf": [string(pattern=f"^a{i}") for i in range(300)]},
    "refused-at-the-end": {"anyOf": [{"type": "array", "items": INT}] * 500 + [string(pattern="(?=a)b")]},
}
