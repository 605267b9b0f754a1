"""Checks hold however Python was started: without asserts, without UTF-8 mode, with warnings as errors."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from support.checkpoints.small_checkpoint import write_checkpoint
from support.paths import SUPPORT

TESTS = SUPPORT.parent
OPTIONS = {
    "no-asserts": (["-O"], {}),
    "no-docstrings": (["-OO"], {}),
    "no-utf8-mode": ([], {"PYTHONUTF8": "0", "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "utf-8"}),
    "warnings-are-errors": (["-W", "error"], {}),
}

# Every bad body of the tests of the wire format, and what it gets.
BODIES = """
import json, sys
from glm_edge.api.contract import strict_json
from glm_edge.api.contract.chat import parse_chat
from glm_edge.errors import RequestError
from support.server.bad_bodies import BAD as FIELDS, REFUSED as RAW, UNSUPPORTED
ask = {"messages": [{"role": "user", "content": "x"}]}
bodies = [body for body, _ in RAW.values()]
bodies += [json.dumps({**ask, **fields}).encode() for fields, *_ in FIELDS.values()]
bodies += [json.dumps({**ask, name: value}).encode() for name, value in UNSUPPORTED.items()]
said = []
for body in bodies:
    try:
        parse_chat(strict_json.loads(body))
        said.append("taken")
    except RequestError as error:
        said.append([error.param, error.code, str(error)])
json.dump(said, sys.stdout)
"""


def python(options: list[str], environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join(filter(None, [str(TESTS), os.environ.get("PYTHONPATH")]))
    return subprocess.run(
        [sys.executable, *options, *arguments],
        env={**os.environ, **environment, "PYTHONPATH": path},
        capture_output=True,
        encoding="utf-8",
        timeout=120,
        check=False,
    )


@pytest.fixture(scope="module")
def usual() -> str:
    said = python([], {}, "-c", BODIES).stdout
    assert len(json.loads(said)) > 60
    return said


@pytest.mark.case("C6")
@pytest.mark.parametrize(("options", "environment"), OPTIONS.values(), ids=OPTIONS)
def test_every_bad_body_is_refused_in_the_same_words(
    usual: str, options: list[str], environment: dict[str, str]
) -> None:
    done = python(options, environment, "-c", BODIES)
    assert done.returncode == 0, done.stderr
    assert done.stdout == usual
    assert "taken" not in json.loads(usual)


@pytest.mark.case("C6")
@pytest.mark.parametrize(("options", "environment"), OPTIONS.values(), ids=OPTIONS)
def test_the_commands_refuse_the_same(tmp_path: Path, options: list[str], environment: dict[str, str]) -> None:
    checkpoint = write_checkpoint(tmp_path / "模型")
    shard = next(checkpoint.glob("*.bin"))
    shard.write_bytes(shard.read_bytes()[:1000])
    (tmp_path / "x.gguf").write_bytes(b"GGUF\x03" + b"\xff" * 60)
    for code, arguments in (
        (2, ["serve", "--port", "70000"]),
        (2, ["serve", "--host", "0.0.0.0", "--model", str(tmp_path / "x.gguf")]),
        (3, ["verify", str(tmp_path / "x.gguf")]),
        (3, ["convert", str(checkpoint), "--out", str(tmp_path / "y.gguf")]),
    ):
        done = python(options, environment, "-m", "glm_edge", *arguments)
        assert done.returncode == code, done.stderr
        assert len([line for line in done.stderr.splitlines() if line.startswith("error: ")]) == 1, done.stderr
        assert "Traceback" not in done.stderr
    assert not (tmp_path / "y.gguf").exists()


@pytest.mark.case("C3")
@pytest.mark.parametrize("option", ["--help", "--version"])
def test_help_and_version_come_at_once_and_load_nothing_native(option: str) -> None:
    def seconds(*arguments: str) -> float:
        began = time.perf_counter()
        assert python([], {}, *arguments).returncode == 0
        return time.perf_counter() - began

    began_with = min(seconds("-c", "pass") for _ in range(3))
    assert min(seconds("-m", "glm_edge", option) for _ in range(3)) - began_with < 0.5
    loaded = python(["-X", "importtime"], {}, "-m", "glm_edge", option).stderr
    assert "glm_edge.cli" in loaded
    assert not any(name in loaded for name in ("llama_cpp", "numpy", "flask"))
