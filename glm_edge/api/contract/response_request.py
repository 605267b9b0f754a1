"""Requests for POST /v1/responses: JSON to a CompletionCall. Pure.

OpenAI's newer contract, without what it stores: nothing outlives an answer here, so a conversation is sent whole.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Discriminator, Field, Tag, model_validator
from typing_extensions import Self

from ...tool_calls import call_text, result_text
from ...types import CallFormat, JsonFormat, Message, Request, Role, SamplingParams
from .chat import Metadata
from .fields import (
    DEFAULT_TEMPERATURE,
    WHOLE,
    AcceptOnly,
    CompletionCall,
    ModelName,
    Probability,
    ShortText,
    StrictModel,
    Temperature,
    Text,
    TokenCount,
    string_or_array,
)
from .response_objects import ResponseSettings
from .tools import MAX_TOOLS, WRONG_CHOICE, ChoiceWord, Function, FunctionType, ToolName, call_format, choice_tag
from .validation import fault, show, validate

_ROLES: dict[str, Role] = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}


def _known_part(value: Any) -> Any:
    if isinstance(value, str) and value not in ("input_text", "output_text"):
        raise fault("unsupported_value", f"the model reads text only, not {show(value)}")
    return value


class InputPart(StrictModel):
    """A part of an item's content: text that goes in, or that came out before."""

    type: Annotated[Literal["input_text", "output_text"], BeforeValidator(_known_part)]
    text: Text
    annotations: Annotated[Any, AcceptOnly([])] = None
    logprobs: Annotated[Any, AcceptOnly([])] = None


Parts = Annotated[
    Annotated[Text, Tag("string")] | Annotated[list[InputPart], Field(min_length=1, fail_fast=True), Tag("array")],
    string_or_array("must be a string or an array of text parts"),
]


def _joined(content: str | list[InputPart]) -> str:
    return content if isinstance(content, str) else "\n".join(part.text for part in content)


def _known_item(value: Any) -> Any:
    if isinstance(value, str) and value != "message":
        known = "'message', 'function_call' or 'function_call_output'"
        raise fault("invalid_value", f"must be {known}, not {show(value)}")
    return value


class InputMessage(StrictModel):
    """A message of a conversation; developer means system."""

    type: Annotated[Literal["message"], BeforeValidator(_known_item)] | None = None
    role: Literal["system", "developer", "user", "assistant"]
    content: Parts
    id: Text | None = None
    status: ShortText | None = None
    phase: ShortText | None = None


class InputCall(StrictModel):
    """A call that the model asked for before."""

    type: Literal["function_call"]
    call_id: Text
    name: ToolName
    arguments: Text
    id: Text | None = None
    status: ShortText | None = None


class InputResult(StrictModel):
    """What a call gave."""

    type: Literal["function_call_output"]
    call_id: Text
    output: Parts
    id: Text | None = None
    status: ShortText | None = None


def _item_tag(value: Any) -> str | None:
    if not isinstance(value, dict):
        return None
    return {"function_call": "<call>", "function_call_output": "<result>"}.get(str(value.get("type")), "<message>")


Item = Annotated[
    Annotated[InputMessage, Tag("<message>")]
    | Annotated[InputCall, Tag("<call>")]
    | Annotated[InputResult, Tag("<result>")],
    Discriminator(_item_tag, custom_error_type="invalid_type", custom_error_message="must be an object"),
]


class TextFormat(StrictModel):
    """What the answer has to be: text, a JSON object, or what a JSON Schema says."""

    model_config = ConfigDict(
        json_schema_extra={
            "anyOf": [
                {"properties": {"type": {"enum": ["text", "json_object"]}, "schema": {"type": "null"}}},
                {"properties": {"type": {"const": "json_schema"}}, "required": ["schema"]},
            ]
        }
    )

    type: Literal["text", "json_object", "json_schema"]
    name: Annotated[str, Field(pattern="^[a-zA-Z0-9_-]{1,64}$")] | None = None
    description: Text | None = None
    json_schema: dict[str, Any] | None = Field(None, alias="schema")
    strict: bool | None = None

    @model_validator(mode="after")
    def _check_schema(self) -> Self:
        if (self.type == "json_schema") != (self.json_schema is not None):
            raise fault("invalid_value", "is for the type json_schema, and required there", field="schema")
        return self


class TextSettings(StrictModel):
    """How the answer is written."""

    format: TextFormat | None = None
    verbosity: Annotated[Any, AcceptOnly("medium")] = None


class _TypedTool(StrictModel):
    """What a tool is, which is checked before its other fields."""

    type: FunctionType


class ResponseFunction(Function, _TypedTool):
    """A tool of a response: a function, without a level between."""


class NamedFunction(StrictModel):
    """The one function that must be called."""

    type: FunctionType
    name: ToolName


class ResponseStreamOptions(StrictModel):
    """What a stream has besides the answer: nothing here."""

    include_obfuscation: Annotated[Any, AcceptOnly(False)] = None


