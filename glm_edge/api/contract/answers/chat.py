"""The serializer of chat completions: text, or a call of a tool. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from ....types import FinishReason, Stats, TokenLogprob
from ..responses import (
    AssistantDelta,
    AssistantMessage,
    ChatCompletion,
    ChatCompletionChunk,
    ChatLogprobs,
    ChatTokenLogprob,
    ChatTopLogprob,
    ToolCallDelta,
    ToolCallObject,
)
from ..strict_json import dumps
from .calls import AnswerPart, CallReader
from .events import DONE, event
from .figures import figures, total, usage
from .serializer import FinishedAnswer, ResponseHead, finite


class ChatSerializer:
    """The serializer for chat completions. Events of text differ in the text alone: their frame is made once."""

    done = DONE

    def __init__(self, head: ResponseHead) -> None:
        self.head = head
        self._frames: dict[int, tuple[bytes, bytes]] = {}  # before and after the text, by the index of the answer
        self._readers: dict[int, CallReader] = {}
        self._unsent: dict[int, list[TokenLogprob]] = {}  # of text that a reader holds back

    def completion(self, answers: Sequence[FinishedAnswer]) -> ChatCompletion:
        stats = total([answer.stats for answer in answers])
        return {
            **self.head.info(),
            "object": "chat.completion",
            "choices": [
                {
                    "index": index,
                    "message": self._message(index, answer.text),
                    "logprobs": _chat_logprobs(answer.logprobs) if self.head.logprobs else None,
                    "finish_reason": self._reason(index, answer.finish_reason),
                }
                for index, answer in enumerate(answers)
            ],
            "usage": usage(stats),
            "glm_edge": figures(stats, trim=self.head.trim),
        }

    def _message(self, index: int, text: str) -> AssistantMessage:
        reader = self._reader(index)
        parts = [*reader.feed(text), *reader.end()]
        if not reader.is_call:
            return {"role": "assistant", "content": None if reader.is_cut else text, "refusal": None}
        name, arguments = ("".join(part.value for part in parts if part.kind == kind) for kind in ("name", "arguments"))
        call: ToolCallObject = {
            "id": self._call_id(index),
            "type": "function",
            "function": {"name": name, "arguments": arguments},
        }
        return {"role": "assistant", "content": None, "refusal": None, "tool_calls": [call]}

    def _reader(self, index: int) -> CallReader:
        return self._readers.setdefault(index, CallReader(self.head.tools, required=self.head.must_call))

    def _reason(self, index: int, reason: FinishReason) -> FinishReason | Literal["tool_calls"]:
        return "tool_calls" if reason == "stop" and self._reader(index).is_call else reason

    def _call_id(self, index: int) -> str:
        return f"call_{self.head.id.rpartition('-')[2]}{index}"

    def role_event(self, index: int) -> bytes:
        return self._event(index, {"role": "assistant", "content": None if self.head.tools else "", "refusal": None})

    def text_event(self, index: int, text: str, logprobs: Sequence[TokenLogprob] = ()) -> bytes:
        if not self.head.tools:
            return self._text_event(index, text, logprobs)
        self._unsent.setdefault(index, []).extend(logprobs)
        return self._part_events(index, self._reader(index).feed(text))

    def _part_events(self, index: int, parts: Sequence[AnswerPart]) -> bytes:
        """The events of an answer that may be a call."""
        sent = b""
        for part in parts:
            if part.kind == "text":
                sent += self._text_event(index, part.value, self._unsent.pop(index, []))
                continue
            call: ToolCallDelta = {"index": 0, "function": {"arguments": part.value}}
            if part.kind == "name":
                call = {
                    "index": 0,
                    "id": self._call_id(index),
                    "type": "function",
                    "function": {"name": part.value, "arguments": ""},
                }
            sent += self._event(index, {"tool_calls": [call]}, self._unsent.pop(index, []))
        return sent

    def _text_event(self, index: int, text: str, logprobs: Sequence[TokenLogprob]) -> bytes:
        if logprobs:
            return self._event(index, {"content": text}, logprobs)
        frame = self._frames.get(index)
        if frame is None:
            mark = "\0text\0"
            before, _, after = self._event(index, {"content": mark}).rpartition(dumps(mark).encode())
            frame = self._frames[index] = before, after
        return frame[0] + dumps(text).encode() + frame[1]

    def finish_event(self, index: int, finish_reason: FinishReason, stats: Stats | None = None) -> bytes:
        rest = self._part_events(index, self._reader(index).end())
        left = self._unsent.pop(index, ())
        return rest + self._event(index, {}, left, self._reason(index, finish_reason), stats)

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
        finish_reason: FinishReason | Literal["tool_calls"] | None = None,
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


def _chat_logprobs(tokens: Sequence[TokenLogprob]) -> ChatLogprobs:
    content: list[ChatTokenLogprob] = [
        {**_top_logprob(token), "top_logprobs": [_top_logprob(one) for one in token.top]} for token in tokens
    ]
    return {"content": content, "refusal": None}


def _top_logprob(token: TokenLogprob) -> ChatTopLogprob:
    return {"token": token.token, "logprob": finite(token.logprob), "bytes": list(token.bytes)}
