"""logit_bias and the penalties: what becomes of a logit, and what requests get that ask for the impossible."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from glm_edge.engine.engine import LlamaEngine
from glm_edge.engine.sampling.penalties import Penalties
from glm_edge.errors import RequestError
from glm_edge.types import EngineConfig, Message, Request, SamplingParams

LOGITS = np.array([2.0, -2.0, 1.0, -1.0, 0.0, 3.0], np.float32)


def applied(params: SamplingParams, prompt: list[int], answer: list[int]) -> list[float]:
    penalties = Penalties(params, prompt)
    for token in answer:
        penalties.accept(token)
    return [float(x) for x in penalties.apply(LOGITS.copy())]


def test_repetition_penalty_divides_positive_and_multiplies_negative_logits_of_prompt_and_answer() -> None:
    params = SamplingParams(repetition_penalty=2.0)
    assert applied(params, [0, 1, 1, 4], [3, 3]) == [1.0, -4.0, 1.0, -2.0, 0.0, 3.0]


def test_presence_and_frequency_penalty_count_the_answer_alone() -> None:
    params = SamplingParams(presence_penalty=0.5, frequency_penalty=0.25)
    assert applied(params, [0, 1, 2], [5, 3, 5]) == [2.0, -2.0, 1.0, -1.75, 0.0, 2.0]


def test_logit_bias_is_added_before_the_penalties() -> None:
    params = SamplingParams(logit_bias={1: 6.0, 5: -1.5}, repetition_penalty=2.0, presence_penalty=1.0)
    assert applied(params, [1], [5]) == [2.0, 2.0, 1.0, -1.0, 0.0, -0.25]


def test_without_any_the_logits_pass_unchanged() -> None:
    assert Penalties(SamplingParams(), [1]).apply(LOGITS) is LOGITS


@pytest.fixture(scope="module")
def engine(tiny_f32: Path) -> Iterator[LlamaEngine]:
    engine = LlamaEngine(EngineConfig(tiny_f32, n_threads=1, kv_type="f32", queue=4))
    yield engine
    engine.close()


@pytest.mark.parametrize(
    "sampling",
    [{"repetition_penalty": 5.0}, {"presence_penalty": 50.0}, {"frequency_penalty": 50.0}],
    ids=lambda s: next(iter(s)),
)
def test_a_strong_penalty_leaves_no_token_twice(engine: LlamaEngine, sampling: dict[str, float]) -> None:
    drawn = tokens(engine, SamplingParams(0, logprobs=True, **sampling))
    assert len(drawn) == len(set(drawn)) == 24


def tokens(engine: LlamaEngine, sampling: SamplingParams) -> list[bytes]:
    request = Request((Message("user", "你好"),), sampling, 24)
    return [t.bytes for chunk in engine.submit(request) for t in chunk.logprobs]


def test_bias_makes_and_bans_a_token(engine: LlamaEngine) -> None:
    plain = tokens(engine, SamplingParams(0, logprobs=True))
    ids = {engine._model.piece(i): i for i in range(engine._model.n_vocab)}
    wanted = "你好".encode()
    assert tokens(engine, SamplingParams(0, logprobs=True, logit_bias={ids[wanted]: 100.0})) == [wanted] * 24
    banned = {ids[piece]: -100.0 for piece in plain}
    assert not set(plain) & set(tokens(engine, SamplingParams(0, logprobs=True, logit_bias=banned)))


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "bias-negative-id": ({"logit_bias": {-1: 1.0}}, "logit_bias"),
    "bias-id-beyond-the-vocabulary": ({"logit_bias": {65024: 1.0}}, "logit_bias"),
    "bias-not-finite": ({"logit_bias": {5: float("-inf")}}, "logit_bias"),
    "temperature": ({"temperature": float("nan")}, "temperature"),
    "top_p": ({"top_p": 1.1}, "top_p"),
    "top_k": ({"top_k": -1}, "top_k"),
    "min_p": ({"min_p": -0.1}, "min_p"),
    "repetition_penalty": ({"repetition_penalty": 0.0}, "repetition_penalty"),
    "presence_penalty": ({"presence_penalty": float("inf")}, "presence_penalty"),
}


@pytest.mark.case("H20")
@pytest.mark.parametrize(("sampling", "param"), BAD.values(), ids=BAD)
def test_what_cannot_be_sampled_is_refused_at_submit(engine: LlamaEngine, sampling: dict[str, Any], param: str) -> None:
    with pytest.raises(RequestError, match=param) as caught:
        engine.submit(Request((Message("user", "你好"),), SamplingParams(**sampling)))
    assert caught.value.param == param
