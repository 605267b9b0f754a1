"""Clients of other people's, unmodified, against a running server: a chat, a stream and an error each.

OpenAI's Python client has more in test_openai_client.py. Those that are not installed are skipped.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest
from fake_engine import FakeEngine
from live_server import LiveServer

from glm_edge.api.gate import Gate
from glm_edge.api.keys import Keys

MODEL = "chatglm2-6b"
SAID = "你好，世界😀"


@pytest.fixture(scope="module")
def server() -> Iterator[LiveServer]:
    with LiveServer(FakeEngine(["你好", "，", "世界", "😀"]), gate=Gate(Keys(["key"]))) as server:
        yield server


def test_openai_python_goes_on_with_a_text(server: LiveServer) -> None:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="key", max_retries=0) as client:
        answer = client.completions.create(model=MODEL, prompt="x", max_tokens=9, logprobs=1, n=2)
        assert [choice.text for choice in answer.choices] == [SAID, SAID]
        stream = client.completions.create(model=MODEL, prompt="x", max_tokens=9, stream=True)
        assert "".join(chunk.choices[0].text for chunk in stream) == SAID
        with pytest.raises(openai.BadRequestError) as error:
            client.completions.create(model=MODEL, prompt="x", echo=True)
        assert error.value.param == "echo"


NODE = """
import OpenAI from "openai";
const options = { baseURL: process.env.URL + "/v1", maxRetries: 0 };
const client = new OpenAI({ ...options, apiKey: "key" });
const asked = { model: "chatglm2-6b", messages: [{ role: "user", content: "你好" }] };
console.log((await client.chat.completions.create(asked)).choices[0].message.content);
let text = "";
for await (const chunk of await client.chat.completions.create({ ...asked, stream: true })) {
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
    """GLM_EDGE_NODE_MODULES names a node_modules folder with openai in it."""
    modules = os.environ.get("GLM_EDGE_NODE_MODULES")
    if shutil.which("node") is None or modules is None:
        pytest.skip("node or GLM_EDGE_NODE_MODULES (a folder with npm's openai) is not there")
    (tmp_path / "node_modules").symlink_to(Path(modules).resolve())
    (tmp_path / "chat.mjs").write_text(NODE, "utf-8")
    done = subprocess.run(
        ["node", "chat.mjs"],
        cwd=tmp_path,
        env={**os.environ, "URL": server.url},
        capture_output=True,
        encoding="utf-8",
        timeout=120,
        check=False,
    )
    assert done.stdout.split("\n") == [SAID, SAID, "true invalid_api_key", ""], done.stderr
