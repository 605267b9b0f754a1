"""Ctrl-C and SIGTERM while a model loads: noticed at any moment, with the signal's exit code and no traceback."""

import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from glm_edge.cli.load import interruptible
from support.server.live_server import eventually


def has_llama(pid: int) -> bool:
    """Whether a process has loaded llama.cpp; True where that cannot be seen."""
    maps = Path(f"/proc/{pid}/maps")
    return not maps.exists() or "libllama" in maps.read_text("utf-8")


@pytest.mark.skipif(os.name == "nt", reason="signals are another thing on Windows")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["int", "term"])
def test_signal_while_loading_ends_the_command(tiny_f32: Path, number: signal.Signals, code: int) -> None:
    command = [sys.executable, "-m", "glm_edge", "chat", "--model", str(tiny_f32), "--prompt", "a", "--threads", "1"]
    for delay in (0.0, 0.02, 0.05):  # after the library is there: three points of loading
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
            assert eventually(partial(has_llama, child.pid), 60)
            time.sleep(delay)  # no event stands for a moment within the library's load
            child.send_signal(number)
            _, err = child.communicate(timeout=60)
        assert child.returncode == code, err
        assert "Traceback" not in err


@pytest.mark.skipif(os.name == "nt", reason="signals are another thing on Windows")
def test_ctrl_c_within_code_made_of_a_string_ends_with_the_same_code(tmp_path: Path) -> None:
    """As every dataclass is made, so an import may be hit there; Python notes it, and `-m` then ends by the signal."""
    (tmp_path / "program.py").write_text(
        "import sys, click\n"
        "from glm_edge.cli.run import run\n"
        "command = click.Command('x', callback=lambda: exec('import signal; signal.raise_signal(signal.SIGINT)'))\n"
        "sys.exit(run(command, [], prog_name='x'))\n"
    )
    done = subprocess.run([sys.executable, "-m", "program"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (130, "error: interrupted\n")


def test_an_interrupted_load_is_told_to_stop_and_waited_for() -> None:
    seen: list[bool] = []

    def load(progress: object) -> None:
        assert callable(progress)
        signal.raise_signal(signal.SIGINT)
        assert eventually(lambda: not progress(0.5))
        seen.append(progress(0.6))

    with pytest.raises(KeyboardInterrupt):
        interruptible(load)
    assert seen == [False]
