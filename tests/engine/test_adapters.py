"""Adapters of P-Tuning v2 in the engine, against the oracle that has the official rules: unrotated keys in front,
positions from 0 behind them."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from glm_edge.convert.adapter import convert_adapter
from glm_edge.convert.convert import convert
from glm_edge.engine.engine import LlamaEngine
from glm_edge.errors import ContextLengthError, RequestError, UsageError
from glm_edge.llama.cell_state import cell_state
from glm_edge.llama.context import Batch, Context
from glm_edge.llama.model import Model
from glm_edge.model.adapter import read_adapter
from glm_edge.types import EngineConfig, Message, Request, SamplingParams
from support.checkpoints.tuned_checkpoint import Encoder, random_encoder, write_tuned
from support.engines.oracle import Oracle
from support.paths import PROJECT

DEMO = PROJECT / "models" / "demo"
BOUNDS: tuple[tuple[Literal["f16", "f32"], float], ...] = (("f32", 1e-4), ("f16", 0.01))
N = 9  # cells
IDS = [3, *range(300, 340)]


@pytest.fixture(scope="module", params=["tiny", "demo"])
def checkpoint(request: pytest.FixtureRequest, tiny_checkpoint: Path) -> Path:
    """One with the real vocabulary's size, and the demo model."""
    return tiny_checkpoint if request.param == "tiny" else DEMO


def encoder_for(checkpoint: Path, *, projected: bool = False, seed: int = 1, tokens: int = N) -> Encoder:
    config = json.loads((checkpoint / "config.json").read_text("utf-8"))
    return random_encoder(config, tokens, projected=projected, seed=seed)


def logits(model: Path, adapter: Path | None, kv_type: Literal["f16", "f32"]) -> np.ndarray:  # type: ignore[type-arg]
    """What follows each of IDS behind the adapter, or without one, by llama.cpp."""
    loaded = Model(model, load_mode="none", repack=False)
    context = Context(
        loaded,
        n_ctx=256,
        n_batch=64,
        n_sequences=1,
        n_outputs=len(IDS),
        n_threads=1,
        n_threads_batch=1,
        kv_type=kv_type,
    )
    batch, begin = Batch(64), 0
    if adapter is not None:
        cells = read_adapter(adapter)
        begin = cells.tokens
        assert context.restore(0, context.cells(cells.keys, cells.values), 0, begin)
    for position, token in enumerate(IDS, begin):
        batch.add(token, position, 0, logits=True)
    assert context.decode(batch) == "done"
    found = np.stack([context.logits(n).copy() for n in range(len(IDS))])
    context.close()
    loaded.close()
    return found


@pytest.mark.parametrize("projected", [False, True], ids=["embedding", "projection"])
def test_logits_are_the_official_ones(checkpoint: Path, tmp_path: Path, projected: bool) -> None:
    encoder = encoder_for(checkpoint, projected=projected)
    tuned = write_tuned(tmp_path / "tuned", encoder)
    oracle = Oracle(checkpoint)
    expected = oracle.logits(IDS, oracle.tuned_cache(encoder))
    plain = oracle.logits(IDS, oracle.cache())
    assert np.abs(plain - expected).max() > 1  # the adapter matters
    for type, bound in BOUNDS:
        model = convert(checkpoint, tmp_path / f"{type}.gguf", type=type).path
        adapter = convert_adapter(tuned, checkpoint, tmp_path / f"a-{type}.gguf", type=type).path
        error = np.abs(logits(model, adapter, type) - expected).max()
        alone = np.abs(logits(model, None, type) - plain).max()  # of the model itself, in this type
        assert error < max(bound, 1.5 * alone)


