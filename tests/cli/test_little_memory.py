"""Under `ulimit -v`: one line and exit 7, or the work is done; nothing that a library prints, aborts or blames."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from glm_edge.cli.load import interruptible
from glm_edge.errors import OutOfMemoryError

LIMITS = [60, 80, 100, 120, 140, 160, 180, 200, 240, 280, 320, 360, 400]  # MB


@pytest.mark.case("N5")
@pytest.mark.skipif(sys.platform != "linux", reason="limits memory with ulimit -v")
@pytest.mark.parametrize("verb", ["serve", "chat", "convert"])
def test_too_few_addresses_are_one_line_and_exit_7(
    verb: str, tiny_q4_0: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    options = {
        "serve": f'--model "{tiny_q4_0}" --port 0 --no-cache',
        "chat": f'--model "{tiny_q4_0}" --no-cache --prompt hi --max-tokens 1 --ctx 256',
        "convert": f'"{tiny_checkpoint}" --out "{tmp_path / "x.gguf"}" --force',
    }
    for limit in LIMITS:
        command = f'exec "{sys.executable}" -m glm_edge {verb} {options[verb]} </dev/null'
        command = f"ulimit -c 0; ulimit -v {limit * 1000}; {command}"
        done = subprocess.run(
            ["sh", "-c", command], capture_output=True, text=True, encoding="utf-8", timeout=60, check=False
        )
        if done.returncode == 0 and verb != "serve":
            continue
        assert done.returncode == 7, (limit, done.stderr)
        assert done.stderr.startswith("error: "), (limit, done.stderr)
        assert done.stderr.count("\n") == 1, (limit, done.stderr)
    assert os.listdir(tmp_path) in ([], ["x.gguf"])


def test_a_load_that_gets_no_thread_is_out_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    with pytest.raises(OutOfMemoryError, match=r"another thread \(load\)"):
        interruptible(lambda progress: progress)
