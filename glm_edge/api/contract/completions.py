"""Requests for text without a conversation: POST /v1/completions and POST /v1/tokenize. Pure.

The first is OpenAI's older contract: the model goes on with each prompt as it is, without ChatGLM2's round template.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import ConfigDict, Discriminator, Field, Tag, model_validator
from typing_extensions import Self

from ...types import Request
from . import strict_json
from .fields import STREAM_RULE, WHOLE, AcceptOnly, CompletionCall, CompletionFields, ModelName, StrictModel, Text
from .validation import fault, validate

DEFAULT_MAX_TOKENS = 16  # OpenAI's
MAX_LOGPROBS = 5
MAX_PROMPTS = 32  # of one request
MAX_IDS = 131_072  # of one prompt; the context is the limit in any case
_IDS = 10_000  # ids written at a time: a million take 0.1 s, in which no other thread would run


def _kind(value: Any) -> str | None:
    """Which member of the union below a prompt is, by its first entry."""
    if not isinstance(value, list):
        return "text" if isinstance(value, str) else None
    first = value[0] if value else ""
    kinds = {str: "texts", int: "ids", float: "ids", list: "lists of ids"}
    return kinds.get(type(first), "texts")


_TokenId = Annotated[int, Field(ge=0, le=2**31 - 1), WHOLE]
_TokenIds = Annotated[list[_TokenId], Field(min_length=1, max_length=MAX_IDS, fail_fast=True)]
Prompts = Annotated[
    Annotated[Text, Tag("text")]
    | Annotated[list[Text], Field(min_length=1, max_length=MAX_PROMPTS, fail_fast=True), Tag("texts")]
    | Annotated[_TokenIds, Tag("ids")]
    | Annotated[list[_TokenIds], Field(min_length=1, max_length=MAX_PROMPTS, fail_fast=True), Tag("lists of ids")],
    Discriminator(
        _kind,
        custom_error_type="invalid_type",
        custom_error_message="must be a string, an array of strings, of token ids, or of arrays of token ids",
    ),
]


class CompletionRequest(CompletionFields):
    """Texts to go on with, or token ids. max_tokens is 0 where only the prompt's own log probabilities are wanted."""

    model_config = ConfigDict(
        json_schema_extra={
            "allOf": [
                STREAM_RULE,
                {
                    "anyOf": [
                        {"properties": {"max_tokens": {"anyOf": [{"minimum": 1}, {"type": "null"}]}}},
                        {"properties": {"echo": {"const": True}}, "required": ["echo"]},
                    ]
                },
            ]
        }
    )

    prompt: Prompts
    max_tokens: Annotated[int, Field(ge=0), WHOLE] | None = None
    echo: bool | None = None
    logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS), WHOLE] | None = None
    # Known and not supported: only the values that ask for nothing pass.
    best_of: Annotated[Any, AcceptOnly(1, 1.0)] = None
    suffix: Annotated[Any, AcceptOnly("")] = None

    @model_validator(mode="after")
    def _check_limit(self) -> Self:
        if self.max_tokens == 0 and not self.echo:
            raise fault("invalid_value", "must be at least 1, or 0 with echo: true", field="max_tokens")
        return self

    @property
    def prompts(self) -> tuple[str | tuple[int, ...], ...]:
        """As the engine takes them."""
        if isinstance(self.prompt, str):
            return (self.prompt,)
        prompts: list[Any] = [self.prompt] if isinstance(self.prompt[0], int) else list(self.prompt)
        return tuple(one if isinstance(one, str) else tuple(one) for one in prompts)


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
        prompts=asked.prompts,
        echo=bool(asked.echo),
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
