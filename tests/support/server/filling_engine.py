"""What a fake engine says to programs that want structured answers: a call or JSON by their own schema, else text."""

from __future__ import annotations

import json
from typing import Any

from glm_edge.types import CallFormat, JsonFormat, Request
from support.engines.fake_engine import Step

SAID = "你好，世界😀"
TOWN, DAYS = "北京", 7  # every text and every number of a structured answer


def answer(request: Request) -> list[Step]:
    """The script for a request. A tool is called where one may be, until its result is there."""
    format = request.sampling.response_format
    done = any(message.content.startswith("Result of") for message in request.messages)
    if isinstance(format, CallFormat) and (format.required or not done):
        tool = format.tools[0]
        return in_pieces({"name": tool.name, "arguments": _value(json.loads(tool.parameters))})
    if isinstance(format, JsonFormat):
        return in_pieces(_value(json.loads(format.schema or '{"properties": {"city": {"type": "string"}}}')))
    return ["你好", "，", "世界", "😀"]


def in_pieces(value: Any) -> list[Step]:
    text = json.dumps(value, ensure_ascii=False)
    return [text[i : i + 3] for i in range(0, len(text), 3)]


def _value(schema: Any, root: Any = None) -> Any:
    """A value that fits a simple schema."""
    root = schema if root is None else root
    if "$ref" in schema:
        target = root
        for step in schema["$ref"].split("/")[1:]:
            target = target[step]
        return _value(target, root)
    if "anyOf" in schema:
        return _value(schema["anyOf"][0], root)
    if "properties" in schema:
        return {name: _value(one, root) for name, one in schema["properties"].items()}
    return {"string": TOWN, "integer": DAYS, "number": DAYS, "array": [], "object": {}}[schema.get("type", "object")]
