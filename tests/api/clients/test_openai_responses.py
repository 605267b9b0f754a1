"""openai-python's client of POST /v1/responses, and the calls that Home Assistant makes with it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import openai
import pydantic
import pytest

from glm_edge.api.access.keys import Keys
from glm_edge.api.access.policy import AccessPolicy
from glm_edge.types import Message
from support.engines.fake_engine import FakeEngine
from support.server.filling_engine import SAID, answer
from support.server.live_server import LiveServer

MODEL = "chatglm2-6b"


class City(pydantic.BaseModel):
    city: str
    days: int


@pytest.fixture(scope="module")
def server() -> Iterator[LiveServer]:
    with LiveServer(FakeEngine(answer), policy=AccessPolicy(Keys(["key"]))) as server:
        yield server


@pytest.fixture(scope="module")
def client(server: LiveServer) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="key", max_retries=0, timeout=20) as client:
        yield client


def test_a_response(client: openai.OpenAI) -> None:
    response = client.responses.create(model=MODEL, input="x", instructions="短", store=False)
    assert (response.output_text, response.status) == (SAID, "completed")


def test_a_stream_with_the_clients_own_collector(client: openai.OpenAI) -> None:
    with client.responses.stream(model=MODEL, input="x") as stream:
        assert "".join(event.delta for event in stream if event.type == "response.output_text.delta") == SAID
        assert stream.get_final_response().output_text == SAID


def test_a_structured_answer_and_a_call(client: openai.OpenAI) -> None:
    town = City(city="北京", days=7)
    assert client.responses.parse(model=MODEL, input="x", text_format=City).output_parsed == town
    tool = openai.pydantic_function_tool(City)
    chat: Any = [{"role": "user", "content": "x"}]
    called = client.chat.completions.parse(model=MODEL, messages=chat, tools=[tool]).choices[0].message.tool_calls
    assert called is not None
    assert called[0].function.parsed_arguments == town


def test_errors_are_the_clients_own_classes(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as stored:
        client.responses.create(model=MODEL, input="x", store=True)
    assert (stored.value.code, stored.value.param) == ("unsupported_parameter", "store")
    with pytest.raises(openai.BadRequestError) as previous:
        client.responses.create(model=MODEL, input="x", previous_response_id="resp_1")
    assert previous.value.param == "previous_response_id"
    with pytest.raises(openai.NotFoundError):
        client.responses.create(model="gpt-4o", input="x")


def test_home_assistants_calls(server: LiveServer) -> None:
    """As its integration for OpenAI makes them: it lists the models, then talks in streams, with tools of its own."""
    tool: Any = {
        "type": "function",
        "name": "HassTurnOn",
        "description": "Turns on a device",
        "parameters": {"type": "object", "properties": {"name": {"type": "string"}}},
        "strict": False,
    }

    async def talk() -> tuple[str, str]:
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="key", max_retries=0) as client:
            await client.with_options(timeout=10.0).models.list()
            talk: list[Any] = [
                {"type": "message", "role": "developer", "content": "You control a home."},
                {"type": "message", "role": "user", "content": "开灯"},
            ]
            options: Any = {
                "model": MODEL,
                "tools": [tool],
                "max_output_tokens": 3000,
                "temperature": 1.0,
                "top_p": 1.0,
                "user": "01J",
                "store": False,
                "stream": True,
            }
            called = ""
            async for event in await client.responses.create(input=talk, **options):
                if event.type == "response.output_item.done" and event.item.type == "function_call":
                    called = event.item.name
                    item = {"type": "function_call", "name": called, "arguments": event.item.arguments}
                    talk.append({**item, "call_id": event.item.call_id})
                    result = {"type": "function_call_output", "call_id": event.item.call_id}
                    talk.append({**result, "output": '{"success": true}'})
            text = ""
            async for event in await client.responses.create(input=talk, **options):
                if event.type == "response.output_text.delta":
                    text += event.delta
            with pytest.raises(openai.AuthenticationError):  # it says that the key is wrong
                await client.with_options(api_key="wrong", timeout=10.0).models.list()
            return called, text

    assert asyncio.run(talk()) == ("HassTurnOn", SAID)
    assert server.engine.requests[-1].messages[-1] == Message("user", 'Result of HassTurnOn: {"success": true}')
