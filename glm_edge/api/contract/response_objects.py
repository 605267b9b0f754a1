"""What POST /v1/responses answers with, as typed dictionaries; see `responses.py` for what they are for."""

from __future__ import annotations

from typing import Any, Literal

from typing_extensions import NotRequired

from .responses import Count, ResponseObject


class OutputText(ResponseObject):
    """The text of a message."""

    type: Literal["output_text"]
    text: str
    annotations: list[Any]
    logprobs: list[Any]


class OutputMessage(ResponseObject):
    """An answer that is text."""

    type: Literal["message"]
    id: str
    status: Literal["in_progress", "completed", "incomplete"]
    role: Literal["assistant"]
    content: list[OutputText]


class OutputCall(ResponseObject):
    """An answer that calls a function."""

    type: Literal["function_call"]
    id: str
    status: Literal["in_progress", "completed", "incomplete"]
    call_id: str
    name: str
    arguments: str


class InputTokensDetails(ResponseObject):
    """Where the prompt's tokens came from."""

    cached_tokens: Count
    cache_write_tokens: Literal[0]  # OpenAI bills them; every prompt is cached here


class OutputTokensDetails(ResponseObject):
    """What the answer's tokens were for."""

    reasoning_tokens: Literal[0]


class ResponseUsage(ResponseObject):
    """Tokens of prompt and answer."""

    input_tokens: Count
    input_tokens_details: InputTokensDetails
    output_tokens: Count
    output_tokens_details: OutputTokensDetails
    total_tokens: Count


class IncompleteDetails(ResponseObject):
    """Why an answer was cut."""

    reason: Literal["max_output_tokens"]


class ResponseSettings(ResponseObject):
    """What was asked for, as answers repeat it."""

    instructions: str | None
    max_output_tokens: int | None
    temperature: float
    top_p: float
    text: dict[str, Any]
    tool_choice: str | dict[str, Any]
    tools: list[dict[str, Any]]
    parallel_tool_calls: bool
    metadata: dict[str, str]
    user: str | None


class ModelResponse(ResponseSettings):
    """An answer. Nothing of it is stored."""

    id: str
    object: Literal["response"]
    created_at: int  # seconds since 1970
    status: Literal["in_progress", "completed", "incomplete"]
    error: None
    incomplete_details: IncompleteDetails | None
    model: str
    output: list[OutputMessage | OutputCall]
    previous_response_id: None
    store: Literal[False]
    truncation: Literal["disabled"]
    usage: ResponseUsage | None


class ResponseEvent(ResponseObject):
    """An event of a stream: which fields it has depends on its type, as in OpenAI's reference."""

    type: str
    sequence_number: Count
    response: NotRequired[ModelResponse]
    output_index: NotRequired[Count]
    content_index: NotRequired[Count]
    item_id: NotRequired[str]
    item: NotRequired[OutputMessage | OutputCall]
    part: NotRequired[OutputText]
    delta: NotRequired[str]
    text: NotRequired[str]
    name: NotRequired[str]
    arguments: NotRequired[str]
    logprobs: NotRequired[list[Any]]
