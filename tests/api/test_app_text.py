"""Text without a conversation, ChatGLM's own contract (POST /), times, trimming."""

from __future__ import annotations

import json
import logging
import re
from typing import Any

import pytest
from openai.types import Completion

from glm_edge.api.app import create_app
from glm_edge.api.contract.answers.figures import total
from glm_edge.api.contract.answers.serializer import FinishedAnswer, ResponseHead
from glm_edge.api.contract.answers.text import TextSerializer
from glm_edge.types import Message, SamplingParams, Stats, TokenLogprob
from support.engines.fake_engine import FakeEngine

CHAT = {"messages": [{"role": "user", "content": "你好"}]}


def answer(path: str, body: Any, engine: FakeEngine | None = None, **options: Any) -> Any:
    response = create_app(engine or FakeEngine(), **options).test_client().post(path, json=body)
    assert response.status_code == 200, response.get_data(as_text=True)
    return response.get_json()


def events(path: str, body: Any, **options: Any) -> list[Any]:
    raw = create_app(FakeEngine(["一", "二"]), **options).test_client().post(path, json={**body, "stream": True})
    *data, done = [one.removeprefix("data: ") for one in raw.get_data(as_text=True).split("\n\n") if one]
    assert done == "[DONE]"
    return [json.loads(one) for one in data]


def refusal(path: str, body: Any) -> tuple[str | None, str | None]:
    response = create_app(FakeEngine()).test_client().post(path, json=body)
    assert response.status_code == 400
    error = response.get_json()["error"]
    return error["param"], error["code"]


def test_a_prompt_is_gone_on_with_as_it_is() -> None:
    engine = FakeEngine(["世", "界"])
    body = answer("/v1/completions", {"prompt": "你好，", "temperature": 0, "n": 2, "max_tokens": 5}, engine)
    Completion.model_validate(body, strict=True)
    assert body["id"].startswith("cmpl-")
    assert [(c["index"], c["text"], c["finish_reason"], c["logprobs"]) for c in body["choices"]] == [
        (0, "世界", "stop", None),
        (1, "世界", "stop", None),
    ]
    assert body["usage"]["completion_tokens"] == 4
    (request,) = engine.requests
    assert (request.messages, request.prompts, request.max_tokens, request.n) == ((), ("你好，",), 5, 2)


def test_a_prompt_alone_gets_the_contracts_16_tokens_and_may_come_in_an_array() -> None:
    engine = FakeEngine()
    answer("/v1/completions", {"prompt": ["x"]}, engine)
    assert (engine.requests[0].prompts, engine.requests[0].max_tokens) == (("x",), 16)


@pytest.mark.parametrize(
    ("prompt", "prompts"),
    [
        (["x", "yz"], ("x", "yz")),
        ([5, 6.0], ((5, 6),)),
        ([[5], [6, 7]], ((5,), (6, 7))),
    ],
    ids=["texts", "ids", "lists of ids"],
)
def test_several_prompts_get_their_answers_in_their_order(prompt: Any, prompts: Any) -> None:
    engine = FakeEngine(["一"])
    body = answer("/v1/completions", {"prompt": prompt, "n": 2}, engine)
    assert engine.requests[0].prompts == prompts
    assert [choice["index"] for choice in body["choices"]] == list(range(2 * len(prompts)))
    assert body["usage"]["completion_tokens"] == 2 * len(prompts)
    chunks = events("/v1/completions", {"prompt": prompt})
    assert {chunk["choices"][0]["index"] for chunk in chunks} == set(range(len(prompts)))


def test_a_prompt_counts_once_and_each_of_several_does() -> None:
    one, two = (Stats(n, 3, 1, 0.0, 0.0, 0.0) for n in (10, 20))
    assert (total([one, one, two, two], 2).prompt_tokens, total([one, one, two, two], 2).cached_tokens) == (30, 2)
    assert (total([one, one]).prompt_tokens, total([one, one]).completion_tokens) == (10, 6)


