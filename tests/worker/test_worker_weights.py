"""Weights that change under a running engine: it is noticed, the engine is started again, the file is refused."""

from __future__ import annotations

import shutil
import struct
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from glm_edge.engine.engine import LlamaEngine
from glm_edge.errors import EngineError, IntegrityError
from glm_edge.model.gguf import read_gguf
from glm_edge.types import EngineConfig, SamplingParams
from support.engines import crashing_engines as crashing
from support.engines.engine_requests import ask, failure, text, worker
from support.server.live_server import BODY, PATIENCE, LiveServer, eventually, get, post

pytestmark = pytest.mark.case("N19")

NAN = struct.pack("<f", float("nan"))


@pytest.fixture
def mapped(tiny_f32: Path, tmp_path: Path) -> EngineConfig:
    """An engine that maps a file of its own."""
    model = tmp_path / "model.gguf"
    shutil.copyfile(tiny_f32, model)
    return EngineConfig(model, n_threads=1, n_ctx=256, kv_type="f32", slots=2, load_mode="mmap")


def spoil(model: Path) -> None:
    """Overwrite the weights in place; whoever has the file mapped computes with that."""
    start = read_gguf(model).data_offset
    with model.open("r+b") as file:
        file.seek(start)
        file.write(NAN * ((model.stat().st_size - start) // 4))


def test_an_engine_whose_weights_are_no_numbers_any_more_says_so_and_ends(mapped: EngineConfig) -> None:
    engine = LlamaEngine(mapped)
    assert text(engine.submit(ask("hi")))
    spoil(mapped.model)
    assert isinstance(failure(engine.submit(ask("and now?"))), IntegrityError)
    assert isinstance(engine.failure, IntegrityError)
    assert engine.ended
    assert not engine.ready
    engine.close()


@pytest.mark.filterwarnings("ignore:overflow encountered")
def test_logits_that_are_no_numbers_for_one_answer_alone_cost_that_answer(mapped: EngineConfig) -> None:
    engine = LlamaEngine(mapped)
    endless = SamplingParams(1.0, seed=1, frequency_penalty=-1e38)  # the same token, until its logit overflows
    error = failure(engine.submit(ask("hi", sampling=endless)))
    assert type(error) is EngineError
    assert engine.ready
    assert text(engine.submit(ask("hi")))
    engine.close()


@pytest.mark.case("N12")
@pytest.mark.filterwarnings("ignore:overflow encountered")
def test_a_failed_answer_of_three_is_one_end_and_frees_every_slot_in_the_child(mapped: EngineConfig) -> None:
    endless = SamplingParams(1.0, seed=1, frequency_penalty=-1e38)
    with worker(partial(crashing.real, mapped)) as engine:
        generation = engine.submit(replace(ask("hi", None, endless), n=3))
        assert type(failure(generation)) is EngineError
        both = [engine.submit(ask(f"{n}", None)) for n in range(mapped.slots)]
        for other in both:
            assert other.get(PATIENCE) is not None
        for other in both:
            other.cancel()
            assert list(other)[-1].finish_reason == "cancelled"


def test_spoilt_weights_are_told_by_health_and_refused_after_one_start_until_the_file_is_back(
    mapped: EngineConfig, tiny_f32: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with worker(partial(crashing.real, mapped)) as engine, LiveServer(engine) as server:
        first = engine.pid
        assert server.exchange(post(BODY)).status == 200
        spoil(mapped.model)
        assert server.exchange(post(BODY)).status == 500
        assert eventually(lambda: server.exchange(get("/health")).json == {"status": "failed"}, 60)
        assert eventually(lambda: caplog.text.count("started again") > 1, 60)
        assert engine.pid != first
        health = server.exchange(get("/health"))
        assert (health.status, health.json) == (503, {"status": "failed"})
        assert server.exchange(post(BODY)).code == "model_loading"
        shutil.copyfile(tiny_f32, mapped.model.with_name("again"))
        mapped.model.with_name("again").replace(mapped.model)
        assert eventually(lambda: server.exchange(get("/health")).status == 200, 60)
        assert server.exchange(post(BODY)).status == 200
