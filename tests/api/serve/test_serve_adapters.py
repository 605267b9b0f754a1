"""`glm-edge serve --adapter`: clients choose adapters by name, and SIGHUP reads their files again."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from glm_edge.convert.adapter import convert_adapter
from support.checkpoints.tuned_checkpoint import random_encoder, write_tuned
from support.paths import PROJECT
from support.server.live_server import BODY, get, post
from support.server.server_process import Server, run

DEMO = PROJECT / "models" / "demo"
QUESTION = {**BODY, "temperature": 0, "max_tokens": 12, "messages": [{"role": "user", "content": "再说一遍。" * 30}]}


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapters")
    config = json.loads((DEMO / "config.json").read_text("utf-8"))
    for n in range(3):
        source = write_tuned(folder / f"source-{n}", random_encoder(config, 8, seed=n))
        convert_adapter(source, DEMO, folder / f"{n}.gguf")
    return folder


def says(server: Server, model: str | None) -> str:
    status, _, body = server.ask(post(QUESTION if model is None else {**QUESTION, "model": model}))
    assert status == 200, body
    answer = json.loads(body)
    assert answer["model"] == model or model is None
    return str(answer["choices"][0]["message"]["content"])


def models(server: Server) -> list[tuple[str, str | None]]:
    listed = json.loads(server.ask(get("/v1/models"))[2])["data"]
    return [(model["id"], model.get("parent")) for model in listed]


@pytest.mark.skipif(os.name != "posix", reason="sends SIGHUP")
@pytest.mark.parametrize("place", [(), ("--in-process",)], ids=["worker", "in-process"])
def test_clients_choose_and_a_hangup_reads_again(adapters: Path, tmp_path: Path, place: tuple[str, ...]) -> None:
    folder = tmp_path / "adapters"
    folder.mkdir()
    for n in range(2):
        (folder / f"a{n}.gguf").write_bytes((adapters / f"{n}.gguf").read_bytes())
    named = f"named={adapters / '2.gguf'}"
    command = ("-m", "glm_edge", "serve", "--port", "0", "--no-cache", "--adapter", str(folder), "--adapter", named)
    with run(*command, *place) as server:
        server.said("serving")
        base = models(server)[0][0]
        assert models(server)[1:] == [("a0", base), ("a1", base), ("named", base)]
        said = {name: says(server, name) for name in (None, "a0", "a1", "named")}
        assert len(set(said.values())) == 4
        status, _, body = server.ask(post({**QUESTION, "model": "a9"}))
        assert (status, json.loads(body)["error"]["code"]) == (404, "model_not_found")
        assert '"a0"' in json.loads(body)["error"]["message"]

        whole = (folder / "a1.gguf").read_bytes()
        (folder / "a1.gguf").write_bytes(whole[:-1])
        server.popen.send_signal(signal.SIGHUP)
        server.said("those that are loaded stay: .*a1.gguf")
        assert says(server, "a1") == said["a1"]

        (folder / "a1.gguf").unlink()
        (folder / "new.gguf").write_bytes(whole)
        server.popen.send_signal(signal.SIGHUP)
        server.said("adapters: a0, new, named")
        assert models(server)[1:] == [("a0", base), ("new", base), ("named", base)]
        assert says(server, "new") == said["a1"]
        assert server.ask(post({**QUESTION, "model": "a1"}))[0] == 404


@pytest.mark.skipif(os.name != "posix", reason="sends SIGKILL")
def test_an_engine_that_starts_again_leaves_a_broken_adapter_out(adapters: Path, tmp_path: Path) -> None:
    file = tmp_path / "a.gguf"
    file.write_bytes((adapters / "0.gguf").read_bytes())
    command = ("-m", "glm_edge", "serve", "--port", "0", "--no-cache", "--adapter", f"a={file}")
    with run(*command, "--adapter", f"b={adapters / '1.gguf'}") as server:
        server.said("serving")
        before = says(server, "b")
        file.write_bytes(b"GGUF")
        server.child.kill()
        server.said("warning: an adapter is left out: .*a.gguf")
        server.said("the engine runs again")
        assert says(server, "b") == before
        assert server.ask(post({**QUESTION, "model": "a"}))[0] == 404


@pytest.mark.parametrize("value", ["a", "=x", "a=", "a b=x", "/=x"])
def test_what_is_no_adapter_is_refused(value: str) -> None:
    from click.testing import CliRunner

    from glm_edge.cli import glm_edge

    done = CliRunner().invoke(glm_edge, ["serve", "--adapter", value])
    assert "--adapter takes NAME=FILE" in str(done.exception)
