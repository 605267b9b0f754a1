"""Drawing tokens: greedy, reproducible, and exactly the distribution that the parameters define."""

import numpy as np
import numpy.typing as npt
import pytest

from glm_edge.engine.sampling.constrained import Constraint
from glm_edge.engine.sampling.sampler import Sampler
from glm_edge.errors import EngineError
from glm_edge.types import SamplingParams
from support.engines.sampling_distribution import exact, surprise

N = 50


def some_logits(n: int = N, spread: float = 1.0, seed: int = 7) -> npt.NDArray[np.float32]:
    return (np.random.default_rng(seed).standard_normal(n) * spread).astype(np.float32)


def draws(sampler: Sampler, logits: npt.NDArray[np.float32], n: int) -> list[int]:
    return [sampler.sample(logits) for _ in range(n)]


class Only(Constraint):
    """A constraint that allows the same tokens everywhere."""

    def __init__(self, tokens: npt.NDArray[np.bool_]) -> None:
        self._tokens = tokens

    def allowed(self) -> npt.NDArray[np.bool_]:
        return self._tokens

    def accept(self, token: int) -> None:
        assert self._tokens[token]


def test_temperature_zero_takes_the_most_likely_token() -> None:
    logits = some_logits(1000)
    assert Sampler(SamplingParams(temperature=0)).sample(logits) == int(logits.argmax())


def test_same_seed_draws_the_same_tokens_and_another_seed_others() -> None:
    drawn = {
        seed: [draws(Sampler(SamplingParams(1.5, 1.0, seed)), some_logits(1000), 20) for _ in range(2)]
        for seed in (1, 2, -7, 2**63 - 1)
    }
    assert all(first == second for first, second in drawn.values())
    assert len({tuple(first) for first, _ in drawn.values()}) == 4


def test_answers_to_one_request_draw_independent_tokens_from_one_seed() -> None:
    drawn = [draws(Sampler(SamplingParams(1.5, 1.0, 5), index), some_logits(1000), 20) for index in (0, 1, 2, 1)]
    assert drawn[1] == drawn[3]
    assert len({tuple(tokens) for tokens in drawn}) == 3


def test_without_a_seed_every_answer_differs() -> None:
    one, other = (draws(Sampler(SamplingParams(1.5, 1.0)), some_logits(1000), 20) for _ in range(2))
    assert one != other


@pytest.mark.parametrize(
    "params",
    [
        SamplingParams(1.0, 1.0, 3),
        SamplingParams(0.8, 0.8, 3),
        SamplingParams(2.0, 0.95, 3),
        SamplingParams(0.5, 0.3, 3),
        SamplingParams(1.0, 0.01, 3),
        SamplingParams(1.0, 1.0, 3, top_k=10),
        SamplingParams(0.8, 0.8, 3, top_k=20),
        SamplingParams(1.0, 1.0, 3, min_p=0.2),
        SamplingParams(1.5, 0.7, 3, top_k=30, min_p=0.1),
        SamplingParams(1.0, 0.5, 3, top_k=1000),
    ],
    ids=lambda p: f"t{p.temperature}-p{p.top_p}-k{p.top_k}-m{p.min_p}",
)
@pytest.mark.parametrize("spread", [1e-3, 1.0, 4.0], ids=["flat", "soft", "peaked"])
def test_draws_follow_the_exact_distribution(params: SamplingParams, spread: float) -> None:
    logits = some_logits(spread=spread)
    counts = np.bincount(draws(Sampler(params), logits, 2000), minlength=N)
    assert surprise(counts, exact(logits, params)) < 4


@pytest.mark.parametrize("n", [1, 2, 63, 64, 65, 130], ids=str)
def test_every_token_of_any_vocabulary_can_be_drawn_and_no_other(n: int) -> None:
    logits = np.zeros(n, np.float32)
    counts = np.bincount(draws(Sampler(SamplingParams(1.0, 1.0, 1)), logits, 40 * n), minlength=n)
    assert surprise(counts, np.full(n, 1 / n)) < 4


def test_the_test_of_distributions_notices_small_errors() -> None:
    logits = some_logits(spread=1.0)
    params = SamplingParams(1.0, 1.0, 3)
    counts = np.bincount(draws(Sampler(params), logits, 5000), minlength=N)
    assert surprise(counts, exact(logits, SamplingParams(1.15, 1.0))) > 4
    assert surprise(counts, exact(logits, SamplingParams(1.0, 0.95))) > 4


