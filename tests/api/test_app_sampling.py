"""Several answers, log probabilities and formats over HTTP: on a scripted engine, and once on a real model."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from glm_edge.api.app import create_app
from glm_edge.engine.engine import LlamaEngine
from glm_edge.types import EngineConfig
from support.engines.fake_engine import FakeEngine

BODY = {"messages": [{"role": "user", "content": "你好"}]}
CHAT = "/v1/chat/completions"


def whole(client: FlaskClient, **fields: Any) -> Any:
    body = client.post(CHAT, json={**BODY, **fields}).get_json()
    ChatCompletion.model_validate(body, strict=True)
    return body


def events(client: FlaskClient, **fields: Any) -> list[Any]:
    raw = client.post(CHAT, json={**BODY, "stream": True, **fields}).get_data(as_text=True)
    data = [one.removeprefix("data: ") for one in raw.split("\n\n") if one.startswith("data: {")]
    chunks = [json.loads(one) for one in data]
    for chunk in chunks:
        ChatCompletionChunk.model_validate(chunk, strict=True)
    return chunks


def test_n_answers_come_with_their_indexes() -> None:
    client = create_app(FakeEngine(["a", "b"])).test_client()
    body = whole(client, n=3)
    assert [(c["index"], c["message"]["content"], c["finish_reason"]) for c in body["choices"]] == [
        (i, "ab", "stop") for i in range(3)
    ]
    assert body["usage"]["completion_tokens"] == 6
    *chunks, usage = events(client, n=2, stream_options={"include_usage": True})
    assert usage["usage"]["completion_tokens"] == 4
    for index in (0, 1):
        own = [c["choices"][0] for c in chunks if c["choices"][0]["index"] == index]
        assert [c["delta"].get("content") for c in own] == ["", "a", "b", None]
        assert own[-1]["finish_reason"] == "stop"


def test_logprobs_come_with_the_text_they_belong_to() -> None:
    client = create_app(FakeEngine(["你", "好"])).test_client()
    content = whole(client, logprobs=True, top_logprobs=1)["choices"][0]["logprobs"]["content"]
    assert [(t["token"], len(t["top_logprobs"])) for t in content] == [("你", 1), ("好", 1)]
    for chunk in events(client, logprobs=True):
        choice = chunk["choices"][0]
        tokens = [t["token"] for t in (choice["logprobs"] or {"content": []})["content"]]
        assert "".join(tokens) == (choice["delta"].get("content") or "")
    assert all(chunk["choices"][0]["logprobs"] is None for chunk in events(client))


@pytest.fixture(scope="module")
def real(tiny_f32: Path) -> Iterator[FlaskClient]:
    engine = LlamaEngine(EngineConfig(tiny_f32, n_threads=1, slots=2))
    yield create_app(engine).test_client()
    engine.close()


def test_every_parameter_works_on_a_real_model(real: FlaskClient) -> None:
    schema = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]}
    fields: dict[str, Any] = {
        "max_tokens": 60,
        "n": 2,
        "seed": 1,
        "top_k": 50,
        "min_p": 0.01,
        "presence_penalty": 0.1,
        "frequency_penalty": 0.1,
        "repetition_penalty": 1.05,
        "logit_bias": {"5": -100},
        "logprobs": True,
        "top_logprobs": 2,
        "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema, "strict": True}},
    }
    for choice in whole(real, **fields)["choices"]:
        assert choice["finish_reason"] == "stop"
        assert isinstance(json.loads(choice["message"]["content"])["ok"], bool)
        written = b"".join(bytes(t["bytes"]) for t in choice["logprobs"]["content"])
        assert written.decode().strip() == choice["message"]["content"]
    streamed = events(real, **fields)
    for index in (0, 1):
        own = [c["choices"][0] for c in streamed if c["choices"][0]["index"] == index]
        text = "".join(c["delta"].get("content") or "" for c in own)
        assert isinstance(json.loads(text)["ok"], bool)


IMPOSSIBLE: dict[str, dict[str, Any]] = {
    "logit_bias": {"logit_bias": {"65024": 1}},
    "response_format": {
        "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"not": {}}}}
    },
}


@pytest.mark.case("H20")
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize(("param", "fields"), IMPOSSIBLE.items(), ids=IMPOSSIBLE)
def test_what_only_the_engine_can_refuse_is_a_400_too(
    real: FlaskClient, param: str, fields: dict[str, Any], stream: bool
) -> None:
    response = real.post(CHAT, json={**BODY, "stream": stream, **fields})
    assert response.status_code == 400
    assert response.get_json()["error"]["param"] == param
