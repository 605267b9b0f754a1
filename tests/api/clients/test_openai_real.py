"""`glm-edge serve` as a user starts it, on a tiny real model, and the official client: the whole path over HTTP."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam

MESSAGES: list[ChatCompletionMessageParam] = [{"role": "user", "content": "你好，philosophy 是什么？[gMASK]sop"}]
KEY = "sk-test"


@pytest.fixture(scope="module")
def url(tiny_q4_0: Path) -> Iterator[str]:
    """Where a server listens; afterwards it must end on SIGTERM with 0 and have said nothing of what it was asked."""
    main = [sys.executable, "-c", "from glm_edge.cli import main; main()"]
    # one thread: on a busy machine, two that wait for each other at every layer are a hundred times slower
    options = ["serve", "--model", str(tiny_q4_0), "--port", "0", "--ctx", "256", "--threads", "1"]
    environment = {**os.environ, "GLM_EDGE_API_KEY": KEY}
    with subprocess.Popen(
        [*main, *options], stderr=subprocess.PIPE, text=True, encoding="utf-8", env=environment
    ) as server:
        try:
            assert server.stderr is not None
            said = ""
            while not (ready := re.search(r"serving (\S+) at (http://\S+) \(n_ctx 256\)", said)):
                line = server.stderr.readline()
                assert line, said
                said += line
            yield ready[2]
            server.terminate()
            said += server.stderr.read()
            assert server.wait(20) == (0 if os.name == "posix" else 1)  # Windows knows no SIGTERM
        finally:
            server.kill()
    assert "philosophy" not in said
    assert KEY not in said


@pytest.fixture(scope="module")
def client(url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0, timeout=60) as client:
        yield client


@pytest.mark.case("H29")
@pytest.mark.parametrize("options", [{"temperature": 0}, {"temperature": 1, "seed": 7}], ids=["greedy", "seeded"])
def test_the_same_request_gives_the_same_text_streamed_or_not(client: openai.OpenAI, options: dict[str, float]) -> None:
    model = client.models.list().data[0].id
    whole = client.chat.completions.create(model=model, messages=MESSAGES, max_tokens=24, **options)  # type: ignore[call-overload]
    text = whole.choices[0].message.content
    assert text
    assert "\ufffd" not in text
    assert whole.model == model
    stream = client.chat.completions.create(
        model=model, messages=MESSAGES, max_tokens=24, stream=True, stream_options={"include_usage": True}, **options
    )  # type: ignore[call-overload]
    chunks = list(stream)
    assert "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices) == text
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == whole.choices[0].finish_reason
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    assert chunks[-1].usage.prompt_tokens == whole.usage.prompt_tokens


@pytest.mark.case("S12")
def test_max_tokens_is_kept(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model=_model(client), messages=MESSAGES, max_tokens=3, temperature=0)
    assert answer.usage is not None
    assert answer.usage.completion_tokens <= 3
    if answer.usage.completion_tokens == 3:
        assert answer.choices[0].finish_reason == "length"


@pytest.mark.case("H21")
@pytest.mark.parametrize("stream", [False, True])
def test_a_prompt_longer_than_the_context_is_refused(client: openai.OpenAI, stream: bool) -> None:
    with pytest.raises(openai.BadRequestError, match="256 tokens") as error:
        client.chat.completions.create(
            model=_model(client), messages=[{"role": "user", "content": "字" * 500}], stream=stream
        )
    assert (error.value.code, error.value.param) == ("context_length_exceeded", "messages")


def test_without_the_key_it_is_refused(url: str) -> None:
    with (
        openai.OpenAI(base_url=f"{url}/v1", api_key="other", max_retries=0) as client,
        pytest.raises(openai.AuthenticationError),
    ):
        client.models.list()


def test_after_a_client_has_left_the_next_answer_is_the_same_as_before(client: openai.OpenAI) -> None:
    def greedy() -> str | None:
        answer = client.chat.completions.create(model=_model(client), messages=MESSAGES, max_tokens=24, temperature=0)
        return answer.choices[0].message.content

    before = greedy()
    with client.chat.completions.create(
        model=_model(client), messages=[{"role": "user", "content": "一二三"}], stream=True
    ) as stream:
        next(iter(stream))
    assert greedy() == before


def _model(client: openai.OpenAI) -> str:
    return client.models.list().data[0].id
