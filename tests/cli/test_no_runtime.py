"""Commands where llama.cpp is missing or cannot be loaded: one line that says what to do; doctor still looks."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

MISSING = "import sys; sys.modules['llama_cpp'] = None"
COMMANDS = ["chat --prompt hi", "serve --port 0", "tokenize --model FILE", "bench --bare --model FILE"]


@pytest.fixture(params=["no llama_cpp", "no library", "no ELF file"])
def broken(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, dict[str, str]]:
    """Code to run first, and the environment, of an installation whose runtime does not work."""
    folder = tmp_path / "lib"
    folder.mkdir()
    if request.param == "no llama_cpp":
        site = tmp_path / "site"
        site.mkdir()
        (site / "sitecustomize.py").write_text(MISSING)  # of the processes that it starts, too
        return MISSING, {"PYTHONPATH": str(site)}
    if request.param == "no ELF file":  # what a system says of a library whose own libraries are missing, too
        for name in ("libllama.so", "libllama.dylib", "llama.dll"):
            (folder / name).write_bytes(b"no library")
    return "", {"LLAMA_CPP_LIB_PATH": str(folder)}


def call(broken: tuple[str, dict[str, str]], tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    first, environment = broken
    code = f"{first}\nimport sys; from glm_edge.cli import main; sys.argv[0] = 'glm-edge'; main()"
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env={**os.environ, "XDG_DATA_HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path), **environment},
        capture_output=True,
        encoding="utf-8",
        check=False,
    )


@pytest.mark.case("C4")
@pytest.mark.parametrize("command", COMMANDS, ids=[command.split()[0] for command in COMMANDS])
def test_a_command_ends_with_5_and_says_what_to_do(
    broken: tuple[str, dict[str, str]], command: str, tiny_f32: Path, tmp_path: Path
) -> None:
    arguments = command.replace("FILE", str(tiny_f32)).split()
    if "--model" not in arguments:
        arguments += ["--model", str(tiny_f32)]
    done = call(broken, tmp_path, *arguments)
    assert done.returncode == 5, done.stderr
    assert "Traceback" not in done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith("error: llama-cpp-python ")
    assert "pip install" in last


@pytest.mark.case("C4")
def test_doctor_looks_at_the_rest_of_the_machine(
    broken: tuple[str, dict[str, str]], tiny_f32: Path, tmp_path: Path
) -> None:
    done = call(broken, tmp_path, "doctor", "--model", str(tiny_f32), "--json")
    assert done.returncode == 1, done.stderr
    findings = {finding["topic"]: finding for finding in json.loads(done.stdout)["findings"]}
    assert findings["runtime"]["level"] == "problem"
    assert "pip install" in findings["runtime"]["todo"]
    assert {"processor", "memory"} <= set(findings)


@pytest.mark.case("C4")
@pytest.mark.skipif(sys.platform != "linux" or platform.machine() != "x86_64", reason="elsewhere it says that")
def test_without_ik_llama_cpp_a_command_that_asks_for_it_ends_with_5(tiny_f32: Path, tmp_path: Path) -> None:
    missing = "import importlib.util as u; f = u.find_spec"
    missing += "; u.find_spec = lambda name, *more: None if name == 'ik_llama_cpp' else f(name, *more)"
    arguments = ["chat", "--runtime", "ik", "--prompt", "hi", "--model", str(tiny_f32)]
    done = call((missing, {}), tmp_path, *arguments)
    assert done.returncode == 5, done.stderr
    assert done.stderr.splitlines()[-1] == "error: ik_llama.cpp is not installed; pip install 'glm-edge[ik]'"
