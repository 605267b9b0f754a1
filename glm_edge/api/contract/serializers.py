"""Serializers: how answers are written, at once and as events of a stream, for each kind of completion. Pure.

See OpenAI's reference for the fields; `glm_edge` is ours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from ...types import FinishReason, Stats, TokenLogprob
from .events import event
from .figures import figures, total, usage
from .responses import (
    AssistantDelta,
    ChatCompletion,
    ChatCompletionChunk,
    ChatLogprobs,
    ChatTokenLogprob,
    ChatTopLogprob,
    Completion,
    CompletionChunk,
    ResponseInfo,
    TextLogprobs,
)
from .strict_json import dumps

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


class ChatSerializer:
    """The serializer for chat completions. Events of text differ in the text alone: their frame is made once."""

    def __init__(self, head: ResponseHead) -> None:
        self.head = head
        self._frames: dict[int, tuple[bytes, bytes]] = {}  # before and after the text, by the index of the answer

    def completion(self, answers: Sequence[FinishedAnswer]) -> ChatCompletion:
        stats = total([answer.stats for answer in answers])
        return {
            **self.head.info(),
            "object": "chat.completion",
            "choices": [
                {
                    "index": index,
                    "message": {"role": "assistant", "content": answer.text, "refusal": None},
                    "logprobs": _chat_logprobs(answer.logprobs) if self.head.logprobs else None,
                    "finish_reason": answer.finish_reason,
                }
                for index, answer in enumerate(answers)
            ],
            "usage": usage(stats),
            "glm_edge": figures(stats, trim=self.head.trim),
        }

    def role_event(self, index: int) -> bytes:
        return self._event(index, {"role": "assistant", "content": "", "refusal": None})

    def text_event(self, index: int, text: str, logprobs: Sequence[TokenLogprob] = ()) -> bytes:
        if logprobs:
            return self._event(index, {"content": text}, logprobs)
        frame = self._frames.get(index)
        if frame is None:
            mark = "\0text\0"
            before, _, after = self._event(index, {"content": mark}).rpartition(dumps(mark).encode())
            frame = self._frames[index] = before, after
        return frame[0] + dumps(text).encode() + frame[1]

    def finish_event(self, index: int, finish_reason: FinishReason, stats: Stats | None = None) -> bytes:
        return self._event(index, {}, (), finish_reason, stats)

    def usage_event(self, stats: Stats) -> bytes:
        return event({**self._chunk(), "usage": usage(stats)})

    def _chunk(self) -> ChatCompletionChunk:
        head = self.head
        return {
            "id": head.id,
            "object": "chat.completion.chunk",
            "created": head.created,
            "model": head.model,
            "system_fingerprint": head.fingerprint,
            "choices": [],
        }

    def _event(
        self,
        index: int,
        delta: AssistantDelta,
        logprobs: Sequence[TokenLogprob] = (),
        finish_reason: FinishReason | None = None,
        stats: Stats | None = None,
    ) -> bytes:
        scores = _chat_logprobs(logprobs) if logprobs and self.head.logprobs else None
        chunk = self._chunk()
        chunk["choices"] = [{"index": index, "delta": delta, "logprobs": scores, "finish_reason": finish_reason}]
        if self.head.include_usage:
            chunk["usage"] = None
        if stats is not None:
            chunk["glm_edge"] = figures(stats, trim=self.head.trim)
        return event(chunk)


class TextSerializer:
    """The serializer for completions of a text. Counts the characters of each answer, for `text_offset`."""

    def __init__(self, head: ResponseHead) -> None:
        self.head = head
        self._offsets: dict[int, int] = {}  # characters so far, by the index of the answer

    def completion(self, answers: Sequence[FinishedAnswer]) -> Completion:
        stats = total([answer.stats for answer in answers], self.head.prompts)
        return {
            **self.head.info(),
            "object": "text_completion",
            "choices": [
                {
                    "index": index,
                    "text": answer.text,
                    "logprobs": self._logprobs(index, answer.logprobs) if self.head.logprobs else None,
                    "finish_reason": answer.finish_reason,
                }
                for index, answer in enumerate(answers)
            ],
            "usage": usage(stats),
            "glm_edge": figures(stats, trim=False),
        }

    def role_event(self, index: int) -> bytes:
        """Text has no roles; a stream begins with its first text."""
        return b""

    def text_event(self, index: int, text: str, logprobs: Sequence[TokenLogprob] = ()) -> bytes:
        return self._event(index, text, logprobs)

    def finish_event(self, index: int, finish_reason: FinishReason, stats: Stats | None = None) -> bytes:
        return self._event(index, "", (), finish_reason, stats)

    def usage_event(self, stats: Stats) -> bytes:
        return event({**self._chunk(), "usage": usage(stats)})

    def _chunk(self) -> CompletionChunk:
        head = self.head
        return {
            "id": head.id,
            "object": "text_completion",
            "created": head.created,
            "model": head.model,
            "system_fingerprint": head.fingerprint,
            "choices": [],
        }

    def _event(
        self,
        index: int,
        text: str,
        logprobs: Sequence[TokenLogprob] = (),
        finish_reason: FinishReason | None = None,
        stats: Stats | None = None,
    ) -> bytes:
        scores = self._logprobs(index, logprobs) if self.head.logprobs else None
        chunk = self._chunk()
        chunk["choices"] = [{"index": index, "text": text, "logprobs": scores, "finish_reason": finish_reason}]
        if self.head.include_usage:
            chunk["usage"] = None
        if stats is not None:
            chunk["glm_edge"] = figures(stats, trim=False)
        return event(chunk)

    def _logprobs(self, index: int, tokens: Sequence[TokenLogprob]) -> TextLogprobs:
        """The older form: an array for each property. Offsets are those of the tokens' own texts, in characters."""
        offsets, at = [], self._offsets.get(index, 0)
        for token in tokens:
            offsets.append(at)
            at += len(token.token)
        self._offsets[index] = at
        return {
            "tokens": [token.token for token in tokens],
            "token_logprobs": [_finite(token.logprob) for token in tokens],
            "top_logprobs": [{one.token: _finite(one.logprob) for one in token.top} for token in tokens],
            "text_offset": offsets,
        }


def _chat_logprobs(tokens: Sequence[TokenLogprob]) -> ChatLogprobs:
    content: list[ChatTokenLogprob] = [
        {**_top_logprob(token), "top_logprobs": [_top_logprob(one) for one in token.top]} for token in tokens
    ]
    return {"content": content, "refusal": None}


def _top_logprob(token: TokenLogprob) -> ChatTopLogprob:
    return {"token": token.token, "logprob": _finite(token.logprob), "bytes": list(token.bytes)}


def _finite(logprob: float) -> float:
    """The logarithm, or the least that the contract has: JSON has no infinity."""
    return max(logprob, LEAST_LOGPROB)
