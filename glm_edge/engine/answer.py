"""One answer on its way: its tokens, how many of them are in the cache, and what its reader has been given.

A prompt that waits, a prompt half computed and an answer being written differ only in how many tokens are not in the
cache yet: `pending`. The scheduler moves `n_past`; everything else happens in `accept`.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from ..errors import GlmEdgeError
from ..generation import Generation
from ..llama import Model
from ..types import Chunk, FinishReason, Request, Stats
from .sampler import Sampler
from .text import AnswerText


class Answer:
    """Args:
    prompt_text, prompt: the whole prompt, as text and as ids.
    limit: tokens that the answer may have at most; at least 1.
    on_end: called once, in the engine's thread, before the reader is told of the end.
    """

    def __init__(
        self,
        request: Request,
        prompt_text: str,
        prompt: list[int],
        limit: int,
        model: Model,
        generation: Generation[Chunk],
        on_end: Callable[[Answer], None],
    ) -> None:
        self._on_end = on_end
        self.prompt_text = prompt_text
        self.n_prompt = len(prompt)
        self.shown = ""  # the answer so far, as its reader got it
        self.tokens = list(prompt)  # prompt, then the answer so far
        self.n_past = 0  # how many of them are in the cache
        self.sequence = -1  # llama.cpp's sequence while it has one
        self.finished = False
        self.sampler = Sampler(request.sampling)
        self._n_cached = 0  # prompt tokens that were in the cache before
        self._generation = generation
        self._limit = limit
        self._model = model
        self._text = AnswerText(request.stop)
        self._submitted = time.monotonic()
        self._started: float | None = None  # when its first token was put into a batch
        self._first: float | None = None  # when the first token of the answer was drawn
        self._last = 0.0

    @property
    def pending(self) -> int:
        """Tokens to compute before the next one can be drawn; 1 while the answer is being written."""
        return len(self.tokens) - self.n_past

    @property
    def cancelled(self) -> bool:
        return self._generation.cancelled

    def cached(self, n: int) -> None:
        """The first `n` tokens are in its sequence already."""
        self.n_past = n
        if self._first is None:
            self._n_cached = n

    def sent_back(self) -> None:
        """Its cells are gone: all its tokens have to be computed again, nothing else changes."""
        self.sequence = -1
        self.n_past = 0

    def start(self) -> None:
        """Its first tokens go into a batch now."""
        if self._started is None:
            self._started = time.monotonic()
            self._generation.start()

    def accept(self, token: int) -> None:
        """Take the next token; give the reader what it adds, and the end when this is the end."""
        self._last = time.monotonic()
        if self._first is None:
            self._first = self._last
        if token == self._model.eos:
            self.finish("stop")
            return
        self.tokens.append(token)
        text = self._text.feed(self._model.piece(token))
        if text:
            self.shown += text
            self._generation.put(Chunk(text))
        if self._text.stopped:
            self.finish("stop")
        elif len(self.tokens) - self.n_prompt >= self._limit:
            self.finish("length")

    def finish(self, reason: FinishReason) -> None:
        """Give the reader the rest of the text, the reason and the figures."""
        self.finished = True
        rest = self._text.end(complete=reason == "stop")
        self.shown += rest
        self._on_end(self)
        self._generation.put(Chunk(rest, reason, self._stats()))
        self._generation.finish()

    def fail(self, error: GlmEdgeError) -> None:
        self.finished = True
        self._on_end(self)
        self._generation.fail(error)

    def _stats(self) -> Stats:
        now = time.monotonic()
        started = self._started if self._started is not None else now
        first = self._first if self._first is not None else now
        return Stats(
            prompt_tokens=self.n_prompt,
            completion_tokens=len(self.tokens) - self.n_prompt,
            cached_tokens=self._n_cached,
            queue_s=started - self._submitted,
            prefill_s=first - started,
            decode_s=max(0.0, self._last - first),
        )
