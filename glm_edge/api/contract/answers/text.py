"""The serializer of completions of texts. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from ....types import FinishReason, Stats, TokenLogprob
from ..responses import Completion, CompletionChunk, TextLogprobs
from .events import DONE, event
from .figures import figures, total, usage
from .serializer import FinishedAnswer, ResponseHead, finite


class TextSerializer:
    """The serializer for completions of a text. Counts the characters of each answer, for `text_offset`."""

    done = DONE

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
            "token_logprobs": [finite(token.logprob) for token in tokens],
            "top_logprobs": [{one.token: finite(one.logprob) for one in token.top} for token in tokens],
            "text_offset": offsets,
        }
