"""A JSON value held against a pydantic model, and the first fault as our RequestError.

The one place that knows pydantic's errors. `param` is the path of the field as clients write it
("messages[2].content[0].type"), `code` one of the codes in the table below, or the code that a validator of ours gave.
Where a validator's fault is in a field below the value it checks, its error carries that field's name as `field`.
"""

from __future__ import annotations

import json
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import PydanticCustomError

from ...errors import RequestError

M = TypeVar("M", bound=BaseModel)

NO_NUL = r"^[^\u0000]*$"  # a pattern that JSON Schema and pydantic read in the same way

# pydantic's type of error -> our code, and what to say. Every other type is a code of ours with its own words.
_FAULTS = {
    "missing": ("missing_required_parameter", "is required"),
    "extra_forbidden": ("unknown_parameter", "this server knows no such field"),
    "string_type": ("invalid_type", "must be a string, not {kind}"),
    "int_type": ("invalid_type", "must be an integer, not {kind}"),
    "float_type": ("invalid_type", "must be a number, not {kind}"),
    "bool_type": ("invalid_type", "must be true or false, not {kind}"),
    "list_type": ("invalid_type", "must be an array, not {kind}"),
    "dict_type": ("invalid_type", "must be an object, not {kind}"),
    "model_type": ("invalid_type", "must be an object, not {kind}"),
    "literal_error": ("invalid_value", "must be {expected}, not {value}"),
    "greater_than_equal": ("invalid_value", "must be at least {ge}, not {value}"),
    "less_than_equal": ("invalid_value", "must be at most {le}, not {value}"),
    "string_pattern_mismatch": ("invalid_value", "must match {pattern}"),
    "string_too_short": ("invalid_value", "must have at least {min_length} character"),
    "string_too_long": ("string_above_max_length", "has {length} characters; at most {max_length} are allowed"),
    "too_short": ("empty_array", "must not be empty"),
    "too_long": ("array_above_max_length", "has too many entries; at most {max_length} are allowed"),
}


def validate(model: type[M], body: Any) -> M:
    """`body` as the model has it. Raises RequestError for the first fault, in the order of the model's fields."""
    if not isinstance(body, dict):
        raise RequestError("the body must be a JSON object")
    try:
        return model.model_validate(body)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
    kind, value = first["type"], first["input"]
    context = {name: _short(item) for name, item in first.get("ctx", {}).items()}
    code, problem = _FAULTS.get(kind, (kind, ""))
    if kind == "literal_error" and not isinstance(value, str):
        code = "invalid_type"
    if context.get("pattern") == NO_NUL:
        problem = "must not have the character U+0000"
    text = problem.format(kind=kind_of(value), value=show(value), length=_length(value), **context) or first["msg"]
    path = ".".join(filter(None, (_path(body, first["loc"]), context.get("field"))))
    raise RequestError(f"{path}: {text}", param=path, code=code) from None


def fault(code: str, problem: str, *, field: str | None = None) -> PydanticCustomError:
    """The error for a validator to raise: our code, in our words.

    Args:
        field: path of the field at fault, below the value that the validator checks.
    """
    context = {"problem": problem} if field is None else {"problem": problem, "field": field}
    return PydanticCustomError(code, "{problem}", context)


def kind_of(value: Any) -> str:
    """What JSON calls the type of a value."""
    names = {dict: "an object", list: "an array", str: "a string", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")


def show(value: Any) -> str:
    """A value in an error message: as JSON, cut where it is long. Arrays and objects may be huge: only their kind."""
    if value and isinstance(value, list | dict):
        return kind_of(value)
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 64 else f"{text[:60]} …"


def _short(limit: Any) -> Any:
    """2 for 2.0, as the fields' limits were written."""
    return int(limit) if isinstance(limit, float) and limit.is_integer() else limit


def _length(value: Any) -> int:
    return len(value) if isinstance(value, str) else 0


def _path(body: Any, steps: tuple[int | str, ...]) -> str:
    """As clients write it. A name where the value is no object, or one in <> that an object has not, is the tag of a
    union's member, which is ours."""
    path = ""
    value = body
    for step in steps:
        if isinstance(value, list) and isinstance(step, int):
            path, value = f"{path}[{step}]", value[step]
        elif isinstance(value, dict) and not (step not in value and str(step).startswith("<")):
            path, value = f"{path}.{str(step)[:64]}" if path else str(step)[:64], value.get(step)
    return path
