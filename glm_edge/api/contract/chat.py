"""Requests for chat completions: JSON to a CompletionCall. Pure.

The contract is OpenAI's POST /v1/chat/completions. `history` (messages that go before `messages`) and
`trim_history` are ours. top_k, min_p and repetition_penalty are named as other servers of open models name them. To
support a field, give it a type here and use it in `parse_chat`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field, Tag, model_validator
from typing_extensions import Self

from ...tool_calls import call_text, result_text
from ...types import CallFormat, JsonFormat, Message, Request, Role
from .fields import (
    STREAM_RULE,
    WHOLE,
    AcceptOnly,
    CompletionCall,
    CompletionFields,
    ShortText,
    StrictModel,
    Text,
    TokenCount,
    names_of,
    needs,
    string_or_array,
)
from .tools import MAX_TOOLS, FunctionTool, NamedTool, ToolCall, ToolChoice, call_format
from .validation import fault, show, validate

_ROLES: dict[str, Role] = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}


def _text_only(value: Any) -> Any:
    if isinstance(value, str) and value != "text":
        raise fault("unsupported_value", f"the model reads text only, not {show(value)}")
    return value


def _no_functions(value: Any) -> Any:
    if value == "function":
        raise fault("unsupported_value", "function messages are not supported; send tools and tool messages")
    return value


class TextPart(StrictModel):
    """A part of a message's content. Other types ask for more than a text model has."""

    type: Annotated[Literal["text"], BeforeValidator(_text_only)]
    text: Text


Content = Annotated[
    Annotated[Text, Tag("string")] | Annotated[list[TextPart], Field(min_length=1, fail_fast=True), Tag("array")],
    string_or_array("must be a string or an array of text parts"),
]


class ChatMessage(StrictModel):
    """A message of a conversation. Only an assistant's may have no content; developer means system. A tool's has the
    result of a call."""

    model_config = ConfigDict(
        json_schema_extra={
            "anyOf": [
                {"properties": {"role": {"const": "assistant"}}},
                {"properties": {"content": {"type": ["string", "array"]}}, "required": ["content"]},
            ],
            "allOf": [
                {
                    "anyOf": [
                        {"properties": {"role": {"enum": ["system", "developer", "user", "assistant"]}}},
                        {"properties": {"tool_call_id": {"type": "string"}}, "required": ["tool_call_id"]},
                    ]
                },
                {
                    "anyOf": [
                        {"properties": {"tool_calls": {"anyOf": [{"type": "null"}, {"maxItems": 0}]}}},
                        {"properties": {"role": {"const": "assistant"}}},
                    ]
                },
            ],
        }
    )

    role: Annotated[Literal["system", "developer", "user", "assistant", "tool"], BeforeValidator(_no_functions)]
    content: Content | None = None
    name: Annotated[str, Field(pattern="^[a-zA-Z0-9_]{1,64}$")] | None = None
    # What clients send back of an answer: nothing in it that we would have sent.
    refusal: Annotated[Any, AcceptOnly()] = None
    annotations: Annotated[Any, AcceptOnly([])] = None
    audio: Annotated[Any, AcceptOnly()] = None
    function_call: Annotated[Any, AcceptOnly()] = None
    reasoning_content: Annotated[Any, AcceptOnly("")] = None
    parsed: Any = None  # added to the answer by OpenAI's client for Node, which sends it back
    tool_calls: Annotated[list[ToolCall], Field(max_length=MAX_TOOLS, fail_fast=True)] | None = None
    tool_call_id: Text | None = None

    @model_validator(mode="after")
    def _check_content(self) -> Self:
        if self.content is None and self.role != "assistant":
            raise fault("missing_required_parameter", "is required", field="content")
        if self.tool_call_id is None and self.role == "tool":
            raise fault("missing_required_parameter", "is required", field="tool_call_id")
        if self.tool_calls and self.role != "assistant":
            raise fault("invalid_value", "is for messages of the assistant's", field="tool_calls")
        return self

    @property
    def text(self) -> str:
        """The content; parts are joined by line breaks."""
        content = self.content or ""
        return content if isinstance(content, str) else "\n".join(part.text for part in content)


