"""What every serializer is: a writer of the answers to one request, at once or as events of a stream. Pure.

One for each kind of answer: `chat.py`, `text.py`, `response.py`. `glm_edge` is ours; other fields are OpenAI's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from ....types import FinishReason, Stats, TokenLogprob
from ..fields import CompletionCall
from ..responses import ResponseInfo

LEAST_LOGPROB = -9999.0  # how the contract writes what is hardly possible; JSON has no infinity


@dataclass(frozen=True)
class ResponseHead:
    """What all events of one response share."""

    id: str
    created: int  # seconds since 1970
    model: str
    include_usage: bool = False
    logprobs: bool = False
    trim: bool = False  # whether old rounds may have been left out
    fingerprint: str = ""
    prompts: int = 1  # each with as many answers
    tools: tuple[str, ...] = ()  # names of those that the answers may call
    must_call: bool = False  # one of them

    @classmethod
    def of(cls, call: CompletionCall, id: str, created: int, model: str, fingerprint: str) -> ResponseHead:
        """The head of the answer to a call."""
        prompts, logprobs = max(1, len(call.request.prompts)), call.request.sampling.logprobs
        trim, usage = call.request.trim, call.include_usage
        return cls(id, created, model, usage, logprobs, trim, fingerprint, prompts, call.tools, call.must_call)

    def info(self) -> ResponseInfo:
        return {
            "id": self.id,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": self.fingerprint,
        }


@dataclass(frozen=True)
class FinishedAnswer:
    """One whole answer."""

    text: str
    finish_reason: FinishReason
    stats: Stats
    logprobs: Sequence[TokenLogprob] = ()


class Serializer(Protocol):
    """A writer of the answers to one request, in the form of its contract."""

    @property
    def head(self) -> ResponseHead: ...

    @property
    def done(self) -> bytes:
        """What marks the end of a stream, after the last event."""
        ...

    def completion(self, answers: Sequence[FinishedAnswer]) -> Mapping[str, Any]:
        """The whole answers at once."""
        ...

    def role_event(self, index: int) -> bytes:
        """The first event of an answer in a stream; empty where there is none."""
        ...

    def text_event(self, index: int, text: str, logprobs: Sequence[TokenLogprob] = ()) -> bytes: ...

    def finish_event(self, index: int, finish_reason: FinishReason, stats: Stats | None = None) -> bytes:
        """The last event of an answer; the last of the stream has the figures of all answers."""
        ...

    def usage_event(self, stats: Stats) -> bytes:
        """The extra event that `stream_options.include_usage` asks for; in all others `usage` is null then."""
        ...


def finite(logprob: float) -> float:
    """The logarithm, or the least that the contract has: JSON has no infinity."""
    return max(logprob, LEAST_LOGPROB)