def test_an_echo_has_the_prompt_and_its_log_probabilities_in_front() -> None:
    body = {"prompt": "你好", "echo": True, "logprobs": 1, "max_tokens": 1}
    (choice,) = answer("/v1/completions", body, FakeEngine(["一", "二"]))["choices"]
    assert (choice["text"], choice["finish_reason"]) == ("你好一", "length")
    assert choice["logprobs"]["tokens"] == ["你", "好", "一"]
    assert choice["logprobs"]["text_offset"] == [0, 1, 2]
    (choice,) = answer("/v1/completions", {"prompt": [97], "echo": True, "max_tokens": 0})["choices"]
    assert (choice["text"], choice["logprobs"]) == ("a", None)
    assert [chunk["choices"][0]["text"] for chunk in events("/v1/completions", {**body, "logprobs": None})] == [
        "你好",
        "一",
        "",
    ]


def test_answers_name_the_configuration_that_made_them() -> None:
    (first, *_), whole = events("/v1/chat/completions", CHAT), answer("/v1/chat/completions", CHAT)
    assert re.fullmatch("fp_[0-9a-f]{12}", whole["system_fingerprint"])
    assert first["system_fingerprint"] == whole["system_fingerprint"]
    other = answer("/v1/completions", {"prompt": "x"}, FakeEngine(n_ctx=4096))
    assert other["system_fingerprint"] != whole["system_fingerprint"]


def test_a_prompt_is_answered_in_a_stream() -> None:
    *chunks, usage = events(
        "/v1/completions", {"prompt": "x", "stream_options": {"include_usage": True}, "logprobs": 0}
    )
    for chunk in (chunks[-1], usage):
        Completion.model_validate(chunk, strict=True)
    assert [chunk["choices"][0]["text"] for chunk in chunks] == ["一", "二", ""]
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None, None, "stop"]
    assert [chunk["choices"][0]["logprobs"]["text_offset"] for chunk in chunks] == [[0], [1], []]
    assert usage["usage"]["completion_tokens"] == 2


def test_log_probabilities_of_text_are_in_arrays() -> None:
    scores = answer("/v1/completions", {"prompt": "x", "logprobs": 1}, FakeEngine(["一", "二"]))["choices"][0][
        "logprobs"
    ]
    assert scores["tokens"] == ["一", "二"]
    assert len(scores["token_logprobs"]) == len(scores["top_logprobs"]) == 2
    assert scores["text_offset"] == [0, 1]


OFFSETS: dict[str, tuple[str, list[bytes], list[int]]] = {
    "dummy-prefix": ("hello world", [b" ", b"hello", b" wor", b"ld"], [0, 0, 5, 9]),
    "prefix-in-a-word": ("hello world", [b" hello", b" world"], [0, 5]),
    "space-of-the-prompt": (" hello", [b"  ", b"hello"], [0, 1]),
    "space-of-the-answer": (" hello", [b" ", b"hello"], [0, 1]),
    "bytes": ("a😀好", [b" ", b"a", b"\xf0", b"\x9f", b"\x98", b"\x80", "好".encode()], [0, 0, 1, 1, 1, 1, 2]),
    "no-character": ("\ufffda", [b"\xff", b"a"], [0, 1]),
}


@pytest.mark.parametrize(("text", "pieces", "offsets"), OFFSETS.values(), ids=OFFSETS)
def test_offsets_are_places_in_the_text(text: str, pieces: list[bytes], offsets: list[int]) -> None:
    tokens = [TokenLogprob(piece.decode("utf-8", "replace"), piece, -0.5) for piece in pieces]
    head = ResponseHead("cmpl-1", 0, "chatglm2-6b", logprobs=True)
    whole = TextSerializer(head).completion([FinishedAnswer(text, "stop", Stats(1, 1, 0, 0.0, 0.0, 0.0), tokens)])
    stream, found = TextSerializer(head), []
    for part in ((text, tokens[:3]), ("", tokens[3:])):  # an echo has its text at once, and scores batch by batch
        found.append(json.loads(stream.text_event(0, *part).removeprefix(b"data: "))["choices"][0]["logprobs"])
    assert whole["choices"][0]["logprobs"] is not None
    assert whole["choices"][0]["logprobs"]["text_offset"] == offsets
    assert [at for one in found for at in one["text_offset"]] == offsets


