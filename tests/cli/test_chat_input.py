"""What `chat` is given: a text from a pipe and a prompt as an option, thread counts, another model's profile."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from glm_edge.cli.load import profile_key, with_profile
from glm_edge.convert.convert import convert
from glm_edge.system.device import processors
from glm_edge.system.profile import Profile, profile_path, save_profile
from glm_edge.types import EngineConfig


def chat(model: Path, *arguments: str, stdin: str = "") -> tuple[str, str]:
    """(answer, messages), greedy."""
    command = [sys.executable, "-m", "glm_edge", "chat", "--model", str(model), "--no-cache", "--temperature", "0"]
    command += ["--max-tokens", "8", "--ctx", "512", *arguments]
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


@pytest.fixture(scope="module")
def small_gguf(small_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return convert(small_checkpoint, tmp_path_factory.mktemp("small") / "small.gguf", type="f16").path


@pytest.mark.case("N18")
def test_a_text_from_a_pipe_goes_before_the_prompt(tiny_q4_0: Path) -> None:
    both = chat(tiny_q4_0, "--prompt", "Summarize this.", stdin="A long story.\n")
    assert both == chat(tiny_q4_0, "--prompt", "A long story.\n\nSummarize this.")
    assert both == chat(tiny_q4_0, "--prompt", "-", stdin="A long story.\n\nSummarize this.")
    assert both != chat(tiny_q4_0, "--prompt", "Summarize this.")


@pytest.mark.case("N17")
def test_more_threads_than_processors_are_capped_and_said(tiny_q4_0: Path) -> None:
    answer, messages = chat(tiny_q4_0, "--prompt", "a", "--threads", "999")
    assert answer
    assert messages.splitlines()[0].startswith("warning: --threads 999: this machine has ")
    assert f"using {processors().logical}" in messages


@pytest.mark.case("N17")
def test_a_profile_is_used_for_models_of_its_sizes_and_type_alone(
    tiny_q4_0: Path, tiny_f16: Path, small_gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HOME", "XDG_CONFIG_HOME", "LOCALAPPDATA"):
        monkeypatch.setenv(name, str(tmp_path))
    found = [with_profile(EngineConfig(model)).n_batch for model in (tiny_q4_0, small_gguf)]
    assert found == [None, None]
    save_profile(profile_path(), Profile(1, 1, 64, flash_attention=False, runtime="llama"), profile_key(tiny_q4_0))
    found = [with_profile(EngineConfig(model)).n_batch for model in (tiny_q4_0, tiny_f16, small_gguf)]
    assert found == [64, None, None]