def test_without_the_rotation_they_are_not(checkpoint: Path, tmp_path: Path) -> None:
    encoder = encoder_for(checkpoint)
    oracle = Oracle(checkpoint)
    expected = oracle.logits(IDS, oracle.tuned_cache(encoder))
    adapter = convert_adapter(write_tuned(tmp_path / "t", encoder), checkpoint, tmp_path / "a.gguf", type="f32").path
    keys = read_adapter(adapter).keys
    cells = encoder["embedding.weight"].reshape(N, len(keys), 2, -1)
    assert max(np.abs(key - cells[:, n, 0]).max() for n, key in enumerate(keys)) > 0.1
    wrong = oracle.tuned_cache(encoder)
    wrong.keys = [key.reshape(kept.shape) for key, kept in zip(keys, wrong.keys, strict=True)]
    assert np.abs(oracle.logits(IDS, wrong) - expected).max() > 0.1


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[LlamaEngine, list[Encoder]]]:
    """An engine with two adapters, of 9 and of 30 cells, and their encoders."""
    folder = tmp_path_factory.mktemp("tuned")
    model = convert(DEMO, folder / "model.gguf", type="f32").path
    encoders = [encoder_for(DEMO, seed=1), encoder_for(DEMO, projected=True, seed=2, tokens=30)]
    adapters = []
    for n, encoder in enumerate(encoders):
        source = write_tuned(folder / f"tuned-{n}", encoder)
        adapters.append((f"a{n}", convert_adapter(source, model, folder / f"a{n}.gguf", type="f32").path))
    config = EngineConfig(
        model, n_ctx=512, n_threads=1, slots=3, kv_type="f32", adapters=tuple(adapters), cache_folder=folder / "cache"
    )
    engine = LlamaEngine(config)
    yield engine, encoders
    engine.close()


def ask(text: str, adapter: str | None, max_tokens: int | None = 12, **options: object) -> Request:
    return Request((Message("user", text),), SamplingParams(0), max_tokens, adapter=adapter, **options)  # type: ignore[arg-type]


def answer(engine: LlamaEngine, request: Request) -> str:
    return "".join(chunk.text for chunk in engine.submit(request))


def test_greedy_answers_are_the_official_ones(tuned: tuple[LlamaEngine, list[Encoder]]) -> None:
    engine, encoders = tuned
    oracle = Oracle(DEMO)
    for text in ("你好", "北京在哪里？", "再说一遍。" * 30):
        ids = oracle.prompt_ids([], text)
        found = [answer(engine, ask(text, name)) for name in (None, "a0", "a1")]
        caches = [oracle.cache(), *(oracle.tuned_cache(encoder) for encoder in encoders)]
        made = [oracle.greedy(ids, 12, cache) for cache in caches]
        size = oracle.pieces.get_piece_size()
        expected = [oracle.pieces.decode([i for i in one if i < size]) for one in made]
        assert [one.strip() for one in found] == [one.strip() for one in expected]
    assert len(set(found)) == 3


def test_adapters_share_a_batch_and_change_nobody_elses_answer(tuned: tuple[LlamaEngine, list[Encoder]]) -> None:
    engine, _ = tuned
    requests = [ask(f"question {n} " * (5 + n), (None, "a0", "a1")[n % 3], 20) for n in range(12)]
    alone = [answer(engine, request) for request in requests]
    generations = [engine.submit(request) for request in requests]
    assert ["".join(chunk.text for chunk in one) for one in generations] == alone


def test_what_one_computed_is_not_anothers_and_its_own_is_found(tuned: tuple[LlamaEngine, list[Encoder]]) -> None:
    engine, _ = tuned
    text = "the same long text " * 12

    def cached(adapter: str | None) -> tuple[int, int]:
        stats = list(engine.submit(ask(text, adapter)))[-1].stats
        assert stats is not None
        return stats.cached_tokens, stats.prompt_tokens

    first = [cached(name)[0] for name in (None, "a0", "a1")]
    assert max(first) < 20
    for name in (None, "a0", "a1", "a0"):
        found, prompt = cached(name)
        assert found == prompt - 1


def test_an_adapters_cells_are_not_stored_with_each_prefix(tuned: tuple[LlamaEngine, list[Encoder]]) -> None:
    engine, encoders = tuned
    sizes = []
    for adapter in (None, "a1"):
        before = set((engine.info.path.parent / "cache").glob("*.prefix"))
        assert engine.submit(ask("一个新的问题。" * 40, adapter, 1)).get() is not None
        engine.flush()
        (file,) = set((engine.info.path.parent / "cache").glob("*.prefix")) - before
        sizes.append(file.stat().st_size)
    assert sizes[1] - sizes[0] == 4 * 30  # the numbers that stand for its 30 cells
    assert len(encoders[1]["embedding.weight"]) == 30