class ResponseRequest(StrictModel):
    """A text or a conversation. Its last item is the user's, or a function's output."""

    input: Annotated[
        Annotated[Text, Tag("string")] | Annotated[list[Item], Field(min_length=1, fail_fast=True), Tag("array")],
        string_or_array("must be a string or an array of items"),
    ]
    model: ModelName | None = None
    instructions: Text | None = None
    stream: bool | None = None
    stream_options: ResponseStreamOptions | None = None
    max_output_tokens: TokenCount | None = None
    temperature: Temperature | None = None
    top_p: Probability | None = None
    text: TextSettings | None = None
    tools: Annotated[list[ResponseFunction], Field(max_length=MAX_TOOLS, fail_fast=True)] | None = None
    tool_choice: (
        Annotated[
            ChoiceWord | Annotated[NamedFunction, Tag("<object>")],
            Discriminator(choice_tag, custom_error_type="invalid_type", custom_error_message=WRONG_CHOICE),
        ]
        | None
    ) = None
    parallel_tool_calls: bool | None = None  # an answer has one call at most, in any case
    # Checked and without effect.
    user: Text | None = None
    safety_identifier: Text | None = None
    metadata: Metadata | None = None
    service_tier: ShortText | None = None
    prompt_cache_key: Text | None = None
    prompt_cache_retention: ShortText | None = None
    # Known and not supported: only the values that ask for nothing pass.
    store: Annotated[Any, AcceptOnly(False)] = None
    previous_response_id: Annotated[Any, AcceptOnly()] = None
    conversation: Annotated[Any, AcceptOnly()] = None
    background: Annotated[Any, AcceptOnly(False)] = None
    include: Annotated[Any, AcceptOnly([])] = None
    reasoning: Annotated[Any, AcceptOnly({})] = None
    prompt: Annotated[Any, AcceptOnly()] = None
    truncation: Annotated[Any, AcceptOnly("disabled")] = None
    top_logprobs: Annotated[int, Field(ge=0, le=0), WHOLE] | None = None
    max_tool_calls: Annotated[Any, AcceptOnly()] = None

    @model_validator(mode="after")
    def _check_rules(self) -> Self:
        if not isinstance(self.input, str):
            last = self.input[-1]
            if not isinstance(last, InputResult) and not (isinstance(last, InputMessage) and last.role == "user"):
                problem = "the last item must be the user's, or a function's output"
                raise fault("invalid_value", problem, field=f"input[{len(self.input) - 1}]")
        calls, _ = self.calls()
        if calls is not None and not calls.required and self.json_format is not None:
            problem = "cannot be beside tools that may be called; send tool_choice none, required or a name"
            raise fault("invalid_value", problem, field="text.format")
        return self

    @property
    def json_format(self) -> JsonFormat | None:
        wanted = None if self.text is None else self.text.format
        if wanted is None or wanted.type == "text":
            return None
        return JsonFormat(None if wanted.json_schema is None else json.dumps(wanted.json_schema, ensure_ascii=False))

    def calls(self) -> tuple[CallFormat | None, tuple[Message, ...]]:
        """What the answer may be where there are tools, and the message that describes them."""
        functions = [(tool, f"tools[{n}].parameters") for n, tool in enumerate(self.tools or ())]
        if isinstance(self.tool_choice, NamedFunction):
            return call_format(functions, None, self.tool_choice.name)
        return call_format(functions, self.tool_choice, None)


def parse_response(body: Any, *, trim: bool = False) -> tuple[CompletionCall, ResponseSettings]:
    """Check a body; the first fault found is raised as RequestError. The settings go back with the answer.

    Args:
        trim: whether old rounds are left out of a conversation that does not fit.
    """
    asked = validate(ResponseRequest, body)
    calls, described = asked.calls()
    items = [InputMessage(role="user", content=asked.input)] if isinstance(asked.input, str) else asked.input
    instructions = () if asked.instructions is None else (Message("system", asked.instructions),)
    top_p = SamplingParams.top_p if asked.top_p is None else asked.top_p
    temperature = DEFAULT_TEMPERATURE if asked.temperature is None else asked.temperature
    format = asked.json_format if calls is None else calls
    sampling = SamplingParams(temperature, top_p, response_format=format)
    messages = (*instructions, *described, *_messages(items))
    request = Request(messages, sampling, asked.max_output_tokens, trim=trim, param="input")
    return CompletionCall(request, asked.model, bool(asked.stream)), _settings(asked, sampling)


def _messages(items: Sequence[InputMessage | InputCall | InputResult]) -> Iterator[Message]:
    names: dict[str, str] = {}  # of the functions, by the ids of their calls
    for item in items:
        if isinstance(item, InputCall):
            names[item.call_id] = item.name
            yield Message("assistant", call_text(item.name, item.arguments))
        elif isinstance(item, InputResult):
            yield Message("user", result_text(names.get(item.call_id), _joined(item.output)))
        else:
            yield Message(_ROLES[item.role], _joined(item.content))


def _settings(asked: ResponseRequest, sampling: SamplingParams) -> ResponseSettings:
    wanted = None if asked.text is None else asked.text.format
    choice = asked.tool_choice or "auto"
    return {
        "instructions": asked.instructions,
        "max_output_tokens": asked.max_output_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "text": {"format": {"type": "text"} if wanted is None else wanted.model_dump(by_alias=True, exclude_none=True)},
        "tool_choice": choice if isinstance(choice, str) else choice.model_dump(),
        "tools": [
            {**tool.model_dump(), "strict": True if tool.strict is None else tool.strict} for tool in asked.tools or ()
        ],
        "parallel_tool_calls": asked.parallel_tool_calls is not False,
        "metadata": asked.metadata or {},
        "user": asked.user,
    }
