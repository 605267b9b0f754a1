"""Drop the oldest rounds of a conversation that has outgrown the context, if its request asks for that.

ChatGLM2's prompt numbers its rounds, so without the first one the whole prompt is another, and nothing in the cache
fits. So rounds are dropped rarely and in large steps: half a context at a time. The cut stays at the same place while
the conversation grows, until the next step is due.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

from ...types import Message

_STEP = 2  # a step is the context divided by this


def trimmed(
    messages: Sequence[Message], n_ctx: int, reserve: int, size: Callable[[Sequence[Message]], int]
) -> tuple[tuple[Message, ...], int]:
    """The messages that fit, and how many rounds were left out. System messages and the last question always stay.

    Args:
        reserve: tokens that must stay free for the answer.
        size: tokens of the prompt for some messages.
    """
    if size(messages) + reserve <= n_ctx:
        return tuple(messages), 0
    system = tuple(m for m in messages if m.role == "system")
    talk = tuple(m for m in messages if m.role != "system")
    # a round begins with a user's message that does not follow another one
    starts = [i for i, m in enumerate(talk) if m.role == "user" and (i == 0 or talk[i - 1].role != "user")]
    lengths = [_tokens(talk[a:b], size) for a, b in pairwise(starts)]
    dropped = 0
    while dropped < len(lengths):
        step = 0
        while dropped < len(lengths) and step < n_ctx // _STEP:
            step += lengths[dropped]
            dropped += 1
        # the exact size costs a tokenizing, so it is asked for only when it may be enough
        if sum(lengths[dropped:]) <= 2 * n_ctx and size(system + talk[starts[dropped] :]) + reserve <= n_ctx:
            break
    return system + talk[starts[dropped] :], dropped


def _tokens(messages: Sequence[Message], size: Callable[[Sequence[Message]], int]) -> int:
    """The approximate number of tokens that whole rounds take in a prompt."""
    return size([*messages, Message("user", "")])
