"""A JSON Schema as a grammar: every answer that the grammar allows obeys the schema.

Not covered: keywords that a grammar cannot say or that we do not (pattern, minimum, oneOf, not, …) are refused by name,
never ignored. Objects hold the named properties in the order of the schema, and no others. References stay within the
schema; nothing is ever fetched. Sizes are bounded, since schemas come from strangers.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote

from ...errors import RequestError
from .gbnf import STARTS, Rule, choice, grammar, literal

_LONGEST = 65_536  # characters of schema
_DEEPEST = 64
_MOST = 500  # schemas, properties and enum values together
_MOST_REPEATS = 1000  # items of an array or characters of a string that are counted

_NOTES = {"title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly"}
_NOTES |= {"$schema", "$id", "$comment", "$defs", "definitions"}
_OF_TYPE = {
    "object": {"properties", "required", "additionalProperties"},
    "array": {"items", "prefixItems", "minItems", "maxItems"},
    "string": {"minLength", "maxLength", "format"},
    "number": set[str](),
    "integer": set[str](),
    "boolean": set[str](),
    "null": set[str](),
}
_MONTHS = """( "0" [13578] | "1" [02] ) "-" ( "0" [1-9] | [12] [0-9] | "3" [01] )
  | ( "0" [469] | "11" ) "-" ( "0" [1-9] | [12] [0-9] | "30" ) | "02-" ( "0" [1-9] | "1" [0-9] | "2" [0-8] )""".replace(
    "\n", ""
)
_FORMATS = {
    "date": f'[0-9]{{4}} "-" ( {_MONTHS} )',  # leap days left out
    "time": '( [01] [0-9] | "2" [0-3] ) ":" [0-5] [0-9] ":" [0-5] [0-9] ( "Z" | [-+] [01] [0-9] ":" [0-5] [0-9] )',
    "uuid": 'hex{8} "-" hex{4} "-" hex{4} "-" hex{4} "-" hex{12}',
}
_FORMATS["date-time"] = f'{_FORMATS["date"]} "T" {_FORMATS["time"]}'

Schema = dict[str, Any]


def schema_grammar(text: str) -> str:
    """GBNF for a JSON Schema, given as JSON text. Raises RequestError for what is no schema or not supported."""
    if len(text) > _LONGEST:
        raise _refused("", f"has {len(text)} characters; at most {_LONGEST} are allowed")
    try:
        schema = json.loads(text)
    except (ValueError, RecursionError):
        raise _refused("", "is not JSON") from None
    converter = _Converter(schema)
    return grammar(converter.rules, converter.rule(schema, "#", 0))


class _Converter:
    """Makes one rule for each schema inside a schema. Paths are JSON pointers, for messages."""

    def __init__(self, root: Any) -> None:
        self.rules: dict[str, Rule] = {}
        self._root = root
        self._references: dict[str, str] = {}  # pointer -> rule
        self._size = 0

    def rule(self, schema: Any, path: str, depth: int) -> str:
        """The name of the rule for a schema."""
        self._count(1)
        if depth > _DEEPEST:
            raise _refused(path, f"is nested deeper than {_DEEPEST}")
        if schema is True:
            return "value"
        if not isinstance(schema, dict):
            raise _refused(path, "must be a schema that something can match: an object or true")
        if "$ref" in schema:
            _only(schema, {"$ref"}, path)
            return self._reference(schema["$ref"], path, depth)
        for name in ("anyOf", "allOf"):
            if name in schema:
                _only(schema, {name}, path)
                return self._combined(schema[name], name, f"{path}/{name}", depth)
        if "enum" in schema or "const" in schema:
            return self._values(schema, path)
        return self._typed(schema, path, depth)

    def _add(self, rule: Rule, name: str | None = None) -> str:
        name = name or f"r{len(self.rules)}"
        self.rules[name] = rule
        return name

    def _count(self, n: int) -> None:
        self._size += n
        if self._size > _MOST:
            raise _refused("", f"has more than {_MOST} schemas, properties and values; use a smaller one")

    def _reference(self, reference: Any, path: str, depth: int) -> str:
        """The rule of another place in the schema, made when it is first referred to."""
        if not isinstance(reference, str) or not (reference == "#" or reference.startswith("#/")):
            raise _refused(f"{path}/$ref", "must point into the schema itself, as in #/$defs/name")
        if reference in self._references:
            return self._references[reference]
        target = self._root
        for step in reference.split("/")[1:]:
            key = unquote(step).replace("~1", "/").replace("~0", "~")
            if not isinstance(target, dict) or key not in target:
                raise _refused(f"{path}/$ref", f"points to nothing: {reference[:100]}")
            target = target[key]
        name = self._references[reference] = f"ref{len(self._references)}"
        # the name is there before the rule is, because it may contain itself
        return self._add(choice([self.rule(target, reference[:100], depth + 1)]), name)

    def _combined(self, schemas: Any, name: str, path: str, depth: int) -> str:
        if not isinstance(schemas, list) or not schemas:
            raise _refused(path, "must be an array of schemas")
        if name == "allOf" and len(schemas) > 1:
            raise _refused(path, "is supported with one schema only")
        return self._add(choice([self.rule(s, f"{path}/{n}", depth + 1) for n, s in enumerate(schemas)]))

    def _values(self, schema: Schema, path: str) -> str:
        _only(schema, {"enum" if "enum" in schema else "const", "type"}, path)
        values = schema.get("enum", [schema.get("const")])
        if not isinstance(values, list):
            raise _refused(f"{path}/enum", "must be an array")
        types = _types(schema, path)
        values = [value for value in values if not types or any(_is(value, name) for name in types)]
        if not values:
            raise _refused(path, "has no value of its type")
        self._count(len(values))
        try:
            texts = list(dict.fromkeys(literal(value) for value in values))
        except (ValueError, RecursionError):
            raise _refused(path, "has a value that cannot be written: infinite, or nested too deep") from None
        starts = frozenset('"' if text.startswith('"\\"') else text[1] for text in texts)
        return self._add(Rule(" | ".join(texts), starts=starts, ways=len(texts)))

    def _typed(self, schema: Schema, path: str, depth: int) -> str:
        types = _types(schema, path)
        if not types:  # what only one type can have says which is meant
            types = [name for name, keywords in _OF_TYPE.items() if keywords & schema.keys()]
        if not types:
            _only(schema, set(), path)
            return "value"
        _only(schema, {"type"}.union(*(_OF_TYPE[name] for name in types)), path)
        make: dict[str, Callable[[Schema, str, int], str]] = {
            "object": self._object,
            "array": self._array,
            "string": self._string,
        }
        names = {"number": "number", "integer": "whole", "boolean": "boolean", "null": "null"}
        if "number" in types:
            types = [name for name in types if name != "integer"]
        made = [make[name](schema, path, depth + 1) if name in make else names[name] for name in types]
        return made[0] if len(made) == 1 else self._add(choice(made))

    def _string(self, schema: Schema, path: str, depth: int) -> str:
        if "format" in schema:
            text = _FORMATS.get(schema["format"]) if isinstance(schema["format"], str) else None
            if text is None or "minLength" in schema or "maxLength" in schema:
                raise _refused(f"{path}/format", f"must be one of {', '.join(_FORMATS)}, without a length")
            return self._add(Rule(f'"\\"" {text} "\\""', starts=STARTS["string"]))
        if "minLength" not in schema and "maxLength" not in schema:
            return "string"
        least, most = self._span(schema, "minLength", "maxLength", path)
        return self._add(Rule(f'"\\"" {_repeat("char", least, most)} "\\""', starts=STARTS["string"]))

    def _array(self, schema: Schema, path: str, depth: int) -> str:
        least, most = self._span(schema, "minItems", "maxItems", path)
        if "prefixItems" in schema:
            return self._tuple(schema, path, depth, least, most)
        item = self.rule(schema.get("items", True), f"{path}/items", depth)
        next_item = f'( ws "," ws {item} )'
        more = f"{item} {_repeat(next_item, max(least - 1, 0), None if most is None else most - 1)} ws"
        inside = "" if most == 0 else f"( {more} )?" if least == 0 else more
        return self._add(Rule(f'"[" ws {inside} "]"', (item,), starts=STARTS["array"]))

    def _tuple(self, schema: Schema, path: str, depth: int, least: int, most: int | None) -> str:
        """As many items as there are prefixItems, which a schema allows if its counts do."""
        items = schema["prefixItems"]
        if not isinstance(items, list) or not items:
            raise _refused(f"{path}/prefixItems", "must be an array of schemas")
        if not least <= len(items) <= (len(items) if most is None else most):
            raise _refused(f"{path}/prefixItems", "must be as many as minItems and maxItems allow")
        parts = tuple(self.rule(item, f"{path}/prefixItems/{n}", depth) for n, item in enumerate(items))
        inside = ' ws "," ws '.join(parts)
        return self._add(Rule(f'"[" ws {inside} ws "]"', parts, starts=STARTS["array"]))

    def _object(self, schema: Schema, path: str, depth: int) -> str:
        properties, required = schema.get("properties", {}), schema.get("required", [])
        other = schema.get("additionalProperties", True)
        if not isinstance(properties, dict):
            raise _refused(f"{path}/properties", "must be an object of schemas")
        if not isinstance(required, list) or not all(isinstance(name, str) for name in required):
            raise _refused(f"{path}/required", "must be an array of strings")
        properties = {**properties, **{name: other for name in required if name not in properties}}
        if not properties and other is not False:
            return self._map(other, f"{path}/additionalProperties", depth)
        self._count(len(properties))
        names = {name: self.rule(s, f"{path}/properties/{name[:40]}", depth) for name, s in properties.items()}
        return self._members(names, frozenset(required))

    def _map(self, values: Any, path: str, depth: int) -> str:
        """Any names, with values of one schema."""
        value = self.rule(values, path, depth)
        if value == "value":
            return "object"
        member = f'string ws ":" ws {value}'
        text = f'"{{" ws ( {member} ( ws "," ws {member} )* ws )? "}}"'
        return self._add(Rule(text, (value,), starts=STARTS["object"]))

    def _members(self, names: dict[str, str], required: frozenset[str]) -> str:
        """An object with these properties (name -> rule), in their order, some of which may be left out.

        Built from the end: for each place a rule for what may follow when nothing was written yet (`first`), and one
        for when something was (`rest`), which then begins with a comma.
        """
        first = rest = '"}"'
        for name, value in reversed(names.items()):
            member = f'{literal(name)} ws ":" ws {value}'
            after = self._add(Rule(rest)) if len(rest) > 3 else rest
            skip = self._add(Rule(first)) if len(first) > 3 and name not in required else first
            first = f"{member} ws {after}" if name in required else f"{member} ws {after} | {skip}"
            comma = f'"," ws {member} ws'
            rest = f"{comma} {after}" if name in required else f"( {comma} )? {after}"
        start = self._add(Rule(first))
        ways = 1 + sum(name not in required for name in names)
        return self._add(Rule(f'"{{" ws {start}', tuple(names.values()), starts=STARTS["object"], ways=ways))

    def _span(self, schema: Schema, low: str, high: str, path: str) -> tuple[int, int | None]:
        """The two counts of an array or a string; each is a rule of llama.cpp's, so they count a little."""
        least, most = schema.get(low, 0), schema.get(high)
        for name, n in ((low, least), (high, most)):
            if n is not None and (isinstance(n, bool) or not isinstance(n, int) or not 0 <= n <= _MOST_REPEATS):
                raise _refused(f"{path}/{name}", f"must be an integer from 0 to {_MOST_REPEATS}")
        if most is not None and most < least:
            raise _refused(f"{path}/{high}", f"must not be below {low}")
        self._count((most or least) // 100)
        return least, most


def _types(schema: Schema, path: str) -> list[str]:
    """The types that the schema names; none if it names none."""
    types = schema.get("type", [])
    types = [types] if isinstance(types, str) else types
    if not isinstance(types, list) or not all(isinstance(name, str) and name in _OF_TYPE for name in types):
        raise _refused(f"{path}/type", f"must be one or some of {', '.join(_OF_TYPE)}")
    return list(dict.fromkeys(types))


def _only(schema: Schema, keywords: set[str], path: str) -> None:
    """Refuse keywords that have no effect here, or none of ours."""
    for name in schema:
        if name not in keywords and name not in _NOTES:
            beside = f" beside {', '.join(sorted(keywords))}" if keywords & schema.keys() else ""
            raise _refused(f"{path}/{name[:40]}", f"is not supported{beside}")


def _repeat(item: str, least: int, most: int | None) -> str:
    return f"{item}{{{least},{'' if most is None else most}}}"


def _is(value: Any, name: str) -> bool:
    """Whether a JSON value is of a type; 5.0 is an integer, as JSON Schema has it."""
    if name == "integer" and isinstance(value, float):
        return value.is_integer()
    kinds: dict[str, type | tuple[type, ...]] = {
        "object": dict,
        "array": list,
        "string": str,
        "boolean": bool,
        "null": type(None),
        "number": (int, float),
        "integer": int,
    }
    return isinstance(value, kinds[name]) and (name == "boolean" or not isinstance(value, bool))


def _refused(path: str, problem: str) -> RequestError:
    at = f" {path}" if path else ""
    return RequestError(f"response_format: the schema{at} {problem}", param="response_format")
