"""Types of single fields, and the fields that both kinds of completions have. All are strict pydantic types.

A field takes the JSON type it names and no other: no text for a number, no 1 for true. 5.0 is an integer, as in JSON
Schema. null in an optional field means that it is absent. `openapi.py` makes JSON Schema of these types.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    Tag,
    model_validator,
)
from pydantic_core import CoreSchema, core_schema
from typing_extensions import Self

from ...types import CallFormat, JsonFormat, Request, SamplingParams
from .validation import NO_NUL, fault, show

MAX_STOPS = 4
MAX_STOP_LENGTH = 256  # characters
MAX_ANSWERS = 8  # to one request
MAX_BIASES = 1024
MAX_FIELDS = 100  # of one object; no model has as many

DEFAULT_TEMPERATURE = 1.0  # OpenAI's; the model's own is in SamplingParams


class StrictModel(BaseModel):
    """Base of all requests: strict types, no unknown fields."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _limit_fields(cls, value: Any) -> Any:
        """pydantic makes an error of every unknown field: 0.7 s for 200,000 of them. Refuse those objects before."""
        if isinstance(value, dict) and len(value) > MAX_FIELDS:
            known = {field.alias or name for name, field in cls.model_fields.items()}
            unknown = next(name for name in value if name not in known)
            raise fault("unknown_parameter", "this server knows no such field", field=unknown[:64])
        return value


class AcceptOnly:
    """Annotation of a field that is known and not supported: it takes null, and the values that ask for nothing."""

    def __init__(self, *accepted: Any) -> None:
        self._accepted = accepted

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(self._check)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"enum": [*self._accepted, None]}

    def _check(self, value: Any) -> None:
        # the type as well: in Python, 0 equals False
        if value is not None and not any(type(value) is type(one) and value == one for one in self._accepted):
            other = f" other than {' or '.join(map(json.dumps, self._accepted))}" if self._accepted else ""
            raise fault("unsupported_parameter", f"is not supported by this server{other}")


def string_or_array(message: str) -> Discriminator:
    """Chooses between a union's members tagged "string" and "array"; `message` is for what is neither."""

    def tag(value: Any) -> str | None:
        return "array" if isinstance(value, list) else "string" if isinstance(value, str) else None

    return Discriminator(tag, custom_error_type="invalid_type", custom_error_message=message)


def names_of(most: int, accepts: Callable[[str], bool], rule: str) -> BeforeValidator:
    """Checks how many names an object has and what they are like, before pydantic makes an error of every one."""

    def check(value: Any) -> Any:
        if isinstance(value, dict):
            if len(value) > most:
                raise fault("invalid_value", f"has {len(value)} entries; at most {most} are allowed")
            if bad := [name for name in value if not accepts(name)]:
                raise fault("invalid_value", f"must have names of {rule}, not {show(bad[0])}")
        return value

    return BeforeValidator(check)


