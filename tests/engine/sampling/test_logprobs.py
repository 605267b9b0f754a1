"""Log probabilities: of the model's own distribution, one for each token of the answer's text."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from glm_edge.engine.engine import LlamaEngine
from glm_edge.engine.sampling.logprobs import scores
from glm_edge.types import Chunk, EngineConfig, Message, Request, SamplingParams, TokenLogprob


def test_scores_are_the_log_softmax_and_the_likeliest_come_first() -> None:
    logits = np.random.default_rng(0).standard_normal(1000).astype(np.float32) * 5
    expected = logits - np.log(np.exp(logits.astype(np.float64)).sum())
    got = scores(logits, 7, 3)
    best = np.argsort(-logits)[:3]
    assert got.token == 7
    assert got.logprob == pytest.approx(expected[7], abs=1e-5)
    assert [token for token, _ in got.top] == best.tolist()
    assert [logprob for _, logprob in got.top] == pytest.approx(expected[best], abs=1e-5)


def test_equal_tokens_come_in_the_order_of_their_ids() -> None:
    assert [token for token, _ in scores(np.zeros(300, np.float32), 0, 4).top] == [0, 1, 2, 3]


@pytest.fixture(scope="module")
def engine(tiny_f32: Path) -> Iterator[LlamaEngine]:
    engine = LlamaEngine(EngineConfig(tiny_f32, n_threads=1, kv_type="f32", slots=2, queue=4))
    yield engine
    engine.close()


def chunks(engine: LlamaEngine, stop: tuple[str, ...] = (), n: int = 1, **sampling: Any) -> list[Chunk]:
    params = SamplingParams(**{"temperature": 0, "logprobs": True, **sampling})
    return list(engine.submit(Request((Message("user", "你好"),), params, 20, stop, n)))


def of(chunks: list[Chunk], index: int = 0) -> list[TokenLogprob]:
    return [token for chunk in chunks if chunk.index == index for token in chunk.logprobs]


def test_every_token_has_one_and_their_bytes_are_the_text(engine: LlamaEngine) -> None:
    got = chunks(engine, top_logprobs=3)
    tokens = of(got)
    assert len(tokens) == 20
    text = "".join(chunk.text for chunk in got)
    # whole characters only: a last one that the limit cut is no part of the text
    assert b"".join(token.bytes for token in tokens).decode("utf-8", "ignore").strip() == text
    assert all(token.token == token.bytes.decode("utf-8", "replace") for token in tokens)


def test_greedy_takes_the_first_of_the_top_and_they_fall(engine: LlamaEngine) -> None:
    for token in of(chunks(engine, top_logprobs=4)):
        assert (token.top[0].bytes, token.top[0].logprob) == (token.bytes, token.logprob)
        values = [alternative.logprob for alternative in token.top]
        assert len(values) == 4
        assert values == sorted(values, reverse=True)
        assert all(value <= 0 for value in values)
        assert sum(np.exp(values)) <= 1.0001


def test_temperature_and_penalties_do_not_change_them(engine: LlamaEngine) -> None:
    plain = of(chunks(engine))[0].logprob
    hot = of(chunks(engine, temperature=1e-6, repetition_penalty=1.0001, top_k=1))[0].logprob
    # a prompt that is in the cache already is computed in another batch, which rounds differently
    assert hot == pytest.approx(plain, abs=1e-4)


def test_none_where_none_were_asked_for(engine: LlamaEngine) -> None:
    assert of(chunks(engine, logprobs=False)) == []
    assert all(token.top == () for token in of(chunks(engine)))


def test_tokens_of_a_stop_string_have_none(engine: LlamaEngine) -> None:
    whole = of(chunks(engine))
    text = b"".join(token.bytes for token in whole).decode("utf-8", "ignore").strip()
    stop = whole[8].token
    place = text.index(stop)
    stopped = chunks(engine, stop=(stop,))
    assert "".join(chunk.text for chunk in stopped) == text[:place].rstrip()
    pieces = [token.bytes for token in of(stopped)]
    assert 0 < len(pieces) <= 8
    assert pieces == [token.bytes for token in whole[: len(pieces)]]


def test_each_of_n_answers_has_its_own(engine: LlamaEngine) -> None:
    got = chunks(engine, n=2, temperature=1.0, seed=3)
    assert len(of(got, 0)) == len(of(got, 1)) == 20
    assert of(got, 0) != of(got, 1)
