"""Leaving out the oldest rounds of a conversation that has outgrown the context: only when a request asks for it.

ChatGLM2's prompt numbers its rounds, so leaving one out changes the whole prompt, and nothing in the cache fits any
more. So it is done rarely and in large steps: half a context at a time, cut where the same conversation will be cut
again when it comes back longer, until the next step is due.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..types import Message

_STEP = 2  # a step is the context divided by this


def trimmed(
    messages: Sequence[Message], n_ctx: int, reserve: int, size: Callable[[Sequence[Message]], int]
) -> tuple[tuple[Message, ...], int]:
    """The messages that fit, and how many rounds were left out. System messages and the last question always stay.

    Args:
        reserve: tokens that must stay free for the answer.
        size: tokens of the prompt for some messages.
    """
    system = tuple(m for m in messages if m.role == "system")
    talk = tuple(m for m in messages if m.role != "system")
    # a round begins with a user's message that does not follow another one
    starts = [i for i, m in enumerate(talk) if m.role == "user" and (i == 0 or talk[i - 1].role != "user")]
    dropped, step = 0, n_ctx // _STEP
    while size(system + talk[starts[dropped] :] if dropped else messages) + reserve > n_ctx:
        if dropped == len(starts) - 1:
            break  # the last question alone is too long: the caller's check says so
        goal = dropped
        while goal < len(starts) - 1 and _tokens(talk[starts[dropped] : starts[goal]], size) < step:
            goal += 1
        dropped = goal
    return (system + talk[starts[dropped] :] if dropped else tuple(messages)), dropped


def _tokens(messages: Sequence[Message], size: Callable[[Sequence[Message]], int]) -> int:
    """About how many tokens whole rounds take in a prompt."""
    return size([*messages, Message("user", "")]) if messages else 0
