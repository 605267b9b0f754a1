"""Between JSON and our types, for the contract of ChatGLM2's own demo server (`api.py` of its repository): POST /.

{"prompt", "history": [[question, answer], …], "max_length", "top_p", "temperature"} gets {"response", "history",
"status", "time"}. Programs made for ChatGLM speak it, LangChain's ChatGLM endpoint among them. Errors are those of the
rest of this server. Pure.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from ...errors import RequestError
from ...types import Message, Request, SamplingParams
from .checks import NO_NUL, Check, array, fail, integer, kind, number, says, string, table

# the demo server's
DEFAULT_TEMPERATURE = 0.95
DEFAULT_TOP_P = 0.7

_SCHEMA = {"type": "string", "pattern": NO_NUL}


@says({"type": "array", "items": _SCHEMA, "minItems": 2, "maxItems": 2})
def pair(value: Any, path: str) -> tuple[str, str]:
    """[question, answer]"""
    if not isinstance(value, list):
        raise fail(path, "invalid_type", f"must be an array of a question and its answer, not {kind(value)}")
    if len(value) != 2:
        raise fail(path, "invalid_value", f"must hold a question and its answer, not {len(value)} entries")
    return _text(value[0], f"{path}[0]"), _text(value[1], f"{path}[1]")


_text = string()

FIELDS: dict[str, Check[Any]] = {
    "prompt": string(),
    "history": array(pair),
    "max_length": integer(0),
    "top_p": number(0, 1),
    "temperature": number(0, 2),
}


@dataclass(frozen=True)
class ChatGLMCall:
    """A checked request, and the conversation as its client wrote it, which goes back to it."""

    request: Request
    history: tuple[tuple[str, str], ...]
    prompt: str


def parse(body: Any) -> ChatGLMCall:
    """Check the body; the first fault found is raised as RequestError."""
    if not isinstance(body, dict):
        raise RequestError("the body must be a JSON object")
    fields = table(FIELDS, required=("prompt",))(body, "")
    history: tuple[tuple[str, str], ...] = fields.get("history", ())
    past = (m for question, answer in history for m in (Message("user", question), Message("assistant", answer)))
    request = Request(
        messages=(*past, Message("user", fields["prompt"])),
        sampling=SamplingParams(fields.get("temperature", DEFAULT_TEMPERATURE), fields.get("top_p", DEFAULT_TOP_P)),
        max_length=fields.get("max_length") or None,  # 0 is the demo server's word for no limit of one's own
    )
    return ChatGLMCall(request, history, fields["prompt"])


def answer(call: ChatGLMCall, text: str, now: float, trimmed_rounds: int = 0) -> dict[str, Any]:
    """What the demo server would say.

    Args:
        now: seconds since 1970; written in this machine's zone.
        trimmed_rounds: oldest rounds that the model was not shown; said where there were any.
    """
    rounds = [list(past) for past in (*call.history, (call.prompt, text))]
    stamp = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(now))
    said = {"trimmed_rounds": trimmed_rounds} if trimmed_rounds else {}
    return {"response": text, "history": rounds, "status": 200, "time": stamp, **said}
