"""What the server answers with, as typed dictionaries: what the serializers return and what GET /openapi.json says.

mypy holds the serializers against them, pydantic makes JSON Schema of them, and nothing is checked while serving.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field, WithJsonSchema, with_config
from typing_extensions import NotRequired, TypedDict

from ...types import FinishReason

Count = Annotated[int, Field(ge=0)]
Milliseconds = Annotated[float, Field(ge=0)]
EndReason = Annotated[FinishReason, WithJsonSchema({"enum": ["stop", "length"]})]  # a cancelled answer is an error
ChatEndReason = Annotated[
    FinishReason | Literal["tool_calls"], WithJsonSchema({"enum": ["stop", "length", "tool_calls"]})
]
Logprob = Annotated[float, Field(le=0)]  # natural logarithm of a probability


@with_config(ConfigDict(extra="forbid"))
class ResponseObject(TypedDict):
    """Base of all: an object with the fields named and no others."""


class ErrorDetail(ResponseObject):
    """What went wrong: in words, for programs (`code`), and in which field (`param`)."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(ResponseObject):
    """The body of every error."""

    error: ErrorDetail


class PromptTokensDetails(ResponseObject):
    """Where the prompt's tokens came from."""

    cached_tokens: Count


class Usage(ResponseObject):
    """Tokens of the prompt, counted once, and of all answers."""

    prompt_tokens: Count
    completion_tokens: Count
    total_tokens: Count
    prompt_tokens_details: PromptTokensDetails


class Figures(ResponseObject):
    """What OpenAI's contract has no field for: times, and with --trim-history the rounds left out of the prompt."""

    queue_ms: Milliseconds
    prefill_ms: Milliseconds
    decode_ms: Milliseconds
    trimmed_rounds: NotRequired[Count]


class ChatTopLogprob(ResponseObject):
    """A token that could have been chosen."""

    token: str
    logprob: Logprob
    bytes: list[Count]


class ChatTokenLogprob(ChatTopLogprob):
    """A token of the answer, and the likeliest at its place."""

    top_logprobs: list[ChatTopLogprob]


class ChatLogprobs(ResponseObject):
    """Log probabilities of a chat completion's tokens."""

    content: list[ChatTokenLogprob]
    refusal: None


class TextLogprobs(ResponseObject):
    """Log probabilities of a completion's tokens, an array for each property."""

    tokens: list[str]
    token_logprobs: list[Logprob]
    top_logprobs: list[dict[str, Logprob]]
    text_offset: list[Count]


class FunctionCall(ResponseObject):
    """A function to call, and its arguments: JSON as text."""

    name: str
    arguments: str


class ToolCallObject(ResponseObject):
    """A call that the model asks for."""

    id: str
    type: Literal["function"]
    function: FunctionCall


class FunctionDelta(ResponseObject):
    """What an event adds to a call: its name at first, then parts of the arguments."""

    name: NotRequired[str]
    arguments: str


class ToolCallDelta(ResponseObject):
    """What an event adds to a call. The first event has the id and the type."""

    index: Count
    id: NotRequired[str]
    type: NotRequired[Literal["function"]]
    function: FunctionDelta


class AssistantMessage(ResponseObject):
    """The message that a chat completion answers with: text, or a call of a tool."""

    role: Literal["assistant"]
    content: str | None
    refusal: None
    tool_calls: NotRequired[list[ToolCallObject]]


class AssistantDelta(ResponseObject, total=False):
    """What an event adds to the message."""

    role: Literal["assistant"]
    content: str | None
    refusal: None
    tool_calls: list[ToolCallDelta]


class ChatChoice(ResponseObject):
    """One whole answer in a conversation."""

    index: Count
    message: AssistantMessage
    logprobs: ChatLogprobs | None
    finish_reason: ChatEndReason


class ChatChunkChoice(ResponseObject):
    """A part of one answer in a conversation."""

    index: Count
    delta: AssistantDelta
    logprobs: ChatLogprobs | None
    finish_reason: ChatEndReason | None


class TextChoice(ResponseObject):
    """One whole continuation of a text."""

    index: Count
    text: str
    logprobs: TextLogprobs | None
    finish_reason: EndReason


class TextChunkChoice(ResponseObject):
    """A part of one continuation of a text."""

    index: Count
    text: str
    logprobs: TextLogprobs | None
    finish_reason: EndReason | None


class ResponseInfo(ResponseObject):
    """What all responses to completions begin with."""

    id: str
    created: int  # seconds since 1970
    model: str
    system_fingerprint: str  # changes with the model, its context and the server's version


class ChatCompletion(ResponseInfo):
    """The answers to a conversation."""

    object: Literal["chat.completion"]
    choices: list[ChatChoice]
    usage: Usage
    glm_edge: Figures


class ChatCompletionChunk(ResponseInfo):
    """An event of a stream of answers to a conversation."""

    object: Literal["chat.completion.chunk"]
    choices: list[ChatChunkChoice]
    usage: NotRequired[Usage | None]
    glm_edge: NotRequired[Figures]


class Completion(ResponseInfo):
    """The continuations of a text."""

    object: Literal["text_completion"]
    choices: list[TextChoice]
    usage: Usage
    glm_edge: Figures


class CompletionChunk(ResponseInfo):
    """An event of a stream of continuations of a text."""

    object: Literal["text_completion"]
    choices: list[TextChunkChoice]
    usage: NotRequired[Usage | None]
    glm_edge: NotRequired[Figures]


class TokenIds(ResponseObject):
    """The token ids of a text."""

    ids: list[Count]


class ChatGLMResponse(ResponseObject):
    """An answer as ChatGLM2's own demo server gives it; `history` ends with the new round."""

    response: str
    history: list[Annotated[list[str], Field(min_length=2, max_length=2)]]
    status: Literal[200]
    time: Annotated[str, Field(pattern=r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d$")]
    trimmed_rounds: NotRequired[Annotated[int, Field(ge=1)]]


class ModelObject(ResponseObject):
    """The served model, or an adapter of it."""

    id: str
    object: Literal["model"]
    created: int  # seconds since 1970
    owned_by: str
    digest: str  # of the model's file: the same on every server with the same file, on no other
    parent: NotRequired[str]  # of an adapter: the model that it belongs to


class ModelList(ResponseObject):
    """All models of the server: one, and its adapters."""

    object: Literal["list"]
    data: list[ModelObject]


class HealthStatus(ResponseObject):
    """Whether the server takes requests."""

    status: Literal["ok", "loading", "failed", "shutting_down"]
