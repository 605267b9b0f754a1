"""Programs of other people's, unmodified, in their default modes: a chat, a stream, a structured answer or a call, an
error.

None of them is installed with the tests: GLM_EDGE_CLIENTS_PYTHON names a Python that has them, GLM_EDGE_NODE_MODULES a
node_modules folder. A program that is not there is skipped. What each does is in the table of tests/README.md.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from glm_edge.api.access.keys import Keys
from glm_edge.api.access.policy import AccessPolicy
from support.engines.fake_engine import FakeEngine
from support.server.filling_engine import SAID, answer
from support.server.live_server import LiveServer


@pytest.fixture(scope="module")
def server() -> Iterator[LiveServer]:
    with LiveServer(FakeEngine(answer), policy=AccessPolicy(Keys(["key"]))) as server:
        yield server


@pytest.fixture(scope="module")
def open_server() -> Iterator[LiveServer]:
    """Without keys: for programs that send none."""
    with LiveServer(FakeEngine(answer)) as server:
        yield server


def run(url: str, command: list[str], folder: Path) -> list[str]:
    """The lines that a program prints, with the server's address in URL."""
    environ = {**os.environ, "URL": url, "PYTHONUTF8": "1", "HOME": str(folder), "LLM_USER_PATH": str(folder)}
    done = subprocess.run(
        command, cwd=folder, env=environ, capture_output=True, encoding="utf-8", timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.splitlines()


def python(module: str) -> str:
    """The interpreter that has a module; skips the test where there is none."""
    found = os.environ.get("GLM_EDGE_CLIENTS_PYTHON")
    if found is None:
        pytest.skip("GLM_EDGE_CLIENTS_PYTHON (a Python with clients of others) is not set")
    look = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({module!r}) is None)"
    if subprocess.run([found, "-c", look], check=False).returncode:
        pytest.skip(f"GLM_EDGE_CLIENTS_PYTHON has no {module}")
    return found


def run_node(url: str, program: str, package: str, folder: Path) -> list[str]:
    """The lines that a program for Node prints; skips the test where there is no such package."""
    modules = os.environ.get("GLM_EDGE_NODE_MODULES")
    if shutil.which("node") is None or modules is None or not (Path(modules) / package).is_dir():
        pytest.skip(f"node or GLM_EDGE_NODE_MODULES (a folder with npm's {package}) is not there")
    (folder / "node_modules").symlink_to(Path(modules).resolve())
    (folder / "chat.mjs").write_text(program, "utf-8")
    return run(f"{url}/v1", ["node", "chat.mjs"], folder)