@pytest.mark.parametrize(
    "params",
    [
        SamplingParams(1.0, 1.0, 3),
        SamplingParams(0.8, 0.8, 3),
        SamplingParams(1.0, 0.1, 3),
        SamplingParams(1.0, 1.0, 3, top_k=10),
        SamplingParams(1.0, 0.8, 3, top_k=200),
        SamplingParams(1.0, 0.9, 3, min_p=0.05),
        SamplingParams(0.0),
    ],
    ids=lambda p: f"t{p.temperature}-p{p.top_p}-k{p.top_k}-m{p.min_p}",
)
@pytest.mark.parametrize("spread", [1e-3, 6.0], ids=["flat", "peaked"])
@pytest.mark.parametrize("allows", ["most", "half", "few", "unlikely"])
def test_constrained_draws_follow_the_distribution_of_what_is_allowed(
    params: SamplingParams, spread: float, allows: str
) -> None:
    logits = some_logits(500, spread)
    chance = np.random.default_rng(11).random(500)
    allowed = {
        "most": chance < 0.95,
        "half": chance < 0.5,
        "few": chance < 0.01,
        "unlikely": logits < np.sort(logits)[300],
    }[allows]
    counts = np.bincount(draws(Sampler(params, constraint=Only(allowed)), logits, 600), minlength=500)
    assert surprise(counts, exact(logits, params, allowed)) < 4


def test_a_logit_of_minus_infinity_is_never_drawn() -> None:
    logits = np.zeros(130, np.float32)
    logits[::2] = -np.inf
    assert all(token % 2 for token in draws(Sampler(SamplingParams(2.0, 1.0, 1)), logits, 500))


def test_top_p_zero_keeps_only_the_most_likely_token() -> None:
    logits = np.array([0.0, 3.0, 1.0], np.float32)
    assert set(draws(Sampler(SamplingParams(1.0, 0.0, 0)), logits, 50)) == {1}


@pytest.mark.parametrize("temperature", [1e-300, 1e-40, 1e-5], ids=str)
def test_a_tiny_temperature_is_greedy(temperature: float) -> None:
    logits = some_logits(1000)
    assert set(draws(Sampler(SamplingParams(temperature, 1.0, 0)), logits, 20)) == {int(logits.argmax())}


@pytest.mark.parametrize("wrong", [np.nan, np.inf], ids=str)
@pytest.mark.parametrize(
    "params",
    [SamplingParams(0), SamplingParams(seed=0), SamplingParams(1.0, 1.0, 0), SamplingParams(seed=0, top_k=5)],
    ids=["greedy", "top_p", "all", "top_k"],
)
def test_logits_that_are_no_numbers_are_an_error(params: SamplingParams, wrong: float) -> None:
    logits = some_logits()
    logits[3] = wrong
    with pytest.raises(EngineError, match="not numbers"):
        Sampler(params).sample(logits)


@pytest.mark.parametrize("spread", [0.01, 3.0], ids=["flat", "peaked"])
def test_the_nucleus_of_a_whole_vocabulary_is_exact(spread: float) -> None:
    logits = some_logits(65_024, spread)
    params = SamplingParams(0.8, 0.3, 1)
    counts = np.bincount(draws(Sampler(params), logits, 1000), minlength=len(logits))
    assert surprise(counts, exact(logits, params)) < 4


def test_equal_tokens_are_in_the_nucleus_together() -> None:
    logits = np.zeros(2000, np.float32)  # more than are sorted first
    logits[0] = 1.0
    assert len(set(draws(Sampler(SamplingParams(1.0, 0.01, 1)), logits, 6000))) > 1500


def test_logits_are_left_as_they_were() -> None:
    logits = some_logits()
    before = logits.copy()
    params = SamplingParams(0.8, 0.8, 0, 20, 0.1, 1.0, 1.0, 1.5, {3: 5.0}, logprobs=True, top_logprobs=2)
    sampler = Sampler(params, prompt=[1, 2], constraint=Only(np.ones(N, bool)))
    for _ in range(5):
        sampler.accept(sampler.sample(logits))
    assert (logits == before).all()
