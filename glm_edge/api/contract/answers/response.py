"""The serializer of POST /v1/responses: one answer, a message or a call of a function. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from ....types import FinishReason, Stats, TokenLogprob
from ..response_objects import ModelResponse, OutputCall, OutputMessage, OutputText, ResponseSettings, ResponseUsage
from .calls import AnswerPart, CallReader
from .events import named_event
from .serializer import FinishedAnswer, ResponseHead

_Status = Literal["in_progress", "completed", "incomplete"]


class ResponseSerializer:
    """The serializer of one response.

    Args:
        settings: what was asked for, which the response repeats.
    """

    done = b""  # its last event is "response.completed"

    def __init__(self, head: ResponseHead, settings: ResponseSettings) -> None:
        self.head = head
        self._settings = settings
        self._reader = CallReader(head.tools, required=head.must_call)
        self._hex = head.id.rpartition("_")[2]
        self._number = 0  # of the next event
        self._name = ""
        self._text = ""  # of the message, or the call's arguments, so far
        self._begun = False  # whether the item's first event was sent

    def completion(self, answers: Sequence[FinishedAnswer]) -> ModelResponse:
        (answer,) = answers
        for part in [*self._reader.feed(answer.text), *self._reader.end()]:
            self._take(part)
        return self._response(_status(answer.finish_reason), answer.stats)

    def role_event(self, index: int) -> bytes:
        response = self._response("in_progress", None)
        return b"".join(self._event(f"response.{name}", response=response) for name in ("created", "in_progress"))

    def text_event(self, index: int, text: str, logprobs: Sequence[TokenLogprob] = ()) -> bytes:
        return b"".join(map(self._part_events, self._reader.feed(text)))

    def finish_event(self, index: int, finish_reason: FinishReason, stats: Stats | None = None) -> bytes:
        status = _status(finish_reason)
        sent = b"".join(map(self._part_events, self._reader.end())) + self._begin()
        where = {"item_id": self._item_id, "output_index": 0}
        if self._reader.is_call:
            done = {"name": self._name, "arguments": self._text}
            sent += self._event("response.function_call_arguments.done", **where, **done)
        else:
            at = {**where, "content_index": 0}
            sent += self._event("response.output_text.done", **at, text=self._text, logprobs=[])
            sent += self._event("response.content_part.done", **at, part=self._output_text)
        sent += self._event("response.output_item.done", output_index=0, item=self._item(status))
        return sent + self._event(f"response.{status}", response=self._response(status, stats))

    def usage_event(self, stats: Stats) -> bytes:
        """Nothing: the last event has the counts."""
        return b""

    def _take(self, part: AnswerPart) -> None:
        if part.kind == "name":
            self._name = part.value
        else:
            self._text += part.value

    def _part_events(self, part: AnswerPart) -> bytes:
        if part.kind == "name":
            self._take(part)
            return self._begin()
        sent = self._begin()
        self._take(part)
        where = {"item_id": self._item_id, "output_index": 0, "delta": part.value}
        if part.kind == "arguments":
            return sent + self._event("response.function_call_arguments.delta", **where)
        return sent + self._event("response.output_text.delta", **where, content_index=0, logprobs=[])

    def _begin(self) -> bytes:
        """The events before the item's first part, once."""
        if self._begun:
            return b""
        self._begun = True
        if self._reader.is_call:
            return self._event("response.output_item.added", output_index=0, item=self._item("in_progress"))
        empty: OutputMessage = {**self._message("in_progress"), "content": []}
        sent = self._event("response.output_item.added", output_index=0, item=empty)
        where = {"item_id": self._item_id, "output_index": 0, "content_index": 0}
        return sent + self._event("response.content_part.added", **where, part={**self._output_text, "text": ""})

    @property
    def _item_id(self) -> str:
        return f"{'fc' if self._reader.is_call else 'msg'}_{self._hex}"

    @property
    def _output_text(self) -> OutputText:
        return {"type": "output_text", "text": self._text, "annotations": [], "logprobs": []}

    def _message(self, status: _Status) -> OutputMessage:
        return {
            "type": "message",
            "id": self._item_id,
            "status": status,
            "role": "assistant",
            "content": [self._output_text],
        }

    def _item(self, status: _Status) -> OutputMessage | OutputCall:
        if not self._reader.is_call:
            return self._message(status)
        return {
            "type": "function_call",
            "id": self._item_id,
            "status": status,
            "call_id": f"call_{self._hex}",
            "name": self._name,
            "arguments": self._text,
        }

    def _response(self, status: _Status, stats: Stats | None) -> ModelResponse:
        return {
            "id": self.head.id,
            "object": "response",
            "created_at": self.head.created,
            "status": status,
            "error": None,
            "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
            "model": self.head.model,
            "output": [] if stats is None else [self._item(status)],
            "previous_response_id": None,
            "store": False,
            "truncation": "disabled",
            "usage": None if stats is None else _usage(stats),
            **self._settings,
        }

    def _event(self, type: str, **fields: Any) -> bytes:
        data = {"type": type, "sequence_number": self._number, **fields}
        self._number += 1
        return named_event(type, data)


def _status(reason: FinishReason) -> _Status:
    return "incomplete" if reason == "length" else "completed"


def _usage(stats: Stats) -> ResponseUsage:
    return {
        "input_tokens": stats.prompt_tokens,
        "input_tokens_details": {"cached_tokens": stats.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": stats.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": stats.prompt_tokens + stats.completion_tokens,
    }
