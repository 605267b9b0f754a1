"""Completion of commands, options and models' names, asked for in a real shell where there is one."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from glm_edge.cli import glm_edge, run

SHELLS = {
    "bash": """
COMP_WORDS=({words}); COMP_CWORD={last}; _glm_edge_completion glm-edge; printf '%s\\n' "${{COMPREPLY[@]}}"
""",
    "fish": 'complete --do-complete "{line}"',
}


def offered(shell: str, *words: str, cwd: Path) -> list[str]:
    """What a shell offers for the last word."""
    program = shutil.which("glm-edge", path=str(Path(sys.executable).parent))
    if program is None or shutil.which(shell) is None:
        pytest.skip(f"no {shell} or no glm-edge here")
    code, line = SHELLS[shell], " ".join(["glm-edge", *words])
    ask = code.format(words=" ".join(["glm-edge", *(word or "''" for word in words)]), last=len(words), line=line)
    load = 'eval "$(glm-edge completion bash)"' if shell == "bash" else "glm-edge completion fish | source"
    env = os.environ | {"PATH": f"{Path(program).parent}{os.pathsep}{os.environ['PATH']}", "HOME": str(cwd)}
    command = [shell, *(["--norc"] if shell == "bash" else ["--no-config"]), "-c", f"{load}\n{ask}"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=env, check=False)
    assert done.returncode == 0, done.stderr
    return [line.partition("\t")[0] for line in done.stdout.splitlines() if line]


@pytest.mark.skipif(os.name == "nt", reason="there are other shells")
@pytest.mark.parametrize("shell", ["bash", "fish"])
def test_commands_options_values_and_models_are_offered(shell: str, tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "chatglm2-6b-edge.gguf").touch()
    assert offered(shell, "ser", cwd=tmp_path) == ["serve", "service"]
    assert offered(shell, "serve", "--po", cwd=tmp_path) == ["--port"]
    assert offered(shell, "convert", "--type", "q4_k", cwd=tmp_path) == ["q4_k_m", "q4_k_s"]
    assert offered(shell, "chat", "--model", "ch", cwd=tmp_path) == ["chatglm2-6b-edge"]


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_every_shell_gets_its_script(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(glm_edge, ["completion", shell], prog_name="glm-edge") == 0
    script = capsys.readouterr().out
    assert f"_GLM_EDGE_COMPLETE={shell}_complete" in script
    if shutil.which(shell):
        done = subprocess.run([shell, "-n"], input=script, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
