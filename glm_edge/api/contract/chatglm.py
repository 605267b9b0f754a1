"""The contract of ChatGLM2's own demo server (`api.py` of its repository): POST /, between JSON and our types. Pure.

{"prompt", "history": [[question, answer], …], "max_length", "top_p", "temperature"} gets {"response", "history",
"status", "time"}. Programs made for ChatGLM speak it, LangChain's ChatGLM endpoint among them. Errors are those of the
rest of this server.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from ...types import Message, Request, SamplingParams
from .fields import WHOLE, Probability, StrictModel, Temperature, Text
from .responses import ChatGLMResponse
from .validation import fault, validate

# the demo server's
DEFAULT_TEMPERATURE = 0.95
DEFAULT_TOP_P = 0.7


def _question_and_answer(texts: list[str]) -> list[str]:
    if len(texts) != 2:
        raise fault("invalid_value", f"must hold a question and its answer, not {len(texts)} entries")
    return texts


Round = Annotated[
    list[Text],
    Field(fail_fast=True, json_schema_extra={"minItems": 2, "maxItems": 2}),
    AfterValidator(_question_and_answer),
]


class ChatGLMRequest(StrictModel):
    """A question, with the rounds before it. max_length counts the tokens of prompt and answer; 0 is no limit."""

    prompt: Text
    history: Annotated[list[Round], Field(fail_fast=True)] | None = None
    max_length: Annotated[int, Field(ge=0), WHOLE] | None = None
    top_p: Probability | None = None
    temperature: Temperature | None = None
    # What LangChain's ChatGLM class documents beside these; the demo server ignores it as well.
    sample_model_args: bool | None = None


@dataclass(frozen=True)
class ChatGLMCall:
    """A checked request, and the conversation as its client wrote it, which goes back to it."""

    request: Request
    history: tuple[tuple[str, str], ...]
    prompt: str


def parse_chatglm(body: Any) -> ChatGLMCall:
    """Check the body; the first fault found is raised as RequestError."""
    asked = validate(ChatGLMRequest, body)
    history = tuple((question, answer) for question, answer in asked.history or [])
    past = (m for question, answer in history for m in (Message("user", question), Message("assistant", answer)))
    sampling = SamplingParams(
        DEFAULT_TEMPERATURE if asked.temperature is None else asked.temperature,
        DEFAULT_TOP_P if asked.top_p is None else asked.top_p,
    )
    messages = (*past, Message("user", asked.prompt))
    param = "history" if history else "prompt"
    request = Request(messages, sampling, max_length=asked.max_length or None, param=param)
    return ChatGLMCall(request, history, asked.prompt)


def chatglm_response(call: ChatGLMCall, text: str, now: float, trimmed_rounds: int = 0) -> ChatGLMResponse:
    """What the demo server would answer.

    Args:
        now: seconds since 1970; written in this machine's zone.
        trimmed_rounds: oldest rounds that the model was not shown; in the response where there were any.
    """
    response: ChatGLMResponse = {
        "response": text,
        "history": [list(past) for past in (*call.history, (call.prompt, text))],
        "status": 200,
        "time": time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(now)),
    }
    if trimmed_rounds:
        response["trimmed_rounds"] = trimmed_rounds
    return response
