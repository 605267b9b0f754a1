"""The fields of a chat completion, one line each: what is read, what is accepted without effect, what is refused.

Names and limits are those of OpenAI's API reference for POST /v1/chat/completions; `history` is ours, and top_k, min_p
and repetition_penalty are named as other servers of open models have them. To support a
field, give it a check here and use its value in `wire.py`.
"""

from __future__ import annotations

import json
import re
from typing import Any

from ...types import JsonFormat, Message, Role
from .checks import (
    NO_NUL,
    Check,
    array,
    boolean,
    fail,
    integer,
    kind,
    number,
    only,
    says,
    schema_of,
    show,
    string,
    strings_by_name,
    table,
)

MAX_STOPS = 4
MAX_STOP_LENGTH = 256  # characters
MAX_ANSWERS = 8  # to one request
MAX_BIASES = 1024


_TEXT = {"type": "string", "pattern": NO_NUL}
_PART = {
    "type": "object",
    "properties": {"type": {"const": "text"}, "text": _TEXT},
    "required": ["type", "text"],
    "additionalProperties": False,
}
_STOP = {**_TEXT, "minLength": 1, "maxLength": MAX_STOP_LENGTH}


@says({"anyOf": [_TEXT, {"type": "array", "items": _PART, "minItems": 1}]})
def content(value: Any, path: str) -> str:
    """A message's content: a string, or an array of text parts, which are joined by line breaks."""
    if isinstance(value, str):
        return _text(value, path)
    if isinstance(value, list):
        return "\n".join(array(text_part, fewest=1)(value, path))
    raise fail(path, "invalid_type", f"must be a string or an array of text parts, not {kind(value)}")


@says(_PART)
def text_part(value: Any, path: str) -> str:
    """{"type": "text", "text": "…"}; other types ask for more than a text model has."""
    name = value.get("type") if isinstance(value, dict) else None
    if isinstance(name, str) and name != "text":
        raise fail(f"{path}.type", "unsupported_value", f"the model reads text only, not {show(name)}")
    return str(_TEXT_PART(value, path)["text"])


@says({"enum": ["system", "developer", "user", "assistant"]})
def role(value: Any, path: str) -> Role:
    """system, user or assistant; developer is OpenAI's newer word for system."""
    name = string()(value, path)
    if name in ("tool", "function"):
        raise fail(path, "unsupported_value", f"{name} messages are not supported: the model calls no tools")
    if name not in _ROLES:
        raise fail(path, "invalid_value", f"must be one of {', '.join(_ROLES)}, not {show(name)}")
    return _ROLES[name]


@says({"anyOf": [_STOP, {"type": "array", "items": _STOP, "maxItems": MAX_STOPS}]})
def stop(value: Any, path: str) -> tuple[str, ...]:
    """One string or up to four."""
    if isinstance(value, str):
        return (_stop_text(value, path),)
    if isinstance(value, list):
        return array(_stop_text, most=MAX_STOPS)(value, path)
    raise fail(path, "invalid_type", f"must be a string or an array of strings, not {kind(value)}")


@says(_STOP)
def _stop_text(value: Any, path: str) -> str:
    text = string(longest=MAX_STOP_LENGTH)(value, path)
    if not text:
        raise fail(path, "invalid_value", "must not be empty")
    return text


_CONTENT = schema_of(content)
_OTHERS_OF_MESSAGE = {
    "name": {"anyOf": [{"type": "string", "pattern": "^[a-zA-Z0-9_]{1,64}$"}, {"type": "null"}]},
    "refusal": {"type": "null"},
    "annotations": {"enum": [[], None]},
    "audio": {"type": "null"},
    "function_call": {"type": "null"},
    "tool_calls": {"enum": [[], None]},
}


def _message_schema(roles: list[str], content: dict[str, Any], *required: str) -> dict[str, Any]:
    properties = {"role": {"enum": roles}, "content": content, **_OTHERS_OF_MESSAGE}
    return {"type": "object", "properties": properties, "required": ["role", *required], "additionalProperties": False}


@says(
    {
        "anyOf": [
            _message_schema(["system", "developer", "user"], _CONTENT, "content"),
            _message_schema(["assistant"], {"anyOf": [_CONTENT, {"type": "null"}]}),
        ]
    }
)
def message(value: Any, path: str) -> Message:
    """One message; only an assistant's may have no content."""
    fields = _MESSAGE(value, path)
    if "content" not in fields and fields["role"] != "assistant":
        raise fail(f"{path}.content", "missing_required_parameter", "is required")
    return Message(fields["role"], fields.get("content", ""))


