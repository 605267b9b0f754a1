"""Steps that an answer takes with prompt lookup, by a clock of our own: what each size of batch costs is given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from glm_edge.engine.latency import LatencyModel
from glm_edge.engine.lookup import MAX_DRAFT, Lookup

# ChatGLM2-6B, Q4_0, 2 cores: 8.4, 9.1, 13.6 and 14.1 tokens a second with 1, 2, 4 and 8 tokens in a batch
FULL_SIZE = {1: 0.119, 2: 0.220, 4: 0.294, 8: 0.567}


@dataclass
class Steps:
    tokens: int = 0
    steps: int = 0
    drafted: int = 0
    held: int = 0
    plain_s: float = 0.0  # without lookup
    lookup_s: float = 0.0

    @property
    def speedup(self) -> float:
        return self.plain_s / self.lookup_s


def cost(seconds: Mapping[int, float], n: int) -> float:
    """Of a batch of n tokens; on a line between the sizes that are known."""
    if n in seconds:
        return seconds[n]
    for low, high in pairwise(sorted(seconds)):
        if low < n < high:
            return seconds[low] + (n - low) / (high - low) * (seconds[high] - seconds[low])
    raise ValueError(f"the cost of {n} tokens is not within those of {sorted(seconds)}")


def simulate(
    prompt: Sequence[int], answer: Sequence[int], latency: LatencyModel, seconds: Mapping[int, float]
) -> Steps:
    """The engine's steps for an answer whose tokens are known, with what it learns of costs and hits on the way."""
    result, tokens = Steps(tokens=len(answer), plain_s=len(answer) * seconds[1]), [*prompt, *answer[:1]]
    lookup = Lookup(tokens, latency)
    result.steps, result.lookup_s, written = 1, seconds[1], 1
    while written < len(answer):
        draft = lookup.draft(min(MAX_DRAFT, len(answer) - written - 1))
        n = 1 + len(draft)
        latency.measure(n, cost(seconds, n))
        held = 0
        while held < len(draft) and draft[held] == answer[written + held]:
            held += 1
        if draft:
            lookup.verified(len(draft), held)
        tokens += answer[written : written + held + 1]
        written += held + 1
        result.steps += 1
        result.drafted += len(draft)
        result.held += held
        result.lookup_s += cost(seconds, n)
    return result
