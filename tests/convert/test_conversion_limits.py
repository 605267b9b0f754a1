"""A conversion with little memory, from a source that changes, or from one whose files tell nothing of their damage."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from glm_edge.cli import glm_edge, run
from glm_edge.convert.convert import convert
from glm_edge.errors import IntegrityError
from support.checkpoints.safetensors_writer import write_safetensors
from support.checkpoints.small_checkpoint import CONFIG, random_weights, write_checkpoint

# Forks children that convert with so many megabytes more than the process has mapped, as `ulimit -v` would allow.
LADDER = """
import json, os, resource, signal, sys
from pathlib import Path
from glm_edge.cli import glm_edge, run
from glm_edge.convert import convert
from glm_edge.model import ggml

ggml.block_size("q4_0")  # loads the library
checkpoint, out = sys.argv[1:]
found = []
for megabytes in map(int, json.loads(sys.stdin.read())):
    child = os.fork()
    if not child:
        signal.alarm(60)  # a thread that waits for ever ends its process, not the tests
        mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (mapped + (megabytes << 20), resource.RLIM_INFINITY))
        os._exit(run(glm_edge, ["convert", checkpoint, "--out", out, "--threads", "2"], prog_name="glm-edge"))
    _, status, usage = os.wait4(child, 0)
    found.append([megabytes, os.waitstatus_to_exitcode(status), os.listdir(os.path.dirname(out)), usage.ru_maxrss])
    if os.path.exists(out):
        os.unlink(out)
print(json.dumps(found))
"""


@pytest.mark.case("V9")
@pytest.mark.skipif(sys.platform != "linux", reason="limits the address space, and reads /proc")
def test_with_too_little_memory_a_conversion_is_exit_7_and_with_enough_it_is_done(
    small_checkpoint: Path, tmp_path: Path
) -> None:
    (tmp_path / "out").mkdir()
    out = tmp_path / "out" / "x.gguf"
    limits = [2, 6, 12, 16, 20, 24, 32, 48, 64, 100, 140, 150, 160, 200, 512]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", LADDER, str(small_checkpoint), str(out)],
        input=json.dumps(limits),
        capture_output=True,
        text=True,
        env=os.environ | {"OPENBLAS_NUM_THREADS": "1"},  # no threads at the time of a fork
        check=True,
    )
    assert "Traceback" not in done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    for megabytes, code, files, resident in found:
        assert (code, files) in ((0, [out.name]), (7, [])), megabytes
        assert resident < 200_000  # KiB, Python and libraries included
    assert (found[0][1], found[-1][1]) == (7, 0)


def _touched(path: Path) -> None:
    os.utime(path, ns=(1, 1))


def _replaced(path: Path) -> None:
    shutil.copyfile(path, path.with_suffix(".new"))
    os.replace(path.with_suffix(".new"), path)


def _rewritten(path: Path) -> None:
    path.write_bytes(path.read_bytes()[::-1])


def _cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def _longer(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"x")


CHANGES = {"touched": _touched, "replaced": _replaced, "rewritten": _rewritten, "cut": _cut, "longer": _longer}


@pytest.mark.case("V11")
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.safetensors", "tokenizer.model", "config.json"])
def test_a_source_that_changes_meanwhile_is_exit_4(tmp_path: Path, name: str, change: Callable[[Path], None]) -> None:
    checkpoint = write_checkpoint(tmp_path / "model")
    if name.endswith(".safetensors"):
        (checkpoint / "pytorch_model.bin").unlink()
        write_safetensors(checkpoint / name, random_weights())
    changed: list[Path] = []

    def meanwhile(done: int, total: int) -> None:
        if not changed:
            changed.append(checkpoint / name)
            change(checkpoint / name)

    (tmp_path / "out").mkdir()
    with pytest.raises(IntegrityError, match=f"{name}: changed while it was read") as caught:
        convert(checkpoint, tmp_path / "out" / "x.gguf", threads=1, progress=meanwhile)
    assert caught.value.exit_code == 4
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.case("M9")
def test_safetensors_have_no_checksums_and_the_command_says_what_to_compare(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = write_checkpoint(tmp_path / "model")
    arguments = ["convert", str(checkpoint), "--out", str(tmp_path / "x.gguf"), "--force", "--threads", "1"]
    assert run(glm_edge, arguments, prog_name="glm-edge") == 0
    assert "SHA-256" not in capsys.readouterr().err  # a shard has checksums, which were compared
    (checkpoint / "pytorch_model.bin").unlink()
    write_safetensors(checkpoint / "model.safetensors", random_weights())
    assert run(glm_edge, arguments, prog_name="glm-edge") == 0
    (said,) = (line for line in capsys.readouterr().err.splitlines() if "SHA-256" in line)
    assert str(tmp_path / "x.gguf") in said


@pytest.mark.case("M20")
def test_a_conversion_runs_no_code_of_the_checkpoint_and_asks_no_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_network(*_: Any) -> None:
        raise AssertionError("a connection was attempted")

    remote = {"auto_map": {"AutoConfig": "someone/else--configuration_chatglm.ChatGLMConfig"}}
    checkpoint = write_checkpoint(tmp_path / "model", config=CONFIG | remote)
    modules = ("configuration_chatglm", "modeling_chatglm", "tokenization_chatglm", "sitecustomize", "conftest")
    for name in modules:
        (checkpoint / f"{name}.py").write_text(f"open({str(tmp_path / 'canary')!r}, 'w')")
    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, no_network)
    monkeypatch.setattr(socket, "getaddrinfo", no_network)
    monkeypatch.chdir(checkpoint)
    before = set(sys.modules)
    convert(Path(), tmp_path / "x.gguf", threads=1)
    assert not (tmp_path / "canary").exists()
    assert not {name.rpartition(".")[2] for name in set(sys.modules) - before} & set(modules)