BAD_TEXT = {
    "no-prompt": ({}, "prompt", "missing_required_parameter"),
    "number": ({"prompt": 5}, "prompt", "invalid_type"),
    "null": ({"prompt": None}, "prompt", "invalid_type"),
    "nul": ({"prompt": "\0"}, "prompt", "invalid_value"),
    "no-prompts": ({"prompt": []}, "prompt", "empty_array"),
    "no-ids": ({"prompt": [[1], []]}, "prompt[1]", "empty_array"),
    "text-and-id": ({"prompt": ["a", 1]}, "prompt[1]", "invalid_type"),
    "id-and-text": ({"prompt": [1, "a"]}, "prompt[1]", "invalid_type"),
    "ids-and-text": ({"prompt": [[1], "a"]}, "prompt[1]", "invalid_type"),
    "negative-id": ({"prompt": [[1, -1]]}, "prompt[0][1]", "invalid_value"),
    "boolean-id": ({"prompt": [1, True]}, "prompt[1]", "invalid_type"),
    "many-prompts": ({"prompt": ["a"] * 33}, "prompt", "array_above_max_length"),
    "many-ids": ({"prompt": [1] * 131_073}, "prompt", "array_above_max_length"),
    "no-tokens": ({"prompt": "x", "max_tokens": 0}, "max_tokens", "invalid_value"),
    "echo-number": ({"prompt": "x", "echo": 1}, "echo", "invalid_type"),
    "suffix": ({"prompt": "x", "suffix": "y"}, "suffix", "unsupported_parameter"),
    "best-of": ({"prompt": "x", "best_of": 3}, "best_of", "unsupported_parameter"),
    "logprobs-true": ({"prompt": "x", "logprobs": True}, "logprobs", "invalid_type"),
    "logprobs-6": ({"prompt": "x", "logprobs": 6}, "logprobs", "invalid_value"),
    "messages": ({"prompt": "x", "messages": []}, "messages", "unknown_parameter"),
    "usage-without-stream": ({"prompt": "x", "stream_options": {}}, "stream_options", "invalid_value"),
    "no-object": ([], None, None),
}


@pytest.mark.parametrize(("body", "param", "code"), BAD_TEXT.values(), ids=BAD_TEXT)
def test_a_bad_completion_is_refused_by_its_field(body: Any, param: str | None, code: str | None) -> None:
    assert refusal("/v1/completions", body) == (param, code)


def test_the_ids_of_a_text() -> None:
    assert answer("/v1/tokenize", {"text": "ab", "model": "chatglm2-6b"}) == {"ids": [97, 98]}
    assert answer("/v1/tokenize", {"text": ""}) == {"ids": []}
    assert refusal("/v1/tokenize", {"text": 5}) == ("text", "invalid_type")
    assert refusal("/v1/tokenize", {}) == ("text", "missing_required_parameter")


def test_chatglms_own_contract_as_its_programs_send_it() -> None:
    engine = FakeEngine(["你好", "！"])
    sent = {"prompt": "再说", "history": [["你好", "你好"]], "max_length": 2048, "top_p": 0.6, "temperature": 0.1}
    body = answer("/", sent, engine)
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", body.pop("time"))
    assert body == {"response": "你好！", "history": [["你好", "你好"], ["再说", "你好！"]], "status": 200}
    (request,) = engine.requests
    assert request.messages == (Message("user", "你好"), Message("assistant", "你好"), Message("user", "再说"))
    assert (request.sampling, request.max_length) == (SamplingParams(0.1, 0.6), 2048)


def test_what_langchains_class_sends_besides_is_ignored() -> None:
    engine = FakeEngine()
    answer("/", {"prompt": "x", "sample_model_args": False}, engine)
    assert engine.requests[0].messages == (Message("user", "x"),)


