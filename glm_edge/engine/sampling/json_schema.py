"""What a JSON Schema becomes: a grammar for llguidance, narrowed to what people mean by it, with bounded sizes.

llguidance follows JSON Schema to the letter: there a schema with nothing but `properties` also allows a number, and
objects with other members. Here it means an object with these members, as in llama.cpp. A schema that merges others
(allOf of several, or anyOf beside other keywords) is not narrowed: its answers may have the members of all of them.
Unknown keywords are refused with their path, because an ignored `maxlength` would be a surprise. Nothing is fetched.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from decimal import Decimal
from typing import Any
from urllib.parse import unquote

from ...errors import RequestError
from ...tool_calls import head_pattern

_MOST_CHARACTERS = 65_536  # of a schema
_MOST_SCHEMAS = 2000  # in a schema
_MOST_PROPERTIES = 500  # of one object; beyond 600 optional ones llguidance gives up after the brace
_MOST_COMPILED = 50  # parts of a refused schema that are compiled to find the one to blame
# Multiples of n take n states, those of several numbers the product. Compiling a prime near 10,000 takes 0.1 s, one
# near a million 30 s and 400 MB, which no limit of llguidance stops.
_LARGEST_MULTIPLE = 10_000

FORMATS = ("date", "time", "date-time", "duration", "email", "hostname", "ipv4", "ipv6", "uri", "uuid")
# Formats of pydantic that mean one of these, a pattern, or any text.
_ALSO: dict[str, dict[str, str]] = {
    **{
        f"uuid{n}": {"pattern": f"^[0-9a-f]{{8}}-[0-9a-f]{{4}}-{n}[0-9a-f]{{3}}-[89ab][0-9a-f]{{3}}-[0-9a-f]{{12}}$"}
        for n in range(1, 9)
    },
    "base64": {"pattern": "^([A-Za-z0-9+/]{4})*([A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$"},
    "ipvanyaddress": {"format": "ipv4"},
    "binary": {},
    "password": {},
    "path": {},
}
_LOOK_AROUND = re.compile(r"\(\?<?[=!]")
_OF_TYPE = {
    "object": {"properties", "required", "additionalProperties", "patternProperties", "minProperties", "maxProperties"},
    "array": {"items", "prefixItems", "additionalItems", "minItems", "maxItems"},
    "string": {"minLength", "maxLength", "pattern", "format"},
    "number": {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"},
}
_COMBINING = {"$ref", "anyOf", "oneOf", "allOf"}
_KEYWORDS = {"type", "enum", "const", *_COMBINING}.union(*_OF_TYPE.values())
_NOTES = {"title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly", "discriminator"}
_NOTES |= {"$schema", "$id", "$anchor", "$comment", "$defs", "definitions", "contentEncoding", "contentMediaType"}
_DEFINITIONS = ("$defs", "definitions")
_MAPS = ("properties", "patternProperties")  # their values are schemas
_LISTS = ("anyOf", "oneOf", "allOf", "prefixItems", "items")
_SINGLE = ("items", "additionalItems", "additionalProperties")

# White space is bounded, so that no answer can run away in it: a space, or a line break with an indentation.
_OPTIONS = {"whitespace_pattern": r"[ ]|\n[ \t]{0,20}", "json_allow_general_unicode_escapes": True}

Schema = dict[str, Any]


def parse_schema(text: str | None) -> Schema:
    """Return a schema, given as JSON text, ready for `grammar`. None stands for any JSON object.

    Raises RequestError for what is no schema, not supported, or too large.
    """
    if text is None:
        return {"type": "object"}
    if len(text) > _MOST_CHARACTERS:
        raise refused("", f"has {len(text)} characters; at most {_MOST_CHARACTERS} are allowed")
    try:
        root = json.loads(text)
        json.dumps(root, allow_nan=False, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise refused("", "has half a surrogate pair, which is no character") from None
    except (ValueError, RecursionError):
        raise refused("", "is not JSON, or has an infinite number") from None
    if root is True:
        return {}
    if not isinstance(root, dict):
        raise refused("", "must be a schema that something can match: an object or true")
    root.pop("x-guidance", None)  # llguidance's options, which are ours to set
    schemas = []
    for schema, path in _all_schemas(root):
        _check(schema, path)
        schemas.append(schema)
        if len(schemas) > _MOST_SCHEMAS:
            raise refused("", f"has more than {_MOST_SCHEMAS} schemas; use a smaller one")
    _check_multiples(schemas)
    if not any(_merges(schema) for schema in schemas):
        for schema in schemas:
            _narrow(schema)
    return root


def grammar(schema: Schema) -> str:
    """Return the grammar of a schema's answers, in llguidance's Lark. A space may come first: tokens begin with it."""
    # without forcing, the model's own tokens spell a text that is fixed; llguidance would choose tokens for it
    text = json.dumps({**schema, "x-guidance": _OPTIONS})
    return f'%llguidance {{"no_forcing": true}}\nstart: / ?/ answer\nanswer: %json {text}\n'


def call_grammar(schemas: Mapping[str, Schema], *, required: bool) -> str:
    """Return the grammar of answers that call one of the tools, by the schema of its arguments, or are text.

    Text is all that does not begin like a call, so a call that has begun is ended by its schema.
    """
    starts = [*(f"call{i}" for i in range(len(schemas))), *([] if required else ["TEXT"])]
    rules = ['%llguidance {"no_forcing": true}', f"start: {' | '.join(starts)}"]
    for i, (name, schema) in enumerate(schemas.items()):
        rules.append(f"call{i}: HEAD{i} arguments{i} END\nHEAD{i}: / ?{head_pattern([name])}/")
        rules.append(f"arguments{i}: %json {json.dumps({**schema, 'x-guidance': _OPTIONS})}")
    if not required:
        rules.append(f"TEXT: /(?s:.*)/ & ~(/ ?{head_pattern(schemas)}(?s:.*)/)")
    return "\n".join([*rules, "END: / ?\\}/", ""])


def in_field(error: RequestError, field: str) -> RequestError:
    """The error of `refused` for a schema that is in another field than response_format."""
    return RequestError(f"{field}: {str(error).removeprefix('response_format: ')}", param=field)


def find_path(root: Schema, fails: Callable[[Schema], bool]) -> str:
    """Return the path of what makes `root` fail: of the innermost schema that fails alone, and of its keyword."""
    definitions = {name: root[name] for name in _DEFINITIONS if name in root}
    path, schema, left = "#", root, _MOST_COMPILED
    inside = _children(root, root, path)
    while left > 0 and (inner := next(inside, None)) is not None:
        left -= 1
        if inner[0] is not root and fails({**definitions, **inner[0]}):
            schema, path = inner
            inside = _children(root, schema, path)
    for keyword in sorted(_KEYWORDS & schema.keys()):
        left -= 1
        if left > 0 and not fails({**definitions, **{name: schema[name] for name in schema if name != keyword}}):
            return f"{path}/{keyword}"
    return path


def refused(path: str, problem: str, what: str = "the schema") -> RequestError:
    """The error of a schema that cannot be kept, at a JSON pointer into it."""
    at = f" at {path[:100]}" if path else ""
    return RequestError(f"response_format: {what}{at} {problem[:160]}", param="response_format")


def _children(root: Schema, schema: Schema, path: str) -> Iterator[tuple[Schema, str]]:
    """Schemas directly inside a schema, or referred to by it, with their paths; true and false are left out."""
    for key, value in schema.items():
        inner: list[tuple[Any, str]] = []
        if key == "$ref":
            inner = [(_target(root, value, f"{path}/$ref"), value)]
        elif key in _MAPS and isinstance(value, dict):
            inner = [(part, f"{path}/{key}/{name[:40]}") for name, part in value.items()]
        elif key in _LISTS and isinstance(value, list):
            inner = [(part, f"{path}/{key}/{n}") for n, part in enumerate(value)]
        elif key in _SINGLE:
            inner = [(value, f"{path}/{key}")]
        yield from (one for one in inner if isinstance(one[0], dict))


def _target(root: Schema, reference: Any, path: str) -> Any:
    """What a reference points to."""
    if not isinstance(reference, str) or not (reference == "#" or reference.startswith("#/")):
        raise refused(path, "must point into the schema itself, as in #/$defs/name")
    target: Any = root
    for step in reference.split("/")[1:]:
        key = unquote(step).replace("~1", "/").replace("~0", "~")
        if not isinstance(target, dict) or key not in target:
            raise refused(path, f"points to nothing: {reference}")
        target = target[key]
    return target


def _all_schemas(root: Schema) -> Iterator[tuple[Schema, str]]:
    """The schema and all that it uses, each once; definitions that nothing refers to are left out."""
    seen, left = set(), [(root, "#")]
    while left:
        schema, path = left.pop()
        if id(schema) not in seen:
            seen.add(id(schema))
            yield schema, path
            left += list(_children(root, schema, path))[::-1]


def _check(schema: Schema, path: str) -> None:
    """Refuse keywords that have no effect here."""
    _settle_names(schema)
    _settle_format(schema)
    for name in schema:
        if name not in _KEYWORDS and name not in _NOTES and not name.startswith("x-"):
            raise refused(f"{path}/{name[:40]}", "is not supported", what=f"the schema's keyword {name[:40]}")
    if isinstance(schema.get("properties"), dict) and len(schema["properties"]) > _MOST_PROPERTIES:
        raise refused(path, f"has more than {_MOST_PROPERTIES} properties")
    if "format" in schema and schema["format"] not in FORMATS:
        raise refused(f"{path}/format", f"must be one of {', '.join(FORMATS)}")


def _settle_names(schema: Schema) -> None:
    """Replace what zod writes of a record's names: that they are strings, or which ones they are."""
    names = schema.get("propertyNames")
    if names == {"type": "string"}:
        del schema["propertyNames"]
    elif isinstance(names, dict) and isinstance(names.get("enum"), list) and "properties" not in schema:
        allowed = [name for name in names["enum"] if isinstance(name, str)]
        del schema["propertyNames"]
        schema["properties"] = {name: schema.get("additionalProperties", True) for name in allowed}
        schema["additionalProperties"] = False


