"""The official Python client, unmodified, against a running server: chat, stream, errors, keys."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam

from glm_edge.api.access.keys import Keys
from glm_edge.api.access.policy import AccessPolicy
from glm_edge.errors import EngineError
from glm_edge.types import Request
from support.engines.fake_engine import FakeEngine, Step
from support.server.live_server import LiveServer, eventually

MESSAGES: list[ChatCompletionMessageParam] = [{"role": "user", "content": "你好"}]


def script(request: Request) -> list[Step]:
    question = request.messages[-1].content
    if question == "fail":
        return [EngineError("broken")]
    if question == "fail late":
        return ["好", EngineError("broken")]
    if question == "hang":
        return [threading.Event()]
    return [1.2, "slow"] if question == "slow" else ["你好", "，", "世界", "😀"]


@pytest.fixture(scope="module")
def server() -> Iterator[LiveServer]:
    with LiveServer(FakeEngine(script), policy=AccessPolicy(Keys(["key"]))) as server:
        yield server


@pytest.fixture(scope="module")
def client(server: LiveServer) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="key", max_retries=0, timeout=20) as client:
        yield client


def test_a_chat(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="chatglm2-6b", messages=MESSAGES, temperature=0, max_tokens=64, stop=["。"], user="u", n=1
    )
    assert answer.choices[0].message.content == "你好，世界😀"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (2, 4, 6)
    assert answer.usage.prompt_tokens_details is not None
    assert answer.usage.prompt_tokens_details.cached_tokens == 0
    assert answer._request_id is not None
    assert answer._request_id.startswith("req_")


def test_a_stream(client: openai.OpenAI) -> None:
    chunks = list(
        client.chat.completions.create(
            model="chatglm2-6b", messages=MESSAGES, stream=True, stream_options={"include_usage": True}
        )
    )
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices) == "你好，世界😀"
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "stop"
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.total_tokens == 6


def test_a_stream_with_the_clients_own_collector(client: openai.OpenAI) -> None:
    with client.chat.completions.stream(model="chatglm2-6b", messages=MESSAGES) as stream:
        for _ in stream:
            pass
        assert stream.get_final_completion().choices[0].message.content == "你好，世界😀"


@pytest.mark.case("S7")
def test_a_slow_stream_with_pings_is_read(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(
        model="chatglm2-6b", messages=[{"role": "user", "content": "slow"}], stream=True
    )
    assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == "slow"


@pytest.mark.case("S8")
@pytest.mark.parametrize("stream", [False, True])
def test_a_failure_before_the_first_chunk_is_an_internal_server_error(client: openai.OpenAI, stream: bool) -> None:
    with pytest.raises(openai.InternalServerError) as error:
        client.chat.completions.create(
            model="chatglm2-6b", messages=[{"role": "user", "content": "fail"}], stream=stream
        )
    assert error.value.status_code == 500
    assert error.value.type == "server_error"


@pytest.mark.case("S8")
def test_a_failure_in_the_stream_is_an_api_error(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(
        model="chatglm2-6b", messages=[{"role": "user", "content": "fail late"}], stream=True
    )
    with pytest.raises(openai.APIError, match="the engine failed"):
        list(stream)


def test_errors_are_the_clients_own_classes(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as missing:
        client.chat.completions.create(model="gpt-4", messages=MESSAGES)
    assert (missing.value.code, missing.value.param) == ("model_not_found", "model")
    with pytest.raises(openai.BadRequestError) as bad:
        client.chat.completions.create(model="chatglm2-6b", messages=MESSAGES, temperature=3)
    assert (bad.value.code, bad.value.param) == ("invalid_value", "temperature")
    with pytest.raises(openai.BadRequestError) as functions:
        client.chat.completions.create(model="chatglm2-6b", messages=MESSAGES, functions=[{"name": "f"}])
    assert (functions.value.code, functions.value.param) == ("unsupported_parameter", "functions")
    with pytest.raises(openai.BadRequestError) as long:
        client.chat.completions.create(model="chatglm2-6b", messages=[{"role": "user", "content": "x" * 9000}])
    assert long.value.code == "context_length_exceeded"
    with pytest.raises(openai.APIStatusError) as large:
        client.chat.completions.create(model="chatglm2-6b", messages=[{"role": "user", "content": "x" * 3_000_000}])
    assert large.value.status_code == 413


@pytest.mark.parametrize("key", ["wrong", "ke", "keys"])
def test_without_the_right_key_it_is_an_authentication_error(server: LiveServer, key: str) -> None:
    with (
        openai.OpenAI(base_url=f"{server.url}/v1", api_key=key, max_retries=0) as client,
        pytest.raises(openai.AuthenticationError) as error,
    ):
        client.chat.completions.create(model="chatglm2-6b", messages=MESSAGES)
    assert error.value.code == "invalid_api_key"


def test_the_key_may_come_in_our_own_header(server: LiveServer) -> None:
    options = {"API-KEY": "key"}
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="unused", default_headers=options) as client:
        assert client.chat.completions.create(model="chatglm2-6b", messages=MESSAGES).choices[0].message.content


def test_models_are_listed_and_found(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["chatglm2-6b"]
    assert client.models.retrieve("chatglm2-6b").owned_by == "glm-edge"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt-4")


def test_a_stream_that_the_client_closes_is_cancelled(server: LiveServer, client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(
        model="chatglm2-6b", messages=[{"role": "user", "content": "hang"}], stream=True
    )
    next(iter(stream))
    stream.close()
    assert eventually(lambda: server.engine.live == 0)


def test_four_streams_at_once_lose_and_reorder_nothing() -> None:
    def numbered(request: Request) -> list[Step]:
        return [f"{request.messages[-1].content}:{n} " for n in range(1500)]

    def read(client: openai.OpenAI, name: str) -> str:
        stream = client.chat.completions.create(
            model="chatglm2-6b", messages=[{"role": "user", "content": name}], stream=True
        )
        return "".join(chunk.choices[0].delta.content or "" for chunk in stream)

    with (
        LiveServer(FakeEngine(numbered, slots=4)) as server,
        openai.OpenAI(base_url=f"{server.url}/v1", api_key="-", max_retries=0) as client,
        ThreadPoolExecutor(4) as pool,
    ):
        names = ["一", "二", "三", "四"]
        texts = list(pool.map(lambda name: read(client, name), names))
    assert texts == ["".join(f"{name}:{n} " for n in range(1500)) for name in names]


def test_a_client_that_times_out_is_cancelled(server: LiveServer, client: openai.OpenAI) -> None:
    with pytest.raises(openai.APITimeoutError):
        client.chat.completions.create(model="chatglm2-6b", messages=[{"role": "user", "content": "hang"}], timeout=0.5)
    assert eventually(lambda: server.engine.live == 0)
