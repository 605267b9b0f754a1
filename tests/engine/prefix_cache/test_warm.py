"""Prompts computed beforehand and shipped beside a model: found by an engine that never computed them."""

import json
import shutil
import sys
from pathlib import Path

import pytest

from glm_edge.cli import glm_edge
from glm_edge.cli.run import run
from glm_edge.engine.engine import LlamaEngine
from glm_edge.engine.prefix_cache.store import Store
from glm_edge.types import EngineConfig, Message, Request, SamplingParams
from support.engines.prefix_store import IDENTITY, A, B, loaded, put

SYSTEM = "You answer in verse. " * 40


@pytest.fixture
def model(tiny_f32: Path, tmp_path: Path) -> Path:
    return Path(shutil.copyfile(tiny_f32, tmp_path / "model.gguf"))


def warm(model: Path, lines: str) -> int:
    prompts = model.with_name("prompts.jsonl")
    prompts.write_text(lines, "utf-8")
    command = ["warm", "--model", str(model), "--prompts", str(prompts), "--threads", "1"]
    return run(glm_edge, command, prog_name="glm-edge")


def test_system_text_is_ready_for_every_conversation(model: Path, tmp_path: Path) -> None:
    assert warm(model, json.dumps({"system": SYSTEM})) == 0
    engine = LlamaEngine(EngineConfig(model, n_threads=1, cache_folder=tmp_path / "elsewhere"))
    messages = (Message("system", SYSTEM), Message("user", "hello"))
    stats = list(engine.submit(Request(messages, SamplingParams(0), 4)))[-1].stats
    engine.close()
    assert stats is not None
    assert stats.prompt_tokens - stats.cached_tokens < 12


def test_every_line_is_kept_but_for_short_ones_which_are_named(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    talk = [{"role": "user", "content": SYSTEM[::-1]}]
    lines = [json.dumps({"system": SYSTEM}), "", json.dumps({"system": "short"}), json.dumps({"messages": talk})]
    assert warm(model, "\n".join(lines)) == 0
    out, err = capsys.readouterr()
    assert out.startswith(f"{model}.prefixes: 2 of 3 prompts saved; ")
    assert "prompts.jsonl: line 3 has 15 tokens, too few to be saved" in err


def test_what_is_shipped_may_be_read_by_all_and_is_used_without_a_cache_too(model: Path) -> None:
    assert warm(model, json.dumps({"system": SYSTEM})) == 0
    folder = model.with_name("model.gguf.prefixes")
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o644}
    assert folder.stat().st_mode & 0o777 == 0o755
    engine = LlamaEngine(EngineConfig(model, n_threads=1))
    messages = (Message("system", SYSTEM), Message("user", "hello"))
    stats = list(engine.submit(Request(messages, SamplingParams(0), 4)))[-1].stats
    engine.close()
    assert stats is not None
    assert stats.prompt_tokens - stats.cached_tokens < 12


def test_stderr_that_was_closed_before_the_start_changes_nothing(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    assert warm(model, json.dumps({"system": SYSTEM})) == 0
    assert len(list(model.with_name("model.gguf.prefixes").glob("*.prefix"))) == 1


def test_file_without_prompts_is_refused(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert warm(model, "\n\n") == 3
    assert "has no prompts" in capsys.readouterr().err


@pytest.mark.parametrize(
    "line", ["nonsense", "[]", "{}", '{"messages": []}', '{"messages": [{"role": "x", "content": "y"}]}', "[" * 99999]
)
def test_line_that_is_no_prompt_is_named(model: Path, capsys: pytest.CaptureFixture[str], line: str) -> None:
    assert warm(model, line) == 3
    assert "line 1" in capsys.readouterr().err


def test_what_is_shipped_is_used_on_every_processor_and_what_one_computed_is_not(tmp_path: Path) -> None:
    model = tmp_path / "model.gguf"
    model.touch()
    own = tmp_path / "own"

    def opened(folder: Path | None, kernels: bytes) -> Store:
        return Store(folder, IDENTITY, own=kernels * 32, model=model)

    maker = opened(model.with_name("model.gguf.prefixes"), b"x")
    put(maker, A)
    maker.close()
    elsewhere = opened(own, b"a")
    put(elsewhere, A, B)  # continues what was shipped
    elsewhere.close()
    shipped, computed = (b"state 0", len(A)), (b"state 1", len(A + B))
    assert loaded(opened(own, b"a"), A + B) == [shipped, computed]
    assert loaded(opened(own, b"x"), A + B) == [shipped]
    assert loaded(opened(None, b"a"), A + B) == [shipped]