def conversation(messages: Sequence[ChatMessage]) -> Iterator[Message]:
    """Messages as the engine takes them: calls and their results as text."""
    names: dict[str | None, str] = {}  # of the functions, by the ids of their calls
    for message in messages:
        text = message.text
        for call in message.tool_calls or ():
            names[call.id] = call.function.name
            text += "\n" * bool(text) + call_text(call.function.name, call.function.arguments)
        if message.role == "tool":
            yield Message("user", result_text(names.get(message.tool_call_id), text))
        else:
            yield Message(_ROLES[message.role], text)


class JsonSchemaFormat(StrictModel):
    """The schema of an answer; its name is checked and not used."""

    name: Annotated[str, Field(pattern="^[a-zA-Z0-9_-]{1,64}$")] | None = None
    description: Text | None = None
    json_schema: dict[str, Any] | None = Field(None, alias="schema")  # what it means is the engine's to say
    strict: bool | None = None


class ResponseFormat(StrictModel):
    """What the answer has to be: text, a JSON object, also by a schema, or what a JSON Schema says."""

    model_config = ConfigDict(
        json_schema_extra={
            "anyOf": [
                {
                    "properties": {
                        "type": {"const": "text"},
                        "json_schema": {"type": "null"},
                        "schema": {"type": "null"},
                    }
                },
                {"properties": {"type": {"const": "json_object"}, "json_schema": {"type": "null"}}},
                {
                    "properties": {
                        "type": {"const": "json_schema"},
                        "json_schema": {"type": "object"},
                        "schema": {"type": "null"},
                    },
                    "required": ["json_schema"],
                },
            ]
        }
    )

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchemaFormat | None = None
    object_schema: dict[str, Any] | None = Field(None, alias="schema")  # as llama.cpp has it

    @model_validator(mode="after")
    def _check_schema(self) -> Self:
        if (self.type == "json_schema") != (self.json_schema is not None):
            raise fault("invalid_value", "is for the type json_schema, and required there", field="json_schema")
        if self.object_schema is not None and self.type != "json_object":
            raise fault("invalid_value", "is for the type json_object", field="schema")
        return self

    def json_format(self) -> JsonFormat | None:
        """As the engine takes it; None is text."""
        if self.type == "text":
            return None
        schema = self.object_schema if self.json_schema is None else self.json_schema.json_schema
        return JsonFormat(None if schema is None else json.dumps(schema, ensure_ascii=False))


Metadata = Annotated[
    dict[str, Annotated[Text, Field(max_length=512)]],
    Field(json_schema_extra={"maxProperties": 16, "propertyNames": {"maxLength": 64}}),
    names_of(16, lambda name: len(name) <= 64, "at most 64 characters"),
]