BEGIN = """
import os, openai, pydantic, warnings
warnings.simplefilter("ignore")
url, ask = os.environ["URL"], [{"role": "user", "content": "x"}]
class City(pydantic.BaseModel):
    city: str
    days: int
"""
INSTRUCTOR = """
import instructor
plain = openai.OpenAI(base_url=url, api_key="key", max_retries=0)
client = instructor.from_openai(plain)
options = {"model": "chatglm2-6b", "messages": ask}
print(plain.chat.completions.create(**options).choices[0].message.content)
print(client.chat.completions.create(response_model=City, **options))
print(list(client.chat.completions.create_partial(response_model=City, **options))[-1])
try:
    wrong = openai.OpenAI(base_url=url, api_key="wrong", max_retries=0)
    instructor.from_openai(wrong).chat.completions.create(response_model=City, max_retries=0, **options)
except Exception as error:
    print("invalid_api_key" in str(error))
"""
PYDANTIC_AI = """
import asyncio
from pydantic_ai import Agent
from pydantic_ai.exceptions import ModelHTTPError
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider
def model(key):
    return OpenAIChatModel("chatglm2-6b", provider=OpenAIProvider(base_url=url, api_key=key))
async def main():
    print((await Agent(model("key")).run("x")).output)
    async with Agent(model("key")).run_stream("x") as stream:
        print([text async for text in stream.stream_text()][-1])
    print((await Agent(model("key"), output_type=City).run("x")).output)
    agent, told = Agent(model("key")), []
    @agent.tool_plain
    def weather(city: str) -> str:
        told.append(city)
        return "12"
    print((await agent.run("x")).output, told)
    try:
        await Agent(model("wrong")).run("x")
    except ModelHTTPError as error:
        print(error.status_code)
asyncio.run(main())
"""
LLAMA_INDEX = """
from llama_index.core.prompts import PromptTemplate
from llama_index.llms.openai_like import OpenAILike
options = {"model": "chatglm2-6b", "api_base": url, "is_chat_model": True, "is_function_calling_model": True,
           "context_window": 8192, "max_retries": 0}
llm = OpenAILike(api_key="key", **options)
print(llm.complete("x").text)
print("".join(part.delta for part in llm.stream_complete("x")))
print(llm.structured_predict(City, PromptTemplate("x")))
try:
    OpenAILike(api_key="wrong", **options).complete("x")
except openai.AuthenticationError as error:
    print(error.code)
"""
LANGCHAIN = """
from langchain_openai import ChatOpenAI
options = {"base_url": url, "model": "chatglm2-6b", "max_retries": 0}
chat = ChatOpenAI(api_key="key", **options)
for method in ("json_schema", "function_calling"):
    print(chat.with_structured_output(City, method=method).invoke("x"))
print(chat.with_structured_output(City.model_json_schema()).invoke("x"))
print(chat.bind_tools([City]).invoke("x").tool_calls[0]["args"])
call = None
for part in chat.bind_tools([City]).stream("x"):
    call = part if call is None else call + part
print(call.tool_calls[0]["args"])
try:
    ChatOpenAI(api_key="wrong", **options).with_structured_output(City).invoke("x")
except openai.AuthenticationError as error:
    print(error.code)
"""
MAGENTIC = """
from magentic import OpenaiChatModel, StreamedStr, prompt
model = OpenaiChatModel("chatglm2-6b", base_url=url, api_key="key")
@prompt("x", model=model)
def text() -> str: ...
@prompt("x", model=model)
def stream() -> StreamedStr: ...
@prompt("x", model=model)
def city() -> City: ...
@prompt("x", model=OpenaiChatModel("chatglm2-6b", base_url=url, api_key="wrong"))
def wrong() -> str: ...
print(text())
print("".join(stream()))
print(city())
try:
    wrong()
except openai.AuthenticationError as error:
    print(error.code)
"""
SMOLAGENTS = """
from smolagents import OpenAIServerModel, ToolCallingAgent, tool
def model(key):
    return OpenAIServerModel("chatglm2-6b", api_base=url, api_key=key)
print(model("key").generate(ask).content)
print("".join(part.content or "" for part in model("key").generate_stream(ask)))
told = []
@tool
def weather(city: str) -> str:
    '''The weather.

    Args:
        city: its name.
    '''
    told.append(city)
    return "12"
print(ToolCallingAgent([weather], model("key"), max_steps=1, verbosity_level=-1).run("x"), told)
try:
    model("wrong").generate(ask)
except openai.AuthenticationError as error:
    print(error.code)
"""
CITY = "city='北京' days=7"
SET = "{'city': '北京', 'days': 7}"
PROGRAMS = {
    "instructor": ("instructor", INSTRUCTOR, [SAID, CITY, CITY, "True"]),
    "pydantic-ai": ("pydantic_ai", PYDANTIC_AI, [SAID, SAID, CITY, f"{SAID} ['北京']", "401"]),
    "llama-index": ("llama_index", LLAMA_INDEX, [SAID, SAID, CITY, "invalid_api_key"]),
    "langchain-openai": ("langchain_openai", LANGCHAIN, [CITY, CITY, SET, SET, SET, "invalid_api_key"]),
    "smolagents": ("smolagents", SMOLAGENTS, [SAID, SAID, f"{SAID} ['北京']", "invalid_api_key"]),
    "magentic": ("magentic", MAGENTIC, [SAID, SAID, CITY, "invalid_api_key"]),
}


@pytest.mark.parametrize(("module", "program", "printed"), PROGRAMS.values(), ids=PROGRAMS)
def test_a_program_in_its_default_mode(
    server: LiveServer, tmp_path: Path, module: str, program: str, printed: list[str]
) -> None:
    (tmp_path / "program.py").write_text(BEGIN + program, "utf-8")  # smolagents reads the source of a tool
    assert run(f"{server.url}/v1", [python(module), "program.py"], tmp_path) == printed


CHATGLM = """
import os, warnings
warnings.simplefilter("ignore")
from langchain_community.llms.chatglm import ChatGLM
options = {"max_token": 80000, "top_p": 0.9, "model_kwargs": {"sample_model_args": False}}
llm = ChatGLM(endpoint_url=os.environ["URL"] + "/", history=[["你好", "你好！"]], **options)
print(llm.invoke("x"))
try:
    ChatGLM(endpoint_url=os.environ["URL"] + "/", **{**options, "top_p": 7}).invoke("x")
except ValueError as error:
    print("400" in str(error))
"""