def test_chatglms_own_defaults() -> None:
    engine = FakeEngine()
    answer("/", {"prompt": "x", "history": [], "max_length": 0, "top_p": None}, engine)
    assert (engine.requests[0].sampling, engine.requests[0].max_length) == (SamplingParams(0.95, 0.7), None)


BAD_CHATGLM = {
    "no-prompt": ({"history": []}, "prompt", "missing_required_parameter"),
    "history-of-messages": ({"prompt": "x", "history": [{"role": "user"}]}, "history[0]", "invalid_type"),
    "history-of-three": ({"prompt": "x", "history": [["a", "b", "c"]]}, "history[0]", "invalid_value"),
    "history-of-numbers": ({"prompt": "x", "history": [["a", 1]]}, "history[0][1]", "invalid_type"),
    "negative-length": ({"prompt": "x", "max_length": -1}, "max_length", "invalid_value"),
    "stream": ({"prompt": "x", "stream": True}, "stream", "unknown_parameter"),
    "no-object": ("x", None, None),
}


@pytest.mark.parametrize(("body", "param", "code"), BAD_CHATGLM.values(), ids=BAD_CHATGLM)
def test_a_bad_request_of_chatglms_contract_is_refused(body: Any, param: str | None, code: str | None) -> None:
    assert refusal("/", body) == (param, code)


@pytest.mark.parametrize(
    ("path", "body"), [("/v1/chat/completions", CHAT), ("/v1/completions", {"prompt": "x"}), ("/", {"prompt": "x"})]
)
def test_times_are_in_a_header(path: str, body: Any) -> None:
    response = create_app(FakeEngine([0.01, "a"])).test_client().post(path, json=body)
    stages = re.fullmatch(
        r"queue;dur=([\d.]+), prefill;dur=([\d.]+), decode;dur=([\d.]+)", response.headers["Server-Timing"]
    )
    assert stages is not None
    assert float(stages[3]) >= 10  # milliseconds


@pytest.mark.parametrize(("path", "body"), [("/v1/chat/completions", CHAT), ("/v1/completions", {"prompt": "x"})])
def test_times_are_in_the_body_and_in_the_last_event_of_the_answer(path: str, body: Any) -> None:
    assert set(answer(path, body)["glm_edge"]) == {"queue_ms", "prefill_ms", "decode_ms"}
    chunks = events(path, body)
    assert ["glm_edge" in chunk for chunk in chunks] == [False] * (len(chunks) - 1) + [True]


def test_with_trimming_on_requests_allow_it_and_answers_say_how_many_rounds_were_left_out() -> None:
    engine = FakeEngine()
    assert answer("/v1/chat/completions", CHAT, engine, trim=True)["glm_edge"]["trimmed_rounds"] == 0
    assert engine.requests[0].trim
    assert events("/v1/chat/completions", CHAT, trim=True)[-1]["glm_edge"]["trimmed_rounds"] == 0


def test_a_request_says_itself_whether_rounds_may_be_left_out() -> None:
    rounds = [{"role": "user", "content": "q" * 10}, {"role": "assistant", "content": "a" * 10}] * 4
    body = {"messages": [*rounds, {"role": "user", "content": "last"}]}
    path = "/v1/chat/completions"
    found = answer(path, {**body, "trim_history": True}, FakeEngine(n_ctx=64))
    assert found["glm_edge"]["trimmed_rounds"] == 2
    for told, server in ((None, False), (False, False), (False, True)):
        client = create_app(FakeEngine(n_ctx=64), trim=server).test_client()
        refused = client.post(path, json={**body, "trim_history": told})
        assert refused.json is not None
        assert refused.json["error"]["code"] == "context_length_exceeded"


@pytest.mark.parametrize("path", ["/health", "/livez"])
def test_health_checks_are_not_logged(path: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "glm_edge"):
        client = create_app(FakeEngine()).test_client()
        client.get(path).close()
        assert not caplog.records
        client.get("/v1/models").close()
        assert "GET /v1/models 200" in caplog.text