def _whole_number(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


WHOLE = BeforeValidator(_whole_number)

Text = Annotated[str, Field(pattern=NO_NUL)]  # native code takes U+0000 for the end of a text
ShortText = Annotated[str, Field(pattern=NO_NUL, max_length=64)]
ModelName = Annotated[str, Field(pattern=NO_NUL, max_length=256)]
TokenCount = Annotated[int, Field(ge=1), WHOLE]
Temperature = Annotated[float, Field(ge=0, le=2)]
Probability = Annotated[float, Field(ge=0, le=1)]
Penalty = Annotated[float, Field(ge=-2, le=2)]
_StopText = Annotated[str, Field(pattern=NO_NUL, min_length=1, max_length=MAX_STOP_LENGTH)]
Stop = Annotated[
    Annotated[_StopText, Tag("string")]
    | Annotated[list[_StopText], Field(max_length=MAX_STOPS, fail_fast=True), Tag("array")],
    string_or_array("must be a string or an array of strings"),
]
_TOKEN_ID = "(0|[1-9][0-9]{0,8})"  # one spelling for each, so that "5" and "05" cannot both be there
LogitBias = Annotated[
    dict[str, Annotated[float, Field(ge=-100, le=100)]],
    Field(json_schema_extra={"maxProperties": MAX_BIASES, "propertyNames": {"pattern": f"^{_TOKEN_ID}$"}}),
    names_of(
        MAX_BIASES, lambda name: bool(re.fullmatch(_TOKEN_ID, name)), "1 to 9 digits, token ids, without leading zeros"
    ),
]


class StreamOptions(StrictModel):
    """What a stream has besides the answer."""

    include_usage: bool | None = None
    include_obfuscation: Annotated[Any, AcceptOnly(False)] = None


def needs(field: str, nothing: list[Any], other: str) -> dict[str, Any]:
    """As JSON Schema: values of `field` other than `nothing` need `other` to be true."""
    return {
        "anyOf": [
            {"properties": {field: {"enum": nothing}}},
            {"properties": {other: {"const": True}}, "required": [other]},
        ]
    }


STREAM_RULE = needs("stream_options", [None], "stream")


@dataclass(frozen=True)
class CompletionCall:
    """A checked request for a completion, of a conversation or of a text."""

    request: Request
    model: str | None  # as the client named it
    stream: bool = False
    include_usage: bool = False  # one more event with the counts at the end of a stream

    @property
    def tools(self) -> tuple[str, ...]:
        """Names of the tools that the answer may call."""
        format = self.request.sampling.response_format
        return tuple(tool.name for tool in format.tools) if isinstance(format, CallFormat) else ()

    @property
    def must_call(self) -> bool:
        """Whether the answer must be a call."""
        format = self.request.sampling.response_format
        return isinstance(format, CallFormat) and format.required


class CompletionFields(StrictModel):
    """The fields that chat completions and completions share."""

    model_config = ConfigDict(json_schema_extra={"allOf": [STREAM_RULE]})

    model: ModelName | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: TokenCount | None = None
    temperature: Temperature | None = None
    top_p: Probability | None = None
    top_k: Annotated[int, Field(ge=0, le=2**31 - 1), WHOLE] | None = None
    min_p: Probability | None = None
    seed: Annotated[int, Field(ge=-(2**63), le=2**63 - 1), WHOLE] | None = None
    stop: Stop | None = None
    n: Annotated[int, Field(ge=1, le=MAX_ANSWERS), WHOLE] | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    repetition_penalty: Annotated[float, Field(ge=0.1, le=10)] | None = None
    logit_bias: LogitBias | None = None
    user: Text | None = None

    @model_validator(mode="after")
    def _check_stream_options(self) -> Self:
        if self.stream_options is not None and not self.stream:
            raise fault("invalid_value", "is only allowed with stream: true", field="stream_options")
        return self

    @property
    def stops(self) -> tuple[str, ...]:
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    def sampling(
        self, *, logprobs: bool, top_logprobs: int, response_format: JsonFormat | CallFormat | None = None
    ) -> SamplingParams:
        """How the next token is drawn; what the client left open is the model's own."""
        names = ("top_p", "seed", "top_k", "min_p", "presence_penalty", "frequency_penalty", "repetition_penalty")
        given = {name: value for name in names if (value := getattr(self, name)) is not None}
        return SamplingParams(
            temperature=DEFAULT_TEMPERATURE if self.temperature is None else self.temperature,
            logit_bias={int(token): bias for token, bias in (self.logit_bias or {}).items()},
            response_format=response_format,
            logprobs=logprobs,
            top_logprobs=top_logprobs,
            **given,
        )

    def call(self, request: Request) -> CompletionCall:
        """`request` and how its client wants to be answered."""
        usage = self.stream_options is not None and bool(self.stream_options.include_usage)
        return CompletionCall(request, self.model, bool(self.stream), usage)
