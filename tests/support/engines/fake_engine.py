"""An engine without a model: real code behind the Engine protocol that plays a script for every request.

It queues, starts, cancels, fails and closes as the real one must; what it says is up to the test. A script is a
sequence of steps: a string is a chunk of text, a number a pause in seconds, an Event is waited for, an error ends the
answer with it, a Progress is how far it is from then on. Texts count as one token each, and a message as one per
character.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from glm_edge.engine.text.trim import trimmed
from glm_edge.errors import ContextLengthError, EngineClosedError, GlmEdgeError, OverloadedError
from glm_edge.generation import Generation, Progress
from glm_edge.types import Chunk, FinishReason, Message, ModelInfo, Request, Stats, TokenLogprob

Step = str | float | threading.Event | GlmEdgeError | Progress
Script = Sequence[Step] | Callable[[Request], Iterable[Step]]
_Job = tuple[Request, "Generation[Chunk]", float]


class FakeEngine:
    """Plays `script` for each request, `slots` at a time, with room for `waiting` more.

    What tests look at: `requests` and `generations` in the order of submit, `played` (requests whose script began).
    """

    def __init__(
        self, script: Script = ("你好", "！"), *, slots: int = 4, waiting: int = 16, n_ctx: int = 8192
    ) -> None:
        self.info = ModelInfo("chatglm2-6b", Path("fake.gguf"), 6_243_584_000, n_ctx, digest="fa" * 32)
        self.requests: list[Request] = []
        self.generations: list[Generation[Chunk]] = []
        self.played: list[Request] = []
        self._script = script
        self._capacity = slots + waiting
        self._lock = threading.Lock()
        self._live: set[Generation[Chunk]] = set()
        self._jobs: queue.Queue[_Job] = queue.Queue()
        self._closed = threading.Event()
        self._dropped: dict[Generation[Chunk], int] = {}  # rounds that were left out
        self._progress: dict[Generation[Chunk], Progress] = {}
        self.texts: list[str] = []  # that are being tokenized
        self.may_tokenize = threading.Event()
        self.may_tokenize.set()
        self.answer_s: float | None = None  # what an answer takes, as far as waiting ones are told
        self._slots = slots
        self._workers = 0  # threads that play scripts; they end when nothing waits

    @property
    def ready(self) -> bool:
        return not self._closed.is_set()

    @property
    def failure(self) -> GlmEdgeError | None:
        return None

    @property
    def ended(self) -> bool:
        return self._closed.is_set()

    @property
    def steps(self) -> int:
        """The number of scripts begun."""
        return len(self.played)

    def submit(self, request: Request) -> Generation[Chunk]:
        if self._closed.is_set():
            raise EngineClosedError("closed")
        dropped = 0
        if request.trim and not request.prompts:
            messages, dropped = trimmed(request.messages, self.info.n_ctx, self.info.n_ctx // 4, _message_tokens)
            request = replace(request, messages=messages)
        if _prompt_tokens(request) >= self.info.n_ctx:
            param = "prompt" if request.prompts else request.param
            raise ContextLengthError(_prompt_tokens(request), self.info.n_ctx, param=param)
        generation: Generation[Chunk] = Generation(progress=lambda: self._progress_of(generation))
        with self._lock:
            if len(self._live) >= self._capacity:
                raise OverloadedError("every place is taken", retry_after=3.2)
            self.requests.append(request)
            self.generations.append(generation)
            self._dropped[generation] = dropped
            self._live.add(generation)
        self._jobs.put((request, generation, time.monotonic()))
        with self._lock:
            if self._workers < self._slots:
                self._workers += 1
                threading.Thread(target=self._work, daemon=True).start()
        return generation

    def tokenize(self, text: str, check: Callable[[], None] = lambda: None) -> list[int]:
        """A token for each character, once `may_tokenize` is set."""
        self.texts.append(text)
        try:
            while not self.may_tokenize.wait(0.01) and not self._closed.is_set():
                check()
        finally:
            self.texts.remove(text)
        if self._closed.is_set():
            raise EngineClosedError("closed")
        return [ord(character) for character in text]

    def reload_adapters(self) -> ModelInfo:
        """The adapters of `self.info`."""
        return self.info

    def close(self) -> None:
        self._closed.set()
        with self._lock:
            for generation in self._live:
                generation.fail(EngineClosedError("closed"))
            self._live.clear()

    @property
    def live(self) -> int:
        """Requests submitted and not over."""
        with self._lock:
            return len(self._live)

    def _progress_of(self, generation: Generation[Chunk]) -> Progress | None:
        if generation.started:
            return self._progress.get(generation)
        with self._lock:
            waiting = [one for one in self.generations if one in self._live and not one.started]
        if generation not in waiting:
            return None
        position = waiting.index(generation) + 1
        return Progress(position, None if self.answer_s is None else self.answer_s * position)

    def _work(self) -> None:
        while True:
            with self._lock:
                try:
                    request, generation, submitted = self._jobs.get_nowait()
                except queue.Empty:
                    self._workers -= 1
                    return
            if not generation.cancelled and not self._closed.is_set():
                with self._lock:
                    self.played.append(request)
                self._play(request, generation, submitted)
            with self._lock:
                self._live.discard(generation)

    def _play(self, request: Request, generation: Generation[Chunk], submitted: float) -> None:
        generation.start()
        if all(self._answer(index, request, generation, submitted) for index in range(request.answers)):
            generation.finish()

    def _answer(self, index: int, request: Request, generation: Generation[Chunk], submitted: float) -> bool:
        """Play the script for one of n answers, one after the other; False when that was ended from outside."""
        script = self._script(request) if callable(self._script) else self._script
        started, tokens = time.monotonic(), 0
        reason: FinishReason = "stop"
        if request.echo:
            prompt = request.prompts[index // request.n]
            text = prompt if isinstance(prompt, str) else "".join(map(chr, prompt))
            generation.put(Chunk(text, index, logprobs=tuple(one for c in text for one in _logprobs(c, request))))
        for step in script:
            if isinstance(step, GlmEdgeError):
                generation.fail(step)
                return False
            if isinstance(step, Progress):
                self._progress[generation] = step
            elif isinstance(step, str):
                if tokens == request.max_tokens:
                    reason = "length"
                    break
                generation.put(Chunk(step, index, logprobs=_logprobs(step, request)))
                tokens += 1
            elif not self._wait(step, generation):
                return False  # whoever cancelled or closed has said so already
        times = (started - submitted, 0.0, time.monotonic() - started)
        stats = Stats(_prompt_tokens(request), tokens, 0, *times, trimmed_rounds=self._dropped[generation])
        generation.put(Chunk("", index, reason, stats))
        return True

    def _wait(self, step: float | threading.Event, generation: Generation[Chunk]) -> bool:
        """False when the answer was cancelled, or the engine closed, meanwhile."""
        end = time.monotonic() + (step if isinstance(step, float | int) else 3600)
        while time.monotonic() < end and not (isinstance(step, threading.Event) and step.wait(0.002)):
            if generation.cancelled or self._closed.wait(0 if isinstance(step, threading.Event) else 0.002):
                return False
        return True


def _logprobs(text: str, request: Request) -> tuple[TokenLogprob, ...]:
    """As likely as not, with the text itself as the only alternative, where they are asked for."""
    if not request.sampling.logprobs:
        return ()
    one = TokenLogprob(text, text.encode(), -0.5)
    return (replace(one, top=(one,) * min(1, request.sampling.top_logprobs)),)


def _prompt_tokens(request: Request) -> int:
    return max(map(len, request.prompts), default=0) + _message_tokens(request.messages)


def _message_tokens(messages: Sequence[Message]) -> int:
    return sum(len(message.content) for message in messages)
