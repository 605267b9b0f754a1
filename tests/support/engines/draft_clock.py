"""Steps that answers of known tokens take with drafts, by a clock of our own; what batches cost is given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from glm_edge.engine.drafts import MAX_DRAFT, Drafter, Histories, choose
from glm_edge.engine.latency import LatencyModel

Costs = Mapping[int, float]  # seconds of a batch by its tokens

# ChatGLM2-6B, Q4_0, 2 cores: 8.4, 9.1, 13.6 and 14.1 tokens a second with 1, 2, 4 and 8 tokens in a batch
FULL_SIZE: Costs = {1: 0.119, 2: 0.220, 4: 0.294, 8: 0.567}


@dataclass
class Steps:
    tokens: int = 0
    steps: int = 0
    drafted: int = 0
    held: int = 0
    plain_s: float = 0.0  # without drafts
    drafts_s: float = 0.0

    @property
    def speedup(self) -> float:
        return self.plain_s / self.drafts_s


def cost(seconds: Costs, n: int) -> float:
    """Of a batch of n tokens; on a line between the sizes that are known, and on that of the last two after them."""
    if n in seconds:
        return seconds[n]
    sizes = sorted(seconds)
    low, high = next((pair for pair in pairwise(sizes) if n < pair[1]), (sizes[-2], sizes[-1]))
    return seconds[low] + (n - low) / (high - low) * (seconds[high] - seconds[low])


def simulate(
    prompt: Sequence[int],
    answer: Sequence[int],
    latency: LatencyModel,
    seconds: Costs,
    histories: Histories | None = None,
) -> Steps:
    """The engine's steps for an answer whose tokens are known, with what it learns of costs and hits on the way."""
    result, tokens = Steps(tokens=len(answer), plain_s=len(answer) * seconds[1]), [*prompt, *answer[:1]]
    histories = histories or Histories()
    drafter = Drafter(tokens, len(prompt), histories.of(b""))
    result.steps, result.drafts_s, written = 1, seconds[1], 1
    while written < len(answer):
        room = min(MAX_DRAFT, len(answer) - written - 1)
        draft = choose([drafter.guess(room)], latency, room)[0]
        took = cost(seconds, rows := latency.rows(1 + len(draft), prompt=False))
        latency.measure(rows, took)
        held = 0
        while held < len(draft) and draft[held] == answer[written + held]:
            held += 1
        tokens += answer[written : written + held + 1]
        written += held + 1
        result.steps += 1
        result.drafted += len(draft)
        result.held += held
        result.drafts_s += took
    histories.add(b"", tokens, len(prompt))
    return result
