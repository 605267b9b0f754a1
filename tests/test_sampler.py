"""Drawing tokens: greedy, reproducible, and exactly the nucleus distribution."""

import numpy as np
import pytest

from glm_edge.engine.sampler import Sampler
from glm_edge.types import SamplingParams


def nucleus(logits: np.ndarray, temperature: float, top_p: float) -> np.ndarray:
    """The distribution by its definition: softmax, sort, keep while the mass before a token is at most p."""
    probs = np.exp((logits - logits.max()).astype(np.float64) / temperature)
    probs /= probs.sum()
    order = np.argsort(-probs, kind="stable")
    before = np.concatenate([[0.0], np.cumsum(probs[order])[:-1]])
    kept = np.zeros_like(probs)
    kept[order[before <= top_p]] = probs[order[before <= top_p]]
    return kept / kept.sum()


def test_temperature_zero_takes_the_most_likely_token() -> None:
    logits = np.random.default_rng(0).standard_normal(1000).astype(np.float32)
    assert Sampler(SamplingParams(temperature=0)).sample(logits) == int(logits.argmax())


def test_same_seed_draws_the_same_tokens_and_another_seed_others() -> None:
    logits = np.random.default_rng(0).standard_normal(1000).astype(np.float32)

    def draw(seed: int) -> list[int]:
        sampler = Sampler(SamplingParams(temperature=1.5, top_p=1.0, seed=seed))
        return [sampler.sample(logits) for _ in range(20)]

    assert draw(1) == draw(1)
    assert draw(1) != draw(2)


@pytest.mark.parametrize(
    ("temperature", "top_p"),
    [(1.0, 1.0), (0.8, 0.8), (2.0, 0.95), (0.5, 0.3), (1.0, 0.01)],
    ids=str,
)
@pytest.mark.parametrize("spread", [0.0, 1.0, 4.0], ids=["flat", "soft", "peaked"])
def test_draws_follow_the_exact_nucleus_distribution(temperature: float, top_p: float, spread: float) -> None:
    logits = (np.random.default_rng(7).standard_normal(50) * (spread or 1e-3)).astype(np.float32)
    expected = nucleus(logits, temperature, top_p)
    sampler = Sampler(SamplingParams(temperature=temperature, top_p=top_p, seed=3))
    n = 4000
    counts = np.bincount([sampler.sample(logits) for _ in range(n)], minlength=50)
    assert counts[expected == 0].sum() == 0
    # chi square needs about five expected draws a bin: rarer tokens share one
    common = n * expected >= 5
    observed = np.append(counts[common], counts[~common].sum())
    wanted = np.append(n * expected[common], n * expected[~common].sum())
    observed, wanted = observed[wanted > 0], wanted[wanted > 0]
    chi2 = float(((observed - wanted) ** 2 / wanted).sum())
    freedom = len(wanted) - 1
    # the mean of chi square is its degrees of freedom, its deviation sqrt(2 x them): five deviations never happen
    assert chi2 <= freedom + 5 * np.sqrt(2 * max(freedom, 1))


def test_top_p_zero_keeps_only_the_most_likely_token() -> None:
    logits = np.array([0.0, 3.0, 1.0], np.float32)
    sampler = Sampler(SamplingParams(temperature=1.0, top_p=0.0, seed=0))
    assert {sampler.sample(logits) for _ in range(50)} == {1}


def test_logits_are_left_as_they_were() -> None:
    logits = np.array([0.0, 3.0, 1.0], np.float32)
    Sampler(SamplingParams(seed=0)).sample(logits)
    assert logits.tolist() == [0.0, 3.0, 1.0]