def test_langchains_chatglm(open_server: LiveServer, tmp_path: Path) -> None:
    python("langchain_community.llms")
    assert run(open_server.url, [python("langchain_community"), "-c", CHATGLM], tmp_path) == [SAID, "True"]


LLM = """
import llm
model = llm.get_model("glm")
print(model.prompt("x", stream=False, key="key").text())
print("".join(model.prompt("x", key="key")))
print(model.prompt("x", schema=llm.schema_dsl("city, days int"), key="key").text())
try:
    model.prompt("x", stream=False, key="wrong").text()
except Exception as error:
    print("invalid_api_key" in str(error))
"""


def test_llm(server: LiveServer, tmp_path: Path) -> None:
    """The library below the command; models of one's own are in a file of its folder."""
    (tmp_path / "extra-openai-models.yaml").write_text(
        f"- model_id: glm\n  model_name: chatglm2-6b\n  api_base: {server.url}/v1\n  api_key_name: glm\n"
        "  supports_schema: true\n",
        "utf-8",
    )
    printed = [SAID, SAID, '{"city": "北京", "days": 7}', "True"]
    assert run(server.url, [python("llm"), "-c", LLM], tmp_path) == printed


AI_SDK = """
import { generateObject, generateText, streamText, tool } from "ai";
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { z } from "zod";
const baseURL = process.env.URL, schema = z.object({ city: z.string(), days: z.number().int() });
const compatible = createOpenAICompatible({ name: "glm", baseURL, apiKey: "key", supportsStructuredOutputs: true });
for (const model of [compatible("chatglm2-6b"), createOpenAI({ baseURL, apiKey: "key" })("chatglm2-6b")]) {
  console.log((await generateText({ model, prompt: "x", maxRetries: 0 })).text);
  let text = "";
  for await (const part of streamText({ model, prompt: "x", maxRetries: 0 }).textStream) text += part;
  console.log(text);
  console.log(JSON.stringify((await generateObject({ model, prompt: "x", schema, maxRetries: 0 })).object));
  const tools = { weather: tool({ inputSchema: schema }) };
  const called = await generateText({ model, prompt: "x", tools, toolChoice: "required", maxRetries: 0 });
  console.log(JSON.stringify(called.toolCalls[0].input));
}
try {
  await generateText({ model: createOpenAI({ baseURL, apiKey: "wrong" })("m"), prompt: "x", maxRetries: 0 });
} catch (error) {
  console.log(error.statusCode);
}
process.exit(0);
"""


def test_the_ai_sdk(server: LiveServer, tmp_path: Path) -> None:
    value = '{"city":"北京","days":7}'
    assert run_node(server.url, AI_SDK, "ai", tmp_path) == [*[SAID, SAID, value, value] * 2, "401"]


OPENAI_NODE = """
import OpenAI from "openai";
import { zodFunction, zodResponseFormat } from "openai/helpers/zod";
import { z } from "zod";
const client = new OpenAI({ baseURL: process.env.URL, apiKey: "key", maxRetries: 0 });
const parameters = z.object({ city: z.string(), days: z.number().int() });
const asked = { model: "chatglm2-6b", messages: [{ role: "user", content: "x" }] };
const format = zodResponseFormat(parameters, "city");
const parsed = await client.chat.completions.parse({ ...asked, response_format: format });
console.log(JSON.stringify(parsed.choices[0].message.parsed));
const tools = [zodFunction({ name: "weather", parameters })];
const called = (await client.chat.completions.parse({ ...asked, tools, tool_choice: "required" })).choices[0].message;
console.log(JSON.stringify(called.tool_calls[0].function.parsed_arguments));
const call = called.tool_calls[0].id;
const talk = [...asked.messages, called, { role: "tool", tool_call_id: call, content: "sunny" }];
console.log((await client.chat.completions.create({ ...asked, messages: talk })).choices[0].message.content);
process.exit(0);
"""


def test_openai_node_with_zod(server: LiveServer, tmp_path: Path) -> None:
    value = '{"city":"北京","days":7}'
    assert run_node(server.url, OPENAI_NODE, "openai", tmp_path) == [value, value, SAID]
