"""Tools in requests: what the model may call, whether it must, and calls and results in a conversation. Pure.

The contract is OpenAI's: `tools`, `tool_choice`, `tool_calls` of an assistant's message, messages of the role "tool".
How all that becomes text is in `glm_edge/tool_calls.py`, how answers are held to it in the engine.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Discriminator, Field, Tag

from ...tool_calls import tools_text
from ...types import CallFormat, Message, Tool
from .fields import StrictModel, Text
from .validation import fault, show

MAX_TOOLS = 128  # OpenAI's
_NAME = "^[a-zA-Z0-9_-]{1,64}$"
_TYPING = {"type", "enum", "const", "$ref", "anyOf", "oneOf", "allOf"}  # what says of which type arguments are

ToolName = Annotated[str, Field(pattern=_NAME)]


def _function_only(value: Any) -> Any:
    if isinstance(value, str) and value != "function":
        raise fault("unsupported_value", f"only functions can be called here, not {show(value)}")
    return value


FunctionType = Annotated[Literal["function"], BeforeValidator(_function_only)]


def _of_an_object(schema: dict[str, Any]) -> dict[str, Any]:
    if schema.get("type", "object") != "object":
        raise fault("invalid_value", f'must describe an object, so their type is "object", not {show(schema["type"])}')
    return schema


Parameters = Annotated[
    dict[str, Any],
    AfterValidator(_of_an_object),
    Field(json_schema_extra={"properties": {"type": {"const": "object"}}}),
]


class Function(StrictModel):
    """A function that the client can call: what it does, and a JSON Schema of its arguments."""

    name: ToolName
    description: Text | None = None
    parameters: Parameters | None = None  # what it means is the engine's to say
    strict: bool | None = None  # arguments follow their schema in any case


class FunctionTool(StrictModel):
    """A tool of a chat completion."""

    type: FunctionType
    function: Function


class FunctionName(StrictModel):
    """A function by its name."""

    name: ToolName


class NamedTool(StrictModel):
    """The one tool that must be called."""

    type: FunctionType
    function: FunctionName


def choice_tag(value: Any) -> str | None:
    """Which member of a union of a word and an object a `tool_choice` is."""
    return "<object>" if isinstance(value, dict) else "word" if isinstance(value, str) else None


WRONG_CHOICE = "must be none, auto, required, or an object that names a function"
ChoiceWord = Annotated[Literal["none", "auto", "required"], Tag("word")]
ToolChoice = Annotated[
    ChoiceWord | Annotated[NamedTool, Tag("<object>")],
    Discriminator(choice_tag, custom_error_type="invalid_type", custom_error_message=WRONG_CHOICE),
]


class CalledFunction(StrictModel):
    """A function and its arguments, as the model wrote them: JSON as text."""

    name: ToolName
    arguments: Text
    parsed_arguments: Any = None  # the same, added by OpenAI's client for Node, which sends it back


class ToolCall(StrictModel):
    """A call in an assistant's message."""

    model_config = ConfigDict(json_schema_extra={"required": ["id", "type", "function"]})

    id: Text
    type: FunctionType
    function: CalledFunction
    index: int | None = None  # streams have it, and some clients send it back


def call_format(
    functions: Sequence[tuple[Function, str]], choice: str | None, named: str | None
) -> tuple[CallFormat | None, tuple[Message, ...]]:
    """What an answer may be, and the message that describes the tools; None and nothing where no tool may be called.

    Args:
        functions: each with the path of its schema in the request.
        choice: "none", "auto" or "required"; None is auto.
        named: the function that must be called.

    Raises the fault of a choice that does not fit the functions.
    """
    names = [function.name for function, _ in functions]
    if doubled := next((name for name in names if names.count(name) > 1), None):
        raise fault("invalid_value", f"has the function {doubled} twice", field="tools")
    if named is not None and named not in names:
        raise fault("invalid_value", f"names {named}, which is not in tools", field="tool_choice")
    if not functions and choice == "required":
        raise fault("invalid_value", "is required, and there are no tools", field="tool_choice")
    if not functions or choice == "none":
        return None, ()
    schemas = {function.name: _schema(function.parameters) for function, _ in functions}
    told = [(function.name, function.description or "", schemas[function.name]) for function, _ in functions]
    tools = tuple(
        Tool(function.name, schemas[function.name], path)
        for function, path in functions
        if named in (None, function.name)
    )
    format = CallFormat(tools, required=choice == "required" or named is not None)
    return format, (Message("system", tools_text(told)),)


def _schema(parameters: dict[str, Any] | None) -> str:
    """The schema of a function's arguments, which are an object; one that has no parameters takes none."""
    schema = parameters or {}
    if not _TYPING & schema.keys():
        schema = {"type": "object", **schema}
    if schema.get("type") == "object" and not schema.keys() - {"type", "properties", "$schema"}:
        schema = schema if schema.get("properties") else {**schema, "additionalProperties": False}
    return json.dumps(schema, ensure_ascii=False)
