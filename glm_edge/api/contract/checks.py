"""Checks of single JSON values, to build field tables from: each takes a value and its path, and returns it typed.

A path is what an error calls the field: "messages[2].content[0].type". All failures are RequestError with that path
and one of the codes invalid_type, invalid_value, unsupported_value, unsupported_parameter, unknown_parameter,
missing_required_parameter, empty_array and the like. Which fields there are stands in `fields.py`.

A check also knows what it takes as JSON Schema (`says`, `schema_of`), from which `openapi.py` builds its document.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from ...errors import RequestError

NO_NUL = r"^[^\u0000]*$"  # as JSON Schema says it

T = TypeVar("T")
Check = Callable[[Any, str], T]
"""(value, path) -> the value as we use it."""


_SCHEMA = "schema"  # attribute of a check


def says(schema: Mapping[str, Any]) -> Callable[[Check[T]], Check[T]]:
    """Decorator: what a check takes, as JSON Schema. null, where a field is optional, is added by `table`."""

    def mark(check: Check[T]) -> Check[T]:
        check.__dict__[_SCHEMA] = dict(schema)
        return check

    return mark


def schema_of(check: Check[Any]) -> dict[str, Any]:
    """What a check takes, as JSON Schema."""
    return dict(check.__dict__[_SCHEMA])


def fail(path: str, code: str, problem: str) -> RequestError:
    """The error to raise about the field at `path`."""
    return RequestError(f"{path}: {problem}", param=path, code=code)


def number(low: float, high: float) -> Check[float]:
    """A number from low to high; a boolean is not a number."""

    @says({"type": "number", "minimum": low, "maximum": high})
    def check(value: Any, path: str) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise fail(path, "invalid_type", f"must be a number, not {kind(value)}")
        if not low <= value <= high:
            raise fail(path, "invalid_value", f"must be from {low:g} to {high:g}, not {show(value)}")
        return float(value)

    return check


def integer(low: int, high: int | None = None) -> Check[int]:
    """A whole number from low to high; 5.0 is one, as in JSON Schema."""
    limits = {"minimum": low} if high is None else {"minimum": low, "maximum": high}
    span = f"at least {low}" if high is None else f"from {low} to {high}"

    @says({"type": "integer", **limits})
    def check(value: Any, path: str) -> int:
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int):
            raise fail(path, "invalid_type", f"must be an integer, not {kind(value)}")
        if value < low or (high is not None and value > high):
            raise fail(path, "invalid_value", f"must be {span}, not {show(value)}")
        return value

    return check


@says({"type": "boolean"})
def boolean(value: Any, path: str) -> bool:
    """true or false."""
    if not isinstance(value, bool):
        raise fail(path, "invalid_type", f"must be true or false, not {kind(value)}")
    return value


def string(*, longest: int | None = None, pattern: str | None = None) -> Check[str]:
    """A string without U+0000, which native code takes for the end of the text.

    Args:
        longest: in characters.
        pattern: a regular expression for the whole string.
    """
    schema: dict[str, Any] = {"type": "string", "pattern": NO_NUL if pattern is None else f"^{pattern}$"}
    if longest is not None:
        schema["maxLength"] = longest

    @says(schema)
    def check(value: Any, path: str) -> str:
        if not isinstance(value, str):
            raise fail(path, "invalid_type", f"must be a string, not {kind(value)}")
        if longest is not None and len(value) > longest:
            raise fail(path, "string_above_max_length", f"has {len(value)} characters; at most {longest} are allowed")
        if "\0" in value:
            raise fail(path, "invalid_value", "contains the character U+0000")
        if pattern is not None and not re.fullmatch(pattern, value):
            raise fail(path, "invalid_value", f"must match {pattern}")
        return value

    return check


def array(item: Check[T], *, fewest: int = 0, most: int | None = None) -> Check[tuple[T, ...]]:
    """An array whose items all pass `item`; comes back as a tuple."""
    limits = {} if most is None else {"maxItems": most}

    @says({"type": "array", "items": schema_of(item), "minItems": fewest, **limits})
    def check(value: Any, path: str) -> tuple[T, ...]:
        if not isinstance(value, list):
            raise fail(path, "invalid_type", f"must be an array, not {kind(value)}")
        if len(value) < fewest:
            raise fail(path, "empty_array", "must not be empty")
        if most is not None and len(value) > most:
            raise fail(path, "array_above_max_length", f"has {len(value)} entries; at most {most} are allowed")
        return tuple(item(entry, f"{path}[{n}]") for n, entry in enumerate(value))

    return check


def table(fields: Mapping[str, Check[Any]], *, required: tuple[str, ...] = ()) -> Check[dict[str, Any]]:
    """An object with these fields and no others; a null where a field is optional means that it is absent."""
    properties = {
        name: schema_of(field) if name in required else {"anyOf": [schema_of(field), {"type": "null"}]}
        for name, field in fields.items()
    }

    @says({"type": "object", "properties": properties, "required": [*required], "additionalProperties": False})
    def check(value: Any, path: str) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise fail(path, "invalid_type", f"must be an object, not {kind(value)}")
        inside = f"{path}." if path else ""
        for name in required:
            if name not in value:
                raise fail(inside + name, "missing_required_parameter", "is required")
        unknown = next((name for name in value if name not in fields), None)
        if unknown is not None:
            raise fail(inside + unknown[:64], "unknown_parameter", "this server knows no such field")
        return {
            name: fields[name](entry, inside + name)
            for name, entry in value.items()
            if entry is not None or name in required
        }

    return check


def strings_by_name(*, most: int, longest_name: int, longest: int) -> Check[dict[str, str]]:
    """An object of strings, as `metadata` is."""
    text = string(longest=longest)

    @says(
        {
            "type": "object",
            "maxProperties": most,
            "propertyNames": {"maxLength": longest_name},
            "additionalProperties": schema_of(text),
        }
    )
    def check(value: Any, path: str) -> dict[str, str]:
        if not isinstance(value, dict):
            raise fail(path, "invalid_type", f"must be an object, not {kind(value)}")
        if len(value) > most or any(len(name) > longest_name for name in value):
            raise fail(
                path, "invalid_value", f"at most {most} entries, with names of at most {longest_name} characters"
            )
        return {name: text(entry, f"{path}.{name}") for name, entry in value.items()}

    return check


def only(*accepted: Any) -> Check[None]:
    """A field that is known but not supported, save for the values that ask for nothing."""

    @says({"enum": list(accepted)} if accepted else {"type": "null"})
    def check(value: Any, path: str) -> None:
        if not any(type(value) is type(one) and value == one for one in accepted):
            but = f" other than {' or '.join(show(one) for one in accepted)}" if accepted else ""
            raise fail(path, "unsupported_parameter", f"is not supported by this server{but}")

    return check


def kind(value: Any) -> str:
    """What JSON calls the type of a value."""
    names = {dict: "an object", list: "an array", str: "a string", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")


def show(value: Any) -> str:
    """A value in an error message: as JSON, cut where it is long."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 64 else f"{text[:60]} …"