class ChatRequest(CompletionFields):
    """A conversation. The last message is the user's, or with continue_final_message the assistant's, which the answer
    goes on with; max_tokens and max_completion_tokens are one limit, send one."""

    model_config = ConfigDict(json_schema_extra={"allOf": [STREAM_RULE, needs("top_logprobs", [None, 0], "logprobs")]})

    messages: Annotated[list[ChatMessage], Field(min_length=1, fail_fast=True)]
    history: Annotated[list[ChatMessage], Field(fail_fast=True)] | None = None
    max_completion_tokens: TokenCount | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20), WHOLE] | None = None
    response_format: ResponseFormat | None = None
    tools: Annotated[list[FunctionTool], Field(max_length=MAX_TOOLS, fail_fast=True)] | None = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None  # an answer has one call at most, in any case
    continue_final_message: bool | None = None
    add_generation_prompt: bool | None = None
    trim_history: bool | None = None
    # Checked and without effect: they concern billing, storage and who asks.
    safety_identifier: Text | None = None
    metadata: Metadata | None = None
    service_tier: ShortText | None = None
    store: Annotated[Any, AcceptOnly(False)] = None
    prompt_cache_key: Text | None = None
    prompt_cache_retention: ShortText | None = None
    prompt_cache_options: Annotated[Any, AcceptOnly({})] = None
    # Known and not supported: only the values that ask for nothing pass.
    repeat_penalty: Annotated[Any, AcceptOnly(1, 1.0)] = None
    functions: Annotated[Any, AcceptOnly([])] = None
    function_call: Annotated[Any, AcceptOnly("none", "auto")] = None
    modalities: Annotated[Any, AcceptOnly(["text"])] = None
    audio: Annotated[Any, AcceptOnly()] = None
    prediction: Annotated[Any, AcceptOnly()] = None
    reasoning_effort: Annotated[Any, AcceptOnly("none")] = None
    verbosity: Annotated[Any, AcceptOnly("medium")] = None
    web_search_options: Annotated[Any, AcceptOnly()] = None
    moderation: Annotated[Any, AcceptOnly()] = None
    chat_template: Annotated[Any, AcceptOnly()] = None
    chat_template_kwargs: Annotated[Any, AcceptOnly({})] = None

    @model_validator(mode="after")
    def _check_rules(self) -> Self:
        last = len(self.messages) - 1
        role, wanted = self.messages[last].role, "assistant" if self.continue_final_message else "user"
        if role != wanted and (role, wanted) != ("tool", "user"):
            hint = " (continue_final_message: true goes on with it)" if role == "assistant" else ""
            problem = f"the last message must be the {wanted}'s, not {show(role)}{hint}"
            raise fault("invalid_value", problem, field=f"messages[{last}].role")
        if self.continue_final_message and self.messages[last].tool_calls:
            problem = "a call cannot be continued; send its result in a tool message, without continue_final_message"
            raise fault("invalid_value", problem, field=f"messages[{last}].tool_calls")
        if self.add_generation_prompt is not None and self.add_generation_prompt == bool(self.continue_final_message):
            problem = f"must be {json.dumps(not self.add_generation_prompt)} here: continue_final_message says the rest"
            raise fault("invalid_value", problem, field="add_generation_prompt")
        format, _ = self.calls()
        json_format = None if self.response_format is None else self.response_format.json_format()
        if format is not None and not format.required and json_format is not None:
            problem = "cannot be beside tools that may be called; send tool_choice none, required or a name"
            raise fault("invalid_value", problem, field="response_format")
        if format is not None and self.continue_final_message:
            problem = "cannot be beside tools; send tool_choice none"
            raise fault("invalid_value", problem, field="continue_final_message")
        if self.top_logprobs and not self.logprobs:
            raise fault("invalid_value", "is only allowed with logprobs: true", field="top_logprobs")
        old, new = self.max_tokens, self.max_completion_tokens
        if old is not None and new is not None and old != new:
            raise fault("invalid_value", f"is {old}, but max_completion_tokens is {new}; send one", field="max_tokens")
        return self

    def calls(self) -> tuple[CallFormat | None, tuple[Message, ...]]:
        """What the answer may be where there are tools, and the message that describes them."""
        choice = self.tool_choice
        functions = [(tool.function, f"tools[{n}].function.parameters") for n, tool in enumerate(self.tools or ())]
        if isinstance(choice, NamedTool):
            return call_format(functions, None, choice.function.name)
        return call_format(functions, choice, None)


def parse_chat(body: Any, *, trim: bool = False) -> CompletionCall:
    """Check a chat completion's body; the first fault found is raised as RequestError.

    Args:
        trim: whether the oldest rounds are left out of what does not fit, unless `trim_history` says.
    """
    chat = validate(ChatRequest, body)
    calls, described = chat.calls()
    format = None if chat.response_format is None else chat.response_format.json_format()
    request = Request(
        messages=(*described, *conversation([*(chat.history or []), *chat.messages])),
        sampling=chat.sampling(
            logprobs=bool(chat.logprobs),
            top_logprobs=chat.top_logprobs or 0,
            response_format=format if calls is None else calls,
        ),
        # may exceed the context, whose end is the limit in any case
        max_tokens=chat.max_completion_tokens if chat.max_tokens is None else chat.max_tokens,
        stop=() if calls is not None and calls.required else chat.stops,  # they end text, not a call
        n=chat.n or 1,
        trim=trim if chat.trim_history is None else chat.trim_history,
    )
    return chat.call(request)
