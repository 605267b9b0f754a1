"""One answer being computed: its tokens, how many of them are in the cache, and the text that its reader has.

A waiting prompt, a half computed prompt and an answer being written differ only in `pending`, the number of tokens that
are not in the cache yet. The scheduler moves `n_past`; everything else happens in `accept`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from ..errors import GlmEdgeError
from ..generation import Generation
from ..llama.model import Model
from ..types import Chunk, FinishReason, Request, Stats, TokenLogprob
from .adapters import AdapterCells
from .drafts import Drafter, Guess, Histories
from .sampling.logprobs import scores, token_logprob
from .sampling.sample import Floats
from .sampling.sampler import Sampler
from .text.detokenizer import AnswerText
from .text.tokenizer import Prompt


@dataclass(frozen=True)
class GenerationJob:
    """The order for one answer: its request, its prompt and its limit."""

    request: Request
    prompt: Prompt
    max_new_tokens: int  # limit of the answer; 0 where only the prompt's scores are wanted
    trimmed_rounds: int = 0
    index: int = 0  # which of the request's answers
    adapter: AdapterCells | None = None  # its cells are in front of the prompt

    @property
    def n_front(self) -> int:
        """Cells in front of the prompt."""
        return 0 if self.adapter is None else self.adapter.n

    @property
    def prompt_end(self) -> int:
        """Where the answer begins among the tokens of its sequence."""
        return self.n_front + len(self.prompt.ids)


class Sequence:
    """The sequence of one answer: its tokens and how many of them are in the cache.

    Args:
        siblings: all answers to the request, this one included once all are made; they share the `generation`.
        on_end: called once, in the engine's thread, before the reader gets the end.
        clock: seconds, of which only differences count.
    """

    def __init__(
        self,
        job: GenerationJob,
        sampler: Sampler,
        model: Model,
        generation: Generation[Chunk],
        siblings: list[Sequence],
        on_end: Callable[[Sequence], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.job = job
        # what stands for the adapter's cells, the prompt, then the answer so far
        self.tokens = [*([] if job.adapter is None else job.adapter.tokens), *job.prompt.ids]
        self.shown = ""  # text that the reader has
        self.n_past = 0  # how many of the tokens are in the cache
        self.n_stored = 0  # n_past at the last save into the prefix store
        self.seq_id = -1  # llama.cpp's sequence id; -1 while it has none
        self.finished = False
        self.failed = False
        self.sampler = sampler
        self._model = model
        self._generation = generation
        self._siblings = siblings
        self._on_end = on_end
        self._clock = clock
        request = job.request
        continues = bool(request.prompts) or any(message.role == "assistant" for message in request.messages[-1:])
        self._text = AnswerText(request.stop, continues=continues)
        self._echoed = not request.echo  # whether the reader has the prompt, or does not want it
        # the place whose logits are the next to score a token of the prompt; the last one where none is scored
        self._to_score = max(job.n_front, job.n_front + job.prompt.begin - 1) if request.scored else job.prompt_end - 1
        self._logprobs: list[TokenLogprob] = []  # of tokens whose text the reader does not have yet
        self._drafter: Drafter | None = None
        self._n_cached = 0  # prompt tokens that were not computed
        self._drafted = self._accepted = 0
        self._submitted = self._clock()
        self._started: float | None = None  # when its first token was put into a batch
        self._reading = (0, 0, 0.0)  # of its slice in the current batch: tokens before it, tokens in it, start time
        self._first: float | None = None  # when the first token of the answer was sampled
        self._last = 0.0

    @property
    def scope(self) -> bytes:
        """Whose requests share prefixes with it."""
        return self.job.request.prefix_scope

    @property
    def pending(self) -> int:
        """Tokens to compute before the next one can be sampled; 1 while the answer is being written."""
        return len(self.tokens) - self.n_past

    @property
    def computed(self) -> list[int]:
        """The tokens that are in the cache."""
        return self.tokens[: self.n_past]

    @property
    def _written(self) -> int:
        """Tokens of the answer so far."""
        return len(self.tokens) - self.job.prompt_end

    @property
    def ids(self) -> list[int]:
        """The token ids of prompt and answer so far."""
        return self.tokens[self.job.n_front :]

    @property
    def cancelled(self) -> bool:
        """Whether nobody waits for it any more: its reader left, or the error of a sibling was the request's end."""
        return self._generation.cancelled or self._request_failed

    @property
    def _request_failed(self) -> bool:
        return any(sequence.failed for sequence in self._siblings)

    def reuse(self, n: int) -> None:
        """The first `n` tokens are in the cache already; nothing is computed for them."""
        self.n_past = n
        if self._first is None:
            self._n_cached = max(0, n - self.job.n_front)

    @property
    def reusable(self) -> int:
        """How many of its tokens may come from a cache: logits are needed of those after them."""
        return min(len(self.tokens) - 1, self._to_score) if self.scoring else len(self.tokens) - 1

    @property
    def scoring(self) -> bool:
        """Whether tokens of its prompt are still to be scored."""
        return self._to_score < self.job.prompt_end - 1

    def score(self, logits: Callable[[int], Floats], n: int) -> None:
        """Score the prompt's tokens by a slice of `n` that was just computed; `logits` gives those of its i-th."""
        top = self.job.request.sampling.top_logprobs
        for place in range(max(self._to_score, self.n_past - n), min(self.n_past, self.job.prompt_end - 1)):
            scored = scores(logits(place - self.n_past + n), self.tokens[place + 1], top)
            self._logprobs.append(token_logprob(self._model, scored))
            self._to_score = place + 1
        self._echo()

    def _echo(self) -> None:
        """Give the reader the prompt, once, and the scores of its tokens so far."""
        text = "" if self._echoed else self.job.prompt.text
        if text or self._logprobs:
            self._tell(Chunk(text, self.job.index, logprobs=self._take_logprobs()))
        self._echoed = True

    def preempt(self) -> None:
        """Return its cells: its tokens have to be restored or computed again. Nothing else changes."""
        self.seq_id = -1
        self.n_past = 0

    def guess(self, limit: int, histories: Histories) -> Guess:
        """Up to `limit` tokens that may come next; within the limit of the answer."""
        if self._drafter is None:
            self._drafter = Drafter(self.tokens, self.job.prompt_end, histories.of(self.scope))
        return self._drafter.guess(max(0, min(limit, self.job.max_new_tokens - self._written - 1)))

    def verified(self, drafted: int, accepted: int) -> None:
        """Of `drafted` tokens the first `accepted` were what the sampler chose."""
        self._drafted += drafted
        self._accepted += accepted

    @property
    def started(self) -> bool:
        """Whether any of its tokens has been in a batch."""
        return self._started is not None

    def start(self, n: int) -> None:
        """Note that its next `n` tokens go into a batch now."""
        if n > 1:
            self._reading = (self.n_past, n, self._clock())
        if self._started is None:
            self._started = self._clock()
            self._generation.start()

    def read(self, token_s: float) -> int:
        """Tokens computed by now. Those of the current batch are estimated by the clock, at `token_s` seconds each."""
        before, n, began = self._reading
        of_batch = int((self._clock() - began) / token_s) if token_s else 0
        return max(self.n_past, before + min(n - 1, of_batch)) - self.job.n_front

    def accept(self, token: int) -> None:
        """Append the next token; give the reader the text that it adds, and the end if this is the end."""
        if not self._echoed:
            self._echo()
        self._last = self._clock()
        if self._first is None:
            self._first = self._last
        if token == self._model.eos:
            self.finish("stop")
            return
        self.tokens.append(token)
        self.sampler.accept(token)
        if self.sampler.scores is not None:
            self._logprobs.append(token_logprob(self._model, self.sampler.scores))
        text = self._text.feed(self._model.piece(token))
        if text:
            self.shown += text
            self._tell(Chunk(text, self.job.index, logprobs=self._take_logprobs()))
        if self._text.stopped:
            self.finish("stop")
        elif self._written >= self.job.max_new_tokens:
            self.finish("length")

    def finish(self, reason: FinishReason) -> None:
        """End the answer: give the reader the rest of the text, the reason and the figures."""
        self.finished = True
        if not self._echoed and reason != "cancelled":
            self._echo()
        rest = self._text.end(complete=reason == "stop")
        self.shown += rest
        self._on_end(self)
        if self._text.stopped:  # the tokens of a stop string are not part of the answer
            self._logprobs.clear()
        self._tell(Chunk(rest, self.job.index, reason, self.so_far(), self._take_logprobs()))
        if all(sequence.finished for sequence in self._siblings) and not self._request_failed:
            self._generation.finish()

    def fail(self, error: GlmEdgeError) -> None:
        """End the request with an error: its reader gets it once, and its other answers count as cancelled."""
        told = self._request_failed
        self.finished = self.failed = True
        self._on_end(self)
        if not told:
            self._generation.fail(error)

    def _tell(self, chunk: Chunk) -> None:
        """Give the reader a chunk, unless the request has ended with an error."""
        if not self._request_failed:
            self._generation.put(chunk)

    def _take_logprobs(self) -> tuple[TokenLogprob, ...]:
        taken = tuple(self._logprobs)
        self._logprobs.clear()
        return taken

    def so_far(self) -> Stats:
        """Counts and times until now."""
        now = self._clock()
        started = self._started if self._started is not None else now
        first = self._first if self._first is not None else now
        return Stats(
            prompt_tokens=len(self.job.prompt.ids),
            completion_tokens=self._written,
            cached_tokens=self._n_cached,
            queue_s=started - self._submitted,
            prefill_s=first - started,
            decode_s=max(0.0, self._last - first),
            drafted_tokens=self._drafted,
            accepted_tokens=self._accepted,
            trimmed_rounds=self.job.trimmed_rounds,
        )
