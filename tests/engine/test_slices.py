"""How much of a waiting prompt goes into a batch beside answers being written: what the measured speed affords."""

from __future__ import annotations

from pathlib import Path

import pytest

from glm_edge.engine.engine import LlamaEngine
from glm_edge.engine.latency import LatencyModel
from glm_edge.types import EngineConfig, Message, Request, SamplingParams


@pytest.mark.parametrize("writing", [1, 4, 8])
@pytest.mark.parametrize("speed", [1000, 23, 13, 8, 4], ids=lambda n: f"{n} tokens a second")
def test_a_slice_takes_a_second_at_the_measured_speed_whoever_writes(speed: int, writing: int) -> None:
    latency = LatencyModel()
    latency.measure_prompt(512, 512 / speed)
    n = latency.prompt_tokens(writing, 512)
    # a token of an answer costs at most about twice a prompt's; 2 s is what a reader may have to wait
    assert (n + 2) / speed < 2
    assert n == min(512 - writing, max(1, speed - (speed + writing) % 4))  # in rows of 4, all together


def test_slices_shrink_as_a_context_grows_and_batches_take_longer() -> None:
    latency, sizes = LatencyModel(), []
    for speed in (100, 80, 60, 40, 20, 20, 20, 20, 20, 20):
        latency.measure_prompt(64, 64 / speed)
        sizes.append(latency.prompt_tokens(1, 512))
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] == 99  # and the answer's token
    assert sizes[-1] <= 24


def test_alone_a_prompt_takes_the_whole_batch() -> None:
    assert LatencyModel().prompt_tokens(0, 512) == 512


def test_a_running_answer_goes_on_while_a_long_prompt_is_read(tiny_f32: Path) -> None:
    engine = LlamaEngine(EngineConfig(tiny_f32, n_threads=1, n_batch=64, slots=2))
    running = engine.submit(Request((Message("user", "go on"),), SamplingParams(1.2, seed=1), 400))
    assert running.get(timeout=10) is not None
    long = engine.submit(Request((Message("user", "water " * 1300),), SamplingParams(0), 1))
    arrived = list(long)[-1].stats
    running.cancel()
    last = list(running)[-1].stats
    engine.close()
    assert arrived is not None
    assert last is not None
    assert last.completion_tokens > arrived.prompt_tokens / 64  # one in each batch that read a part of the prompt
