"""How answers to chat completions look, at once and as events of a stream. Pure; see OpenAI's reference for the fields.

Errors, and what other contracts look like in the same way, are in `wire.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from ...types import Stats, TokenLogprob
from .strict_json import dumps
from .wire import Choice, Head, event, figures, finite, total, usage


class Serializer(Protocol):
    """How the answers to one request are written; `ChatSerializer`, or the like for another contract."""

    def completion(self, head: Head, choices: Sequence[Choice]) -> dict[str, Any]:
        """The whole answers at once."""
        ...

    def role_event(self, head: Head, index: int) -> bytes:
        """The first event of an answer in a stream; empty where there is none."""
        ...

    def text_event(self, head: Head, index: int, text: str, logprobs: Sequence[TokenLogprob] = ()) -> bytes: ...

    def finish_event(self, head: Head, index: int, finish_reason: str, stats: Stats | None = None) -> bytes:
        """The last event of an answer, and of the stream where the figures of all come along."""
        ...

    def usage_event(self, head: Head, stats: Stats) -> bytes:
        """The extra event that `stream_options.include_usage` asks for; the others say null."""
        ...


_TEXT = "\0text\0"  # where the text of an event goes


class ChatSerializer:
    """See Form; one for each request, because events of text differ in nothing else and their frame is made once."""

    def __init__(self) -> None:
        self._frames: dict[int, tuple[bytes, bytes]] = {}  # by the index of the answer

    def completion(self, head: Head, choices: Sequence[Choice]) -> dict[str, Any]:
        stats = total([choice.stats for choice in choices])
        return {
            "id": head.id,
            "object": "chat.completion",
            "created": head.created,
            "model": head.model,
            "choices": [
                {
                    "index": index,
                    "message": {"role": "assistant", "content": choice.text, "refusal": None},
                    "logprobs": _logprobs(head, choice.logprobs),
                    "finish_reason": choice.finish_reason,
                }
                for index, choice in enumerate(choices)
            ],
            "usage": usage(stats),
            **figures(stats, trim=head.trim),
        }

    def role_event(self, head: Head, index: int) -> bytes:
        return _chunk(head, index, {"role": "assistant", "content": "", "refusal": None})

    def text_event(self, head: Head, index: int, text: str, logprobs: Sequence[TokenLogprob] = ()) -> bytes:
        if logprobs:
            return _chunk(head, index, {"content": text}, logprobs)
        frame = self._frames.get(index)
        if frame is None:
            before, _, after = _chunk(head, index, {"content": _TEXT}).rpartition(dumps(_TEXT).encode())
            frame = self._frames[index] = before, after
        return frame[0] + dumps(text).encode() + frame[1]

    def finish_event(self, head: Head, index: int, finish_reason: str, stats: Stats | None = None) -> bytes:
        return _chunk(head, index, {}, (), finish_reason, stats)

    def usage_event(self, head: Head, stats: Stats) -> bytes:
        return event({**_chunk_head(head), "choices": [], "usage": usage(stats)})


def _chunk(
    head: Head,
    index: int,
    delta: dict[str, Any],
    logprobs: Sequence[TokenLogprob] = (),
    finish_reason: str | None = None,
    stats: Stats | None = None,
) -> bytes:
    scores = _logprobs(head, logprobs) if logprobs else None
    choice = {"index": index, "delta": delta, "logprobs": scores, "finish_reason": finish_reason}
    counts = {"usage": None} if head.include_usage else {}
    return event({**_chunk_head(head), "choices": [choice], **counts, **figures(stats, trim=head.trim)})


def _chunk_head(head: Head) -> dict[str, Any]:
    return {"id": head.id, "object": "chat.completion.chunk", "created": head.created, "model": head.model}


def _logprobs(head: Head, tokens: Sequence[TokenLogprob]) -> dict[str, Any] | None:
    """null where they were not asked for."""
    if not head.logprobs:
        return None
    content = [{**_logprob(token), "top_logprobs": [_logprob(one) for one in token.top]} for token in tokens]
    return {"content": content, "refusal": None}


def _logprob(token: TokenLogprob) -> dict[str, Any]:
    return {"token": token.token, "logprob": finite(token.logprob), "bytes": list(token.bytes)}