def test_an_adapter_is_loaded_without_copies_of_it(tmp_path: Path) -> None:
    cells = [np.ones((64, 256), np.float32) for _ in range(28)]
    tracemalloc.start()
    state = cell_state(cells, cells, kv_type="f32", transposed=True, sequence=1)
    assert tracemalloc.get_traced_memory()[1] < 1.1 * len(state)
    tracemalloc.stop()


def test_the_context_is_shorter_by_its_cells(tuned: tuple[LlamaEngine, list[Encoder]]) -> None:
    engine, _ = tuned
    between = "\n" * 490  # a token each
    with pytest.raises(ContextLengthError, match="482"):
        engine.submit(Request((), SamplingParams(0), None, prompts=(between,), adapter="a1"))
    assert engine.submit(Request((), SamplingParams(0), 1, prompts=(between,))).get() is not None
    chunks = list(engine.submit(ask("go on", "a1", None)))
    stats = chunks[-1].stats
    assert stats is not None
    assert chunks[-1].finish_reason in ("stop", "length")
    assert stats.prompt_tokens + stats.completion_tokens <= 512 - 30


def test_an_adapter_without_room_waits_until_an_answer_has_ended(
    tuned: tuple[LlamaEngine, list[Encoder]],
) -> None:
    engine, _ = tuned
    alone = answer(engine, ask("go on", "a1", 40))
    long = [Request((), SamplingParams(0), None, prompts=(f"{n} " * 150,)) for n in range(2)]
    running = [engine.submit(one) for one in long]
    assert answer(engine, ask("go on", "a1", 40)) == alone
    assert all(list(one)[-1].finish_reason in ("stop", "length") for one in running)


def test_an_unknown_adapter_is_refused(tuned: tuple[LlamaEngine, list[Encoder]]) -> None:
    engine, _ = tuned
    assert engine.info.adapters == ("a0", "a1")
    with pytest.raises(RequestError, match="'a7' is not loaded"):
        engine.submit(ask("x", "a7"))


def test_an_adapter_that_leaves_no_room_is_refused(tiny_f32: Path, tmp_path: Path) -> None:
    model = convert(DEMO, tmp_path / "model.gguf", type="f32").path
    source = write_tuned(tmp_path / "tuned", encoder_for(DEMO, tokens=100))
    adapter = convert_adapter(source, model, tmp_path / "a.gguf").path
    with pytest.raises(UsageError, match="takes 100 of 128 tokens of context"):
        LlamaEngine(EngineConfig(model, n_ctx=128, n_threads=1, adapters=(("a", adapter),)))
    with pytest.raises(UsageError, match="the name 'a' is taken"):
        LlamaEngine(EngineConfig(model, n_threads=1, adapters=(("a", adapter), ("a", adapter))))
    with pytest.raises(Exception, match=r"made for another model \(4 layers, 2 groups of 64, hidden size 256\); tiny"):
        LlamaEngine(EngineConfig(tiny_f32, n_threads=1, adapters=(("a", adapter),)))


def test_a_reload_takes_what_the_file_has_now_and_keeps_the_old_where_it_is_broken(tmp_path: Path) -> None:
    model = convert(DEMO, tmp_path / "model.gguf", type="f32").path
    paths = [
        convert_adapter(write_tuned(tmp_path / f"t{n}", encoder_for(DEMO, seed=n)), model, tmp_path / f"a{n}.gguf").path
        for n in range(2)
    ]
    engine = LlamaEngine(EngineConfig(model, n_threads=1, adapters=(("a", paths[0]),)))
    old = answer(engine, ask("再说一遍。" * 30, "a"))
    good = paths[0].read_bytes()
    paths[0].write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    with pytest.raises(Exception, match="not as it was written"):
        engine.reload_adapters()
    assert answer(engine, ask("再说一遍。" * 30, "a")) == old
    paths[0].write_bytes(paths[1].read_bytes())
    assert engine.reload_adapters().adapters == ("a",)
    assert answer(engine, ask("再说一遍。" * 30, "a")) != old
    engine.close()