def _settle_format(schema: Schema) -> None:
    """Reduce a format and the pattern beside it to what is followed here.

    zod writes both, and they say the same. So a pattern alone is enough where the format is not known, and a known
    format where the pattern looks around.
    """
    format, pattern = schema.get("format"), schema.get("pattern")
    if format in FORMATS:
        if isinstance(pattern, str) and _LOOK_AROUND.search(pattern):
            del schema["pattern"]
    elif isinstance(format, str) and isinstance(pattern, str):
        del schema["format"]
    elif isinstance(format, str) and format in _ALSO:
        del schema["format"]
        schema |= _ALSO[format]


def _check_multiples(schemas: list[Schema]) -> None:
    """Refuse values of multipleOf whose states would fill the memory; powers of ten cost nothing."""
    values = {schema["multipleOf"] for schema in schemas if isinstance(schema.get("multipleOf"), int | float)}
    digits = [Decimal(repr(value)).normalize().as_tuple().digits for value in values if not isinstance(value, bool)]
    if math.prod(int("".join(map(str, d))) for d in digits) > _LARGEST_MULTIPLE:
        raise refused("", f"has values of multipleOf whose product is above {_LARGEST_MULTIPLE}")


def _merges(schema: Schema) -> bool:
    """Whether the members of an answer come from several schemas."""
    combining = _COMBINING & schema.keys()
    several = isinstance(schema.get("allOf"), list) and len(schema["allOf"]) > 1
    return several or bool(combining and len(_KEYWORDS & schema.keys()) > 1)


def _narrow(schema: Schema) -> None:
    """Add what a schema means and leaves out: its type, and that there are no members or items but its own."""
    if not {"type", "enum", "const", *_COMBINING} & schema.keys():
        types = [name for name, keywords in _OF_TYPE.items() if keywords & schema.keys()]
        if types:
            schema["type"] = types
    properties, required = schema.get("properties", {}), schema.get("required", [])
    open_ = {"additionalProperties", "patternProperties"} & schema.keys()
    if (properties or required) and not open_ and isinstance(properties, dict) and isinstance(required, list):
        missing = {name: True for name in required if isinstance(name, str) and name not in properties}
        schema |= {"properties": {**properties, **missing}, "additionalProperties": False}
    items = schema.get("prefixItems")
    if isinstance(items, list) and "items" not in schema:
        most = schema.get("maxItems")
        schema["items"] = False
        schema.setdefault("minItems", min(len(items), most) if isinstance(most, int) else len(items))
