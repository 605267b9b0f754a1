"""The serializer of completions of texts. Pure."""

from __future__ import annotations

import codecs
from collections.abc import Sequence

from ....types import FinishReason, Stats, TokenLogprob
from ..responses import Completion, CompletionChunk, TextLogprobs
from .events import DONE, event
from .figures import figures, total, usage
from .serializer import FinishedAnswer, ResponseHead, finite


class TextSerializer:
    """The serializer for completions of a text."""

    done = DONE

    def __init__(self, head: ResponseHead) -> None:
        self.head = head
        self._offsets: dict[int, TextOffsets] = {}  # by the index of the answer

    def completion(self, answers: Sequence[FinishedAnswer]) -> Completion:
        stats = total([answer.stats for answer in answers], self.head.prompts)
        return {
            **self.head.info(),
            "object": "text_completion",
            "choices": [
                {
                    "index": index,
                    "text": answer.text,
                    "logprobs": self._logprobs(index, answer.text, answer.logprobs) if self.head.logprobs else None,
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
        scores = self._logprobs(index, text, logprobs) if self.head.logprobs else None
        chunk = self._chunk()
        chunk["choices"] = [{"index": index, "text": text, "logprobs": scores, "finish_reason": finish_reason}]
        if self.head.include_usage:
            chunk["usage"] = None
        if stats is not None:
            chunk["glm_edge"] = figures(stats, trim=False)
        return event(chunk)

    def _logprobs(self, index: int, text: str, tokens: Sequence[TokenLogprob]) -> TextLogprobs:
        """The older form: an array for each property."""
        return {
            "tokens": [token.token for token in tokens],
            "token_logprobs": [finite(token.logprob) for token in tokens],
            "top_logprobs": [{one.token: finite(one.logprob) for one in token.top} for token in tokens],
            "text_offset": self._offsets.setdefault(index, TextOffsets()).add(text, tokens),
        }


class TextOffsets:
    """Where the tokens of one answer begin in its text, in characters. A token that begins inside a character has the
    place of that character."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._at = 0  # whole characters so far
        self._begin: str | None = ""  # of the text, until the first token has come

    def add(self, text: str, tokens: Sequence[TokenLogprob]) -> list[int]:
        """The offsets of more tokens, which came with more of the text."""
        pieces, offsets = [token.bytes for token in tokens], []
        if self._begin is not None:
            self._begin += text
            if pieces:
                pieces[0] = pieces[0][_has_dummy_prefix(pieces, self._begin) :]
                self._begin = None
        for piece in pieces:
            offsets.append(self._at)
            self._at += len(self._decoder.decode(piece))
        return offsets


def _has_dummy_prefix(pieces: Sequence[bytes], text: str) -> bool:
    """Whether the tokens begin with a space more than the text: the one that SentencePiece puts before a prompt."""
    read = b"".join(pieces)
    return bool(text) and len(read) - len(read.lstrip(b" ")) > len(text) - len(text.lstrip(" "))
