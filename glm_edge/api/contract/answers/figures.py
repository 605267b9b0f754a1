"""Counts and times of answers, as responses carry them. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ....types import Stats
from ..responses import Figures, Usage


def total(stats: Sequence[Stats], prompts: int = 1) -> Stats:
    """The figures of several answers, equally many to each prompt. A prompt counts once: one answer computed it, the
    others shared it."""
    n = len(stats) // prompts
    each = [stats[first : first + n] for first in range(0, len(stats), n)]
    return replace(
        stats[0],
        prompt_tokens=sum(one[0].prompt_tokens for one in each),
        completion_tokens=sum(one.completion_tokens for one in stats),
        cached_tokens=sum(min(answer.cached_tokens for answer in one) for one in each),
        decode_s=max(one.decode_s for one in stats),
    )


def usage(stats: Stats) -> Usage:
    return {
        "prompt_tokens": stats.prompt_tokens,
        "completion_tokens": stats.completion_tokens,
        "total_tokens": stats.prompt_tokens + stats.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": stats.cached_tokens},
    }


def figures(stats: Stats, *, trim: bool) -> Figures:
    """Times in milliseconds; with `trim`, the rounds that were left out as well."""
    found: Figures = {
        "queue_ms": round(1000 * stats.queue_s, 3),
        "prefill_ms": round(1000 * stats.prefill_s, 3),
        "decode_ms": round(1000 * stats.decode_s, 3),
    }
    if trim:
        found["trimmed_rounds"] = stats.trimmed_rounds
    return found


def server_timing(stats: Stats) -> str:
    """The value of a Server-Timing header, in milliseconds, as browsers' tools show it."""
    stages = {"queue": stats.queue_s, "prefill": stats.prefill_s, "decode": stats.decode_s}
    return ", ".join(f"{name};dur={1000 * seconds:.1f}" for name, seconds in stages.items())
