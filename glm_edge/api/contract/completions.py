"""Requests for text without a conversation: POST /v1/completions and POST /v1/tokenize. Pure.

The first is OpenAI's older contract: the model goes on with a prompt as it is, without ChatGLM2's round template.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, Tag

from ...types import Request
from . import strict_json
from .fields import WHOLE, AcceptOnly, CompletionCall, CompletionFields, ModelName, StrictModel, Text, string_or_array
from .validation import fault, validate

DEFAULT_MAX_TOKENS = 16  # OpenAI's
MAX_LOGPROBS = 5
_IDS = 10_000  # ids written at a time: a million take 0.1 s, in which no other thread would run


def _one_prompt(value: Any) -> Any:
    if isinstance(value, list) and not (len(value) == 1 and isinstance(value[0], str)):
        raise fault("unsupported_value", "must be one string; send a request for each prompt, and no token ids")
    return value


# A string, or an array with one: clients that send batches do so.
TextPrompt = Annotated[
    Annotated[Text, Tag("string")] | Annotated[list[Text], Field(min_length=1, max_length=1), Tag("array")],
    string_or_array("must be a string"),
    BeforeValidator(_one_prompt),
]


class CompletionRequest(CompletionFields):
    """A text to go on with."""

    prompt: TextPrompt
    logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS), WHOLE] | None = None
    # Known and not supported: only the values that ask for nothing pass.
    best_of: Annotated[Any, AcceptOnly(1, 1.0)] = None
    echo: Annotated[Any, AcceptOnly(False)] = None
    suffix: Annotated[Any, AcceptOnly("")] = None


class TokenizeRequest(StrictModel):
    """A text whose token ids are wanted."""

    text: Text
    model: ModelName | None = None


@dataclass(frozen=True)
class TokenizeCall:
    """A checked request for the ids of a text."""

    text: str
    model: str | None  # as the client named it


def parse_completion(body: Any) -> CompletionCall:
    """Check a completion's body; the first fault found is raised as RequestError."""
    asked = validate(CompletionRequest, body)
    request = Request(
        messages=(),
        prompt=asked.prompt if isinstance(asked.prompt, str) else asked.prompt[0],
        sampling=asked.sampling(logprobs=asked.logprobs is not None, top_logprobs=asked.logprobs or 0),
        max_tokens=DEFAULT_MAX_TOKENS if asked.max_tokens is None else asked.max_tokens,
        stop=asked.stops,
        n=asked.n or 1,
    )
    return asked.call(request)


def parse_tokenize(body: Any) -> TokenizeCall:
    """Check the body of POST /v1/tokenize; the first fault found is raised as RequestError."""
    asked = validate(TokenizeRequest, body)
    return TokenizeCall(asked.text, asked.model)


def tokenized_json(ids: Sequence[int]) -> str:
    """The body of the response to POST /v1/tokenize."""
    parts = (strict_json.dumps(ids[n : n + _IDS])[1:-1] for n in range(0, len(ids), _IDS))
    return f'{{"ids":[{",".join(parts)}]}}'
