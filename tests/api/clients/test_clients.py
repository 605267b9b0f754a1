"""Clients of other people's, unmodified, against a running server: a chat, a stream and an error each.

The stream waits for its first text, so that each of them meets the comments that say how far the request is. OpenAI's
Python client has more in test_openai_client.py. The others are not installed with the tests: GLM_EDGE_NODE_MODULES
names a node_modules folder with openai in it, GLM_EDGE_CLIENTS_PYTHON a Python with langchain-openai and litellm (which
needs an older openai than the newest). Without them, their tests skip.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest

from glm_edge.api.access.keys import Keys
from glm_edge.api.access.policy import AccessPolicy
from glm_edge.generation import Progress
from glm_edge.types import Request
from support.engines.fake_engine import FakeEngine, Step
from support.server.live_server import LiveServer

MODEL = "chatglm2-6b"
SAID = "你好，世界😀"


def script(request: Request) -> list[Step]:
    said: list[Step] = ["你好", "，", "世界", "😀"]
    slow = bool(request.messages) and request.messages[-1].content == "slow"
    return [Progress(done=5, total=9), 2.0, *said] if slow else said


@pytest.fixture(scope="module")
def server() -> Iterator[LiveServer]:
    with LiveServer(FakeEngine(script), policy=AccessPolicy(Keys(["key"])), ping_s=0.6) as server:
        yield server


def run(server: LiveServer, command: list[str], folder: Path) -> list[str]:
    """The lines that a client's program prints, with the server's address in URL."""
    done = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, "URL": f"{server.url}/v1", "PYTHONUTF8": "1", "LITELLM_LOCAL_MODEL_COST_MAP": "True"},
        capture_output=True,
        encoding="utf-8",
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_openai_python_goes_on_with_a_text(server: LiveServer) -> None:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="key", max_retries=0) as client:
        answer = client.completions.create(model=MODEL, prompt="x", max_tokens=9, logprobs=1, n=2)
        assert [choice.text for choice in answer.choices] == [SAID, SAID]
        stream = client.completions.create(model=MODEL, prompt="x", max_tokens=9, stream=True)
        assert "".join(chunk.choices[0].text for chunk in stream) == SAID
        with pytest.raises(openai.BadRequestError) as error:
            client.completions.create(model=MODEL, prompt="x", suffix="y")
        assert error.value.param == "suffix"


LANGCHAIN = """
import os, openai
from langchain_openai import ChatOpenAI
options = {"base_url": os.environ["URL"], "model": "chatglm2-6b", "max_retries": 0}
chat = ChatOpenAI(api_key="key", **options)
answer = chat.invoke([("system", "s"), ("human", "你好")])
print(answer.content, answer.usage_metadata["output_tokens"])
print("".join(chunk.content for chunk in chat.stream([("human", "slow")])))
try:
    ChatOpenAI(api_key="wrong", **options).invoke("你好")
except openai.AuthenticationError as error:
    print(error.code)
"""

LITELLM = """
import os, litellm
litellm.suppress_debug_info = True  # it would print advice
options = {"model": "openai/chatglm2-6b", "api_base": os.environ["URL"], "num_retries": 0}
ask = lambda text: [{"role": "user", "content": text}]
answer = litellm.completion(api_key="key", messages=ask("你好"), **options)
print(answer.choices[0].message.content, answer.usage.completion_tokens)
stream = litellm.completion(api_key="key", messages=ask("slow"), stream=True, **options)
print("".join(chunk.choices[0].delta.content or "" for chunk in stream))
try:
    litellm.completion(api_key="wrong", messages=ask("你好"), **options)
except litellm.AuthenticationError as error:
    print("invalid_api_key")
for text, model, kind in (("x" * 9000, options["model"], litellm.ContextWindowExceededError),
                          ("x", "openai/gpt-4", litellm.NotFoundError)):
    try:
        litellm.completion(api_key="key", messages=ask(text), **{**options, "model": model})
    except kind:
        print(kind.__name__)
    except Exception as error:
        print(repr(error))
"""


@pytest.mark.parametrize(
    ("program", "errors"),
    [
        pytest.param(LANGCHAIN, ["invalid_api_key"], id="langchain-openai"),
        pytest.param(LITELLM, ["invalid_api_key", "ContextWindowExceededError", "NotFoundError"], id="litellm"),
    ],
)
def test_a_python_client(server: LiveServer, tmp_path: Path, program: str, errors: list[str]) -> None:
    python = os.environ.get("GLM_EDGE_CLIENTS_PYTHON")
    if python is None:
        pytest.skip("GLM_EDGE_CLIENTS_PYTHON (a Python with langchain-openai and litellm) is not set")
    assert run(server, [python, "-c", program], tmp_path) == [f"{SAID} 4", SAID, *errors]


NODE = """
import OpenAI from "openai";
const options = { baseURL: process.env.URL, maxRetries: 0 };
const client = new OpenAI({ ...options, apiKey: "key" });
const asked = { model: "chatglm2-6b", messages: [{ role: "user", content: "你好" }] };
const slow = { ...asked, messages: [{ role: "user", content: "slow" }] };
console.log((await client.chat.completions.create(asked)).choices[0].message.content);
let text = "";
for await (const chunk of await client.chat.completions.create({ ...slow, stream: true })) {
  text += chunk.choices[0].delta.content ?? "";
}
console.log(text);
try {
  await new OpenAI({ ...options, apiKey: "wrong" }).chat.completions.create(asked);
} catch (error) {
  console.log(error instanceof OpenAI.AuthenticationError, error.code);
}
process.exit(0);  // it would wait for its idle connections
"""


def test_openai_node(server: LiveServer, tmp_path: Path) -> None:
    modules = os.environ.get("GLM_EDGE_NODE_MODULES")
    if shutil.which("node") is None or modules is None:
        pytest.skip("node or GLM_EDGE_NODE_MODULES (a folder with npm's openai) is not there")
    (tmp_path / "node_modules").symlink_to(Path(modules).resolve())
    (tmp_path / "chat.mjs").write_text(NODE, "utf-8")
    assert run(server, ["node", "chat.mjs"], tmp_path) == [SAID, SAID, "true invalid_api_key"]
