"""Computed prefixes under a real model: answers stay the same after a restart, and only what is new is computed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from glm_edge.engine.engine import LlamaEngine
from glm_edge.engine.prefix_cache.store import BLOCK_TOKENS
from glm_edge.types import EngineConfig, Message, Request, RuntimeName, SamplingParams, Stats
from support.engines.prefix_store import files

LONG = "word " * 300


def answer(model: Path, cache: Path | None, question: str, runtime: RuntimeName = "llama") -> tuple[str, Stats]:
    config = EngineConfig(model, runtime=runtime, n_threads=1, cache_folder=cache)
    engine = LlamaEngine(replace(config, kv_type="f32") if runtime == "llama" else config)
    request = Request((Message("user", question),), SamplingParams(0), 12)
    chunks = list(engine.submit(request))
    engine.close()
    stats = chunks[-1].stats
    assert stats is not None
    return "".join(chunk.text for chunk in chunks), stats


def test_after_a_restart_the_prefix_is_read_and_the_answer_is_the_same(
    tiny_f32: Path, tmp_path: Path, runtime_name: RuntimeName
) -> None:
    answer(tiny_f32, tmp_path, LONG + "first question", runtime_name)
    text, stats = answer(tiny_f32, tmp_path, LONG + "another one", runtime_name)
    assert stats.cached_tokens > 300
    assert text == answer(tiny_f32, None, LONG + "another one", runtime_name)[0]


def test_a_state_of_another_runtime_is_not_read(tiny_f32: Path, tmp_path: Path, runtime_name: RuntimeName) -> None:
    answer(tiny_f32, tmp_path, LONG, "llama")
    cached = answer(tiny_f32, tmp_path, LONG, runtime_name)[1].cached_tokens
    assert (cached > 300) == (runtime_name == "llama")


def test_state_that_does_not_fit_the_model_is_not_read(tiny_f32: Path, tiny_f16: Path, tmp_path: Path) -> None:
    answer(tiny_f32, tmp_path, LONG)
    assert answer(tiny_f16, tmp_path, LONG)[1].cached_tokens == 0


@pytest.mark.parametrize("words", [BLOCK_TOKENS + 50, 2 * BLOCK_TOKENS + 200])
def test_prompt_of_any_length_is_whole_after_a_restart(tiny_f32: Path, tmp_path: Path, words: int) -> None:
    long = "word " * words
    answer(tiny_f32, tmp_path, long + "first question")
    text, stats = answer(tiny_f32, tmp_path, long + "another one")
    assert stats.cached_tokens > words
    assert text == answer(tiny_f32, None, long + "another one")[0]


def test_growing_conversation_writes_only_what_is_new(tiny_f32: Path, tmp_path: Path) -> None:
    engine = LlamaEngine(EngineConfig(tiny_f32, n_threads=1, kv_type="f32", cache_folder=tmp_path))
    talk: tuple[Message, ...] = (Message("user", LONG),)
    sizes: list[dict[Path, int]] = []
    for question in ("and " * 200, "then " * 200, ""):
        text = "".join(chunk.text for chunk in engine.submit(Request(talk, SamplingParams(0), 12)))
        engine.flush()
        sizes.append({path: path.stat().st_size for path in files(tmp_path)})
        talk = (*talk, Message("assistant", text), Message("user", question))
    engine.close()
    assert sizes[0].items() < sizes[1].items() < sizes[2].items()
    assert sum(sizes[2].values()) < 1.2 * sum(sizes[0].values()) * (300 + 200 + 200) / 300


def test_what_many_begin_with_is_written_once_from_the_third_on(tiny_f32: Path, tmp_path: Path) -> None:
    engine = LlamaEngine(EngineConfig(tiny_f32, n_threads=1, kv_type="f32", cache_folder=tmp_path))
    sizes = []
    for i in range(4):
        request = Request((Message("system", "word " * 140), Message("user", f"{i} " * 70)), SamplingParams(0), 1)
        list(engine.submit(request))
        engine.flush()
        sizes.append(sum(path.stat().st_size for path in files(tmp_path)))
    engine.close()
    assert sizes[3] - sizes[2] < 0.7 * sizes[0]


def test_prefix_is_on_disk_before_its_prompt_is_read_to_the_end(tiny_f32: Path, tmp_path: Path) -> None:
    engine = LlamaEngine(EngineConfig(tiny_f32, n_threads=1, n_batch=32, kv_type="f32", cache_folder=tmp_path))
    generation = engine.submit(Request((Message("user", "word " * 1900),), SamplingParams(0), 1))
    seen = False
    while not seen and generation.progress is not None and generation.progress.done < 1800:
        seen = bool(files(tmp_path))
    generation.cancel()
    list(generation)
    engine.close()
    assert seen


def test_conversations_in_turns_are_all_remembered(tiny_f32: Path) -> None:
    engine = LlamaEngine(EngineConfig(tiny_f32, n_threads=1, n_ctx=1024, kv_type="f32"))
    talks = [(Message("user", f"{i} " * 60 + LONG),) for i in range(6)]  # together twice what the cache holds
    for messages in talks:
        list(engine.submit(Request(messages, SamplingParams(0), 3)))
    again = [list(engine.submit(Request(messages, SamplingParams(0), 3)))[-1].stats for messages in talks]
    engine.close()
    assert [stats and stats.prompt_tokens - stats.cached_tokens for stats in again] == [1] * 6
