"""The examples of the API's README run as they stand there, against a running server."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace

import pytest

from glm_edge.api.access.keys import Keys
from glm_edge.api.access.policy import AccessPolicy
from support.engines.fake_engine import FakeEngine
from support.paths import PROJECT
from support.server.live_server import LiveServer

README = PROJECT / "glm_edge" / "api" / "README.md"
EXAMPLES = re.findall(r"```(sh|python|js)\n(.*?)```", README.read_text("utf-8"), re.DOTALL)
COMMANDS = {
    "sh": ["sh", "-e", "-c"],
    "python": [sys.executable, "-c"],
    "js": ["node", "--input-type=module", "-e"],
}
NEEDS = {"sh": "curl", "python": sys.executable, "js": "node"}


@pytest.fixture(scope="module")
def server() -> Iterator[LiveServer]:
    engine = FakeEngine(["你好", "！"])
    engine.info = replace(engine.info, id="some-other-model")  # whatever model is served, the examples hold
    with LiveServer(engine, policy=AccessPolicy(Keys(["sk-example"]))) as server:
        yield server


def test_there_are_examples_for_curl_python_and_node() -> None:
    assert {language for language, _ in EXAMPLES} == set(COMMANDS)


@pytest.mark.parametrize(
    ("language", "code"), EXAMPLES, ids=[f"{language}-{n}" for n, (language, _) in enumerate(EXAMPLES)]
)
def test_an_example_runs_and_prints_the_answer(server: LiveServer, language: str, code: str) -> None:
    if shutil.which(NEEDS[language]) is None:
        pytest.skip(f"{NEEDS[language]} is not installed")
    assert "http://127.0.0.1:8000" in code
    done = subprocess.run(
        [*COMMANDS[language], code.replace("http://127.0.0.1:8000", server.url)],
        capture_output=True,
        encoding="utf-8",
        env={**os.environ, "PYTHONUTF8": "1"},
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "你好" in done.stdout
    assert done.stdout.count("！") >= 1
    assert "error" not in done.stdout
