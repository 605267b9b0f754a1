"""How an answer is drawn, as clients ask for it: each field arrives, bad values are named, log probabilities go out."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from glm_edge.api.contract.answers.chat import ChatSerializer
from glm_edge.api.contract.answers.serializer import FinishedAnswer, ResponseHead
from glm_edge.api.contract.chat import parse_chat
from glm_edge.api.contract.fields import CompletionCall
from glm_edge.errors import RequestError
from glm_edge.types import JsonFormat, SamplingParams, Stats, TokenLogprob
from support.server.bad_bodies import BAD

USER = {"role": "user", "content": "你好"}
SCHEMA = {"type": "object", "properties": {"城市": {"type": "string"}}}


def parse(**fields: Any) -> CompletionCall:
    return parse_chat({"messages": [USER], **fields})


def test_every_field_arrives() -> None:
    call = parse(
        n=3,
        top_k=40,
        min_p=0.05,
        presence_penalty=-2,
        frequency_penalty=0.5,
        repetition_penalty=1.1,
        logit_bias={"5": 100, "64999": -1.5},
        logprobs=True,
        top_logprobs=20,
        response_format={"type": "json_object"},
    )
    assert call.request.n == 3
    assert call.request.sampling == SamplingParams(
        1.0, 0.8, None, 40, 0.05, -2.0, 0.5, 1.1, {5: 100.0, 64999: -1.5}, JsonFormat(), True, 20
    )


@pytest.mark.case("N8")
@pytest.mark.parametrize("bias", [{"5": 1, "05": -1}, {"05": 1}, {"00": 1}], ids=["both", "zeros", "only-zeros"])
def test_a_token_id_has_one_spelling(bias: dict[str, float]) -> None:
    with pytest.raises(RequestError, match="leading zeros") as caught:
        parse(logit_bias=bias)
    assert (caught.value.param, caught.value.code) == ("logit_bias", "invalid_value")
    assert parse(logit_bias={"0": 1}).request.sampling.logit_bias == {0: 1.0}


FORMATS: dict[str, tuple[Any, JsonFormat | None]] = {
    "null": (None, None),
    "text": ({"type": "text"}, None),
    "object": ({"type": "json_object"}, JsonFormat()),
    "schema": (
        {"type": "json_schema", "json_schema": {"name": "a-b_1", "schema": SCHEMA, "strict": True}},
        JsonFormat(json.dumps(SCHEMA, ensure_ascii=False)),
    ),
    "object-by-a-schema": (
        {"type": "json_object", "schema": SCHEMA},
        JsonFormat(json.dumps(SCHEMA, ensure_ascii=False)),
    ),
    "schema-without-name": ({"type": "json_schema", "json_schema": {"schema": {}}}, JsonFormat("{}")),
    "schema-empty": ({"type": "json_schema", "json_schema": {"name": "x", "schema": {}}}, JsonFormat("{}")),
    "schema-absent": ({"type": "json_schema", "json_schema": {"name": "x", "strict": None}}, JsonFormat()),
}


@pytest.mark.parametrize(("value", "wanted"), FORMATS.values(), ids=FORMATS)
def test_formats_are_read(value: Any, wanted: JsonFormat | None) -> None:
    assert parse(response_format=value).request.sampling.response_format == wanted


J = "response_format"


@pytest.mark.parametrize(("fields", "param", "code"), BAD.values(), ids=BAD)
def test_a_bad_value_is_refused_by_name(fields: dict[str, Any], param: str, code: str) -> None:
    with pytest.raises(RequestError) as caught:
        parse(**fields)
    assert (caught.value.param, caught.value.code) == (param, code)
    assert len(str(caught.value)) < 200


HEAD = ResponseHead("id", 1, "m", logprobs=True)
TOKEN = TokenLogprob("\ufffd", b"\xe4", -1.25, (TokenLogprob("a", b"a", -0.5), TokenLogprob("b", b"b", -math.inf)))
WRITTEN = {
    "token": "\ufffd",
    "logprob": -1.25,
    "bytes": [228],
    "top_logprobs": [
        {"token": "a", "logprob": -0.5, "bytes": [97]},
        {"token": "b", "logprob": -9999.0, "bytes": [98]},
    ],
}


def test_log_probabilities_are_written_with_their_bytes_and_alternatives() -> None:
    choice = FinishedAnswer("x", "stop", Stats(1, 1, 0, 0, 0, 0), [TOKEN])
    assert ChatSerializer(HEAD).completion([choice])["choices"][0]["logprobs"] == {
        "content": [WRITTEN],
        "refusal": None,
    }
    event = json.loads(ChatSerializer(HEAD).text_event(1, "x", [TOKEN]).removeprefix(b"data: "))
    assert event["choices"][0]["logprobs"] == {"content": [WRITTEN], "refusal": None}
    assert event["choices"][0]["index"] == 1


def test_an_answer_without_tokens_has_an_empty_list_and_unasked_ones_have_null() -> None:
    choice = FinishedAnswer("", "stop", Stats(1, 0, 0, 0, 0, 0))
    assert ChatSerializer(HEAD).completion([choice])["choices"][0]["logprobs"] == {"content": [], "refusal": None}
    assert ChatSerializer(ResponseHead("id", 1, "m")).completion([choice])["choices"][0]["logprobs"] is None


def test_the_prompt_of_several_answers_counts_once() -> None:
    stats = [Stats(10, 3, 0, 0, 0, 0), Stats(10, 4, 9, 0, 0, 0)]
    usage = ChatSerializer(HEAD).completion([FinishedAnswer("", "stop", one) for one in stats])["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"]) == (10, 7, 17)
    assert usage["prompt_tokens_details"] == {"cached_tokens": 0}