@says(
    {
        "type": "object",
        "maxProperties": MAX_BIASES,
        "propertyNames": {"pattern": "^[0-9]{1,9}$"},
        "additionalProperties": {"type": "number", "minimum": -100, "maximum": 100},
    }
)
def logit_bias(value: Any, path: str) -> dict[int, float]:
    """Token id -> bias; which ids there are only the engine knows."""
    if not isinstance(value, dict):
        raise fail(path, "invalid_type", f"must be an object, not {kind(value)}")
    if len(value) > MAX_BIASES:
        raise fail(path, "invalid_value", f"has {len(value)} entries; at most {MAX_BIASES} are allowed")
    for name in value:
        if not re.fullmatch("[0-9]{1,9}", name):
            raise fail(path, "invalid_value", f"must have token ids for names, not {show(name)}")
    return {int(name): _bias(bias, f"{path}.{name}") for name, bias in value.items()}


@says({"type": "object"})
def _schema(value: Any, path: str) -> dict[str, Any]:
    """An object; what it means is the engine's to say."""
    if not isinstance(value, dict):
        raise fail(path, "invalid_type", f"must be an object, not {kind(value)}")
    return value


_JSON_SCHEMA = table(
    {"name": string(pattern="[a-zA-Z0-9_-]{1,64}"), "description": string(), "schema": _schema, "strict": boolean},
    required=("name",),
)


@says(
    {
        "anyOf": [
            {
                "type": "object",
                "properties": {"type": {"enum": ["text", "json_object"]}, "json_schema": {"type": "null"}},
                "required": ["type"],
                "additionalProperties": False,
            },
            {
                "type": "object",
                "properties": {"type": {"const": "json_schema"}, "json_schema": schema_of(_JSON_SCHEMA)},
                "required": ["type", "json_schema"],
                "additionalProperties": False,
            },
        ]
    }
)
def response_format(value: Any, path: str) -> JsonFormat | None:
    """{"type": "text"}, {"type": "json_object"} or {"type": "json_schema", "json_schema": {…}}."""
    wanted = _FORMAT(value, path)
    if wanted["type"] not in _FORMATS:
        raise fail(f"{path}.type", "invalid_value", f"must be one of {', '.join(_FORMATS)}, not {show(wanted['type'])}")
    if (wanted["type"] == "json_schema") != ("json_schema" in wanted):
        raise fail(f"{path}.json_schema", "invalid_value", "is for the type json_schema, and required there")
    if wanted["type"] == "text":
        return None
    schema = wanted.get("json_schema", {}).get("schema")
    return JsonFormat(None if schema is None else json.dumps(schema, ensure_ascii=False))


_FORMATS = ("text", "json_object", "json_schema")
_bias = number(-100, 100)
_FORMAT = table({"type": string(), "json_schema": _JSON_SCHEMA}, required=("type",))

_ROLES: dict[str, Role] = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
_text = string()
_TEXT_PART = table({"type": string(), "text": string()}, required=("type", "text"))

_MESSAGE_FIELDS: dict[str, Check[Any]] = {
    "role": role,
    "content": content,
    "name": string(pattern="[a-zA-Z0-9_]{1,64}"),
    # What clients send back of an answer: nothing in it that we would have sent.
    "refusal": only(),
    "annotations": only([]),
    "audio": only(),
    "function_call": only(),
    "tool_calls": only([]),
}

_MESSAGE = table(_MESSAGE_FIELDS, required=("role",))

CHAT: dict[str, Check[Any]] = {
    "messages": array(message, fewest=1),
    "history": array(message),
    "model": string(longest=256),
    "stream": boolean,
    "stream_options": table({"include_usage": boolean, "include_obfuscation": only(False)}),
    "max_tokens": integer(1),
    "max_completion_tokens": integer(1),
    "temperature": number(0, 2),
    "top_p": number(0, 1),
    "seed": integer(-(2**63), 2**63 - 1),
    "stop": stop,
    "n": integer(1, MAX_ANSWERS),
    "top_k": integer(0, 2**31 - 1),
    "min_p": number(0, 1),
    "presence_penalty": number(-2, 2),
    "frequency_penalty": number(-2, 2),
    "repetition_penalty": number(0.1, 10),
    "logit_bias": logit_bias,
    "logprobs": boolean,
    "top_logprobs": integer(0, 20),
    "response_format": response_format,
    # Checked and of no effect: they concern billing, storage and who asks.
    "user": string(),
    "safety_identifier": string(),
    "metadata": strings_by_name(most=16, longest_name=64, longest=512),
    "service_tier": string(longest=64),
    "store": only(False),
    "prompt_cache_key": string(),
    "prompt_cache_retention": string(longest=64),
    "prompt_cache_options": only({}),
    "parallel_tool_calls": boolean,
    # Known and not supported: only the values that ask for nothing pass.
    "repeat_penalty": only(1, 1.0),
    "tools": only([]),
    "tool_choice": only("none", "auto"),
    "functions": only([]),
    "function_call": only("none", "auto"),
    "modalities": only(["text"]),
    "audio": only(),
    "prediction": only(),
    "reasoning_effort": only("none"),
    "verbosity": only("medium"),
    "web_search_options": only(),
    "moderation": only(),
    "chat_template": only(),
    "chat_template_kwargs": only({}),
}
