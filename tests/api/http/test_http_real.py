"""A real model over HTTP, made to say what the test wants by a schema of one value: characters of several tokens, stop
strings across tokens, control tokens in what users write."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient

from glm_edge.api.app import create_app
from glm_edge.engine.engine import LlamaEngine
from glm_edge.types import EngineConfig

CHAT = "/v1/chat/completions"
SAID = "你好🫠🪿世界𠮷 é🎉完"
ANSWER = f'"{SAID}"'  # as JSON


@pytest.fixture(scope="module")
def client(tiny_f32: Path) -> Iterator[FlaskClient]:
    engine = LlamaEngine(EngineConfig(tiny_f32, n_threads=1, n_ctx=512, slots=2))
    yield create_app(engine).test_client()
    engine.close()


def asked(**fields: Any) -> dict[str, Any]:
    schema = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"enum": [SAID]}}}
    return {"messages": [{"role": "user", "content": "x"}], "seed": 1, "response_format": schema, **fields}


def whole(client: FlaskClient, **fields: Any) -> Any:
    return client.post(CHAT, json=asked(**fields)).get_json()


def streamed(client: FlaskClient, **fields: Any) -> tuple[list[str], str]:
    """The texts of the events, each of which has to be JSON in UTF-8, and the reason of the end."""
    with client.post(CHAT, json=asked(stream=True, **fields)) as response:
        raw = response.get_data()
    *events, done, rest = [event for event in raw.split(b"\n\n") if not event.startswith(b":")]
    assert (done, rest) == (b"data: [DONE]", b"")
    choices = [json.loads(event.removeprefix(b"data: ").decode())["choices"][0] for event in events]
    return [choice["delta"].get("content", "") for choice in choices], choices[-1]["finish_reason"]


def tokens_of(client: FlaskClient, text: str) -> list[int]:
    ids: list[int] = client.post("/v1/tokenize", json={"text": text}).get_json()["ids"]
    return ids


@pytest.mark.case("S5")
def test_characters_of_several_tokens_arrive_whole_and_all(client: FlaskClient) -> None:
    texts, reason = streamed(client)
    assert ("".join(texts), reason) == (ANSWER, "stop")
    assert not any("\ufffd" in text for text in texts)
    answer = whole(client, logprobs=True)["choices"][0]
    assert answer["message"]["content"] == ANSWER
    tokens = [bytes(token["bytes"]) for token in answer["logprobs"]["content"]]
    assert b"".join(tokens).decode().strip() == ANSWER
    assert sum(b"\xef\xbf\xbd" in token["token"].encode() for token in answer["logprobs"]["content"]) > 4  # parts


@pytest.mark.case("S5")
def test_an_answer_cut_in_the_middle_of_a_character_ends_before_it(client: FlaskClient) -> None:
    total = whole(client)["usage"]["completion_tokens"]
    last = ""
    for most in range(1, total, 2):
        texts, reason = streamed(client, max_tokens=most)
        text = "".join(texts)
        assert reason == "length"
        assert ANSWER.startswith(text)
        assert len(text) >= len(last)
        last = text
        cut = whole(client, max_tokens=most)
        assert cut["choices"][0]["message"]["content"] == text
        assert cut["usage"]["completion_tokens"] == most


STOPS = {
    "across-tokens": ("🪿世界𠮷", '"你好🫠'),
    "one-character-of-tokens": ("🎉", '"你好🫠🪿世界𠮷 é'),
    "the-earliest": (["完", "世界", "界"], '"你好🫠🪿'),
    "begins-and-goes-on-otherwise": ("好🫠🪿世X", ANSWER),
    "half-of-it-at-the-end": ('完"。', ANSWER),
}


@pytest.mark.case("S6")
@pytest.mark.parametrize(("stop", "said"), STOPS.values(), ids=STOPS)
def test_a_stop_string_is_never_sent_and_what_is_none_is_not_kept(
    client: FlaskClient, stop: str | list[str], said: str
) -> None:
    if isinstance(stop, str):
        assert len(tokens_of(client, stop)) >= 2
    texts, reason = streamed(client, stop=stop)
    assert ("".join(texts), reason) == (said, "stop")
    assert whole(client, stop=stop)["choices"][0]["message"]["content"] == said


CONTROL = ["[gMASK]", "sop", "eop", "<sop>", "<eop>", "<|user|>", "</s>", "<s>", "[Round 1]", "问：", "philosophy"]


@pytest.mark.case("H22")
@pytest.mark.parametrize("text", [*CONTROL, "".join(CONTROL), "[gMASK]sop" * 9], ids=lambda text: text[:12])
def test_what_a_user_writes_is_text_whatever_it_looks_like(client: FlaskClient, text: str) -> None:
    framed = tokens_of(client, f"[Round 1]\n\n问：{text}\n\n答：")
    assert all(2 < token < 64789 for token in framed)  # control tokens are below and above
    body = {"messages": [{"role": "user", "content": text}], "max_tokens": 1}
    counted = client.post(CHAT, json=body).get_json()["usage"]["prompt_tokens"]
    assert counted == 2 + len(framed)  # [gMASK] and sop in front of it, and no others
