"""What one key asked is told to no other: not by `cached_tokens`, not by how much is computed, not after a restart.

A prober guesses how another's prompt goes on. Whether the guess is right must make no difference to what it sees.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from flask.testing import FlaskClient

from glm_edge.api.access.keys import Keys
from glm_edge.api.access.policy import AccessPolicy
from glm_edge.api.app import create_app
from glm_edge.engine.engine import LlamaEngine
from glm_edge.engine.text.prompt_cache import PromptTokenCache
from glm_edge.types import EngineConfig
from support.server.live_server import post
from support.server.server_process import run

A, B = "sk-of-a", "sk-of-b"
CHAT = "/v1/chat/completions"
START = 20  # tokens that all prompts begin with
GUESSES = (100, 200, 400, 800)  # letters


def text(thing: str) -> str:
    """Some 500 tokens, as many for every thing."""
    return "".join(f"{thing} {number} " for number in range(120))


@pytest.fixture
def engine(tiny_f32: Path) -> Iterator[LlamaEngine]:
    engine = LlamaEngine(EngineConfig(tiny_f32, n_threads=1, n_ctx=2048, n_batch=32, kv_type="f32"))
    yield engine
    engine.close()


def ask(client: FlaskClient, key: str, content: str) -> tuple[int, int]:
    """(tokens computed of a prompt, of them cached) as the response says."""
    body = {"messages": [{"role": "user", "content": content}], "temperature": 0, "max_tokens": 1}
    usage = client.post(CHAT, json=body, headers={"API-KEY": key}).get_json()["usage"]
    cached = usage["prompt_tokens_details"]["cached_tokens"]
    return usage["prompt_tokens"] - cached, cached


@pytest.mark.case("N9")
@pytest.mark.parametrize("others", [0, 3], ids=["in the cache", "offloaded"])
def test_a_right_guess_looks_like_a_wrong_one(engine: LlamaEngine, others: int) -> None:
    client = create_app(engine, policy=AccessPolicy(Keys([A, B]))).test_client()
    ask(client, A, text("apple"))
    for number in range(others):
        ask(client, A, f"{number} is something else")
    seen = {}
    for thing in ("apple", "table"):
        seen[thing] = []
        for letters in GUESSES:
            before = engine.steps
            figures = ask(client, B, text(thing)[:letters])
            seen[thing].append((*figures, (engine.steps - before) // 100))
    for right, wrong in zip(seen["apple"], seen["table"], strict=True):
        assert all(abs(one - other) <= START for one, other in zip(right, wrong, strict=True)), seen
    assert ask(client, A, text("apple") + "and more")[1] > 300  # its own are found
    assert ask(client, B, text("apple"))[1] < 400  # what it asked itself


@pytest.mark.case("N9")
def test_the_spelling_of_another_keys_answer_is_not_taken_over() -> None:
    known = PromptTokenCache()
    known.remember("question answer", [1, 2], b"a")
    known.remember("question answer", [3], b"b")
    assert known.recall("question answer\nnext", b"a") == ([1, 2], "\nnext")
    assert known.recall("question answer\nnext", b"b") == ([3], "\nnext")
    assert known.recall("question answer\nnext") == ([], "question answer\nnext")


@pytest.mark.case("N9")
def test_an_equal_prompt_of_another_key_is_not_waited_for(tiny_f32: Path) -> None:
    """It would be computed once, and the second would have its first token sooner."""
    engine = LlamaEngine(EngineConfig(tiny_f32, n_threads=1, n_ctx=2048, n_batch=32, kv_type="f32", slots=2))
    app = create_app(engine, policy=AccessPolicy(Keys([A, B])))
    body = {"messages": [{"role": "user", "content": text("apple") * 2}], "max_tokens": 1, "stream": True}
    with app.test_client() as first, first.post(CHAT, json=body, headers={"API-KEY": A}) as running:
        computed, cached = ask(app.test_client(), B, text("apple") * 2)
        assert running.status_code == 200
        assert cached < START
        assert computed > 300
    engine.close()


@pytest.mark.case("N9")
@pytest.mark.parametrize("share", [False, True], ids=["", "share-prefixes"])
def test_after_a_restart_a_key_finds_its_own_prefixes_alone(tiny_f32: Path, tmp_path: Path, share: bool) -> None:
    command = ["-m", "glm_edge", "serve", "--model", str(tiny_f32), "--port", "0", "--threads", "1", "--ctx", "2048"]
    command += [f"--api-key={A}", f"--api-key={B}", *(["--share-prefixes"] if share else [])]

    def asked(*keys: str) -> list[int]:
        """Cached tokens of the same prompt by these keys, one after the other, by a server of their own."""
        found = []
        with run(*command, XDG_CACHE_HOME=str(tmp_path)) as server:
            server.said("serving")
            for key in keys:
                body = {"messages": [{"role": "user", "content": text("apple")}], "max_tokens": 1}
                status, _, answer = server.ask(post(body, f"API-KEY: {key}"))
                assert status == 200
                found.append(json.loads(answer)["usage"]["prompt_tokens_details"]["cached_tokens"])
            server.popen.terminate()
            server.popen.wait(60)
        return found

    assert asked(A) == [0]
    of_b, of_a, again = asked(B, A, B)
    assert of_a > 300
    assert again > 300
    assert (of_b > 300) == share
    assert not any(A.encode() in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
