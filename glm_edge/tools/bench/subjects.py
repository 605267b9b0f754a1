"""The subjects of the benchmark: functions that run in a process of their own and return figures by name.

Names end with their unit: _s seconds, _bytes, _rate tokens per second, _ms. If the bare loop runs beside the engine,
both use the same weights in the same thread, block by block in turn: so both see the same machine.
Prompts are random digits, different in each run, so that no cache holds them unless that is the point.
"""

from __future__ import annotations

import functools
import time
from dataclasses import dataclass, replace

from ...engine.engine import LlamaEngine
from ...engine.text.tokenizer import Tokenizer
from ...llama import huge_pages
from ...llama.library import high_level
from ...model.gguf import read_gguf
from ...system.device import peak_memory, processors
from ...types import EngineConfig, Message, Request, SamplingParams, Stats
from .asking import LOAD, WORD, ask, load, over, prompt, stats_of, submit
from .bare import Bare
from .child import Tell

Figures = dict[str, float]
_BLOCKS = 4  # decode is measured in this many blocks, with the bare loop between them
_QUESTION = 32  # tokens that a second turn adds
ARRIVING = 1500  # tokens of the prompt that arrives while another answer is being written


@dataclass(frozen=True)
class BenchTask:
    """The settings of a benchmark. Lengths are tokens."""

    config: EngineConfig
    prompt: int
    answer: int
    streams: tuple[int, ...] = ()
    depths: tuple[int, ...] = ()  # lengths of context at which prefill and decode are measured
    bare: bool = False
    seed: int = 0


def threads(config: EngineConfig) -> tuple[int, int]:
    """Threads for single tokens and for prompts, as the engine chooses them."""
    n = config.n_threads or processors().best
    return n, config.n_threads_batch or n


def measure_engine(task: BenchTask, tell: Tell) -> Figures:
    """The figures of one loaded engine, as `task` asks for them."""
    began = time.perf_counter()
    engine = load(task.config, tell)
    figures = {"load_s": time.perf_counter() - began}
    try:
        _Measurement(engine, task, figures, tell).run()
    finally:
        engine.close()
    return figures


def measure_restart(task: BenchTask, tell: Tell) -> Figures:
    """The first answer of a new process, to the prompt that `measure_engine` answered with the same cache folder.

    Without its time if that prompt was too short to be stored on disk.
    """
    engine = load(task.config, tell)
    try:
        tokenizer = Tokenizer(engine.model, read_gguf(task.config.model))
        stats, _ = ask(engine, Request(prompt(tokenizer, task.prompt, task.seed), SamplingParams(0), 1), tell)
    finally:
        engine.close()
    figures = {"restart_cached_tokens": float(stats.cached_tokens)}
    if stats.cached_tokens:
        figures["restart_ttft_s"] = stats.queue_s + stats.prefill_s
    return figures


def measure_llama_cpp(task: BenchTask, tell: Tell) -> Figures:
    """llama_cpp.Llama on the same file, with its own defaults but for threads and context; no server, no chat."""
    began = time.perf_counter()
    one, many = threads(task.config)
    llama = high_level(task.config.model, n_ctx=task.config.n_ctx or 0, n_threads=one, n_threads_batch=many)
    figures = {"load_s": time.perf_counter() - began}
    tell(LOAD)
    ids = [(1000 + 37 * i + task.seed) % llama.n_vocab() for i in range(task.prompt)]
    for name, tokens in (("cold", ids), ("warm", [*ids, *ids[:_QUESTION]])):
        began = time.perf_counter()
        answer = llama.generate(tokens, temp=0.0)
        next(answer)
        seconds = time.perf_counter() - began
        figures[f"{name}_ttft_s"] = seconds
        if name == "cold":
            figures["prefill_rate"] = task.prompt / seconds
        tell(task.prompt if name == "cold" else _QUESTION)
    began = time.perf_counter()
    for _ in range(task.answer):
        next(answer)
    figures["decode_rate"] = task.answer / (time.perf_counter() - began)
    tell(WORD * task.answer)
    figures["peak_bytes"] = peak_memory()
    return figures


class _Measurement:
    """The measurement of one engine: its stages, in an order in which each finds what it needs in the cache."""

    def __init__(self, engine: LlamaEngine, task: BenchTask, figures: Figures, tell: Tell) -> None:
        self._engine = engine
        self._task = task
        self._figures = figures
        self._tell = tell
        self._tokenizer = Tokenizer(engine.model, read_gguf(task.config.model))
        self._bare: Bare | None = None

    def run(self) -> None:
        task = self._task
        # the very first batch also touches memory for the first time
        self._ask(prompt(self._tokenizer, 32, task.seed + 5000), 2)
        first = prompt(self._tokenizer, task.prompt, task.seed)
        cold, text = self._cold(first)
        self._figures["peak_bytes"] = peak_memory()  # before the bare loop adds its own cache
        self._figures["huge_bytes"] = huge_pages.bytes_in_use()
        if task.bare:
            n_ctx = min(2 * task.prompt + 2 * task.answer + 256, self._engine.info.n_ctx)
            n_batch = self._engine.plan.n_batch
            self._bare = Bare(
                self._engine.model, task.config, n_ctx=n_ctx, n_batch=n_batch, threads=threads(task.config)
            )
            self._prefill_ratio(self._bare, cold)
        self._second_turn(first, text, cold)
        self._decode(first)
        if self._bare is not None:
            self._bare.close()
        for n in task.streams:
            self._figures[f"streams_{n}_rate"] = self._streams(n)
        self._arrival()
        for depth in task.depths:
            self._at(depth)
        if self._bare is None:
            self._figures["peak_bytes"] = peak_memory()

    def _ask(self, messages: tuple[Message, ...], max_tokens: int) -> tuple[Stats, str]:
        return ask(self._engine, Request(messages, SamplingParams(0), max_tokens), self._tell)

    def _cold(self, messages: tuple[Message, ...]) -> tuple[Stats, str]:
        """A prompt that no cache holds; returns its answer too."""
        stats, text = self._ask(messages, 8)
        self._figures["cold_ttft_s"] = stats.queue_s + stats.prefill_s
        self._figures["prefill_rate"] = stats.prefill_rate
        return stats, text

    def _prefill_ratio(self, bare: Bare, cold: Stats) -> None:
        """The bare loop on as many tokens, then the engine on another prompt, then the bare loop again."""
        n = cold.prompt_tokens - cold.cached_tokens
        between = self._engine.between_batches
        between(lambda: bare.prefill(32))
        bare.cut(0)
        before = between(lambda: bare.prefill(n))
        bare.cut(0)
        self._tell(n)
        again = prompt(self._tokenizer, self._task.prompt, self._task.seed + 500)
        stats, _ = self._ask(again, 1)
        after = between(lambda: bare.prefill(stats.prompt_tokens - stats.cached_tokens))
        self._tell(n)
        rate = n / ((before + after) / 2)
        self._figures["bare_prefill_rate"] = rate
        self._figures["prefill_to_bare"] = stats.prefill_rate / rate

    def _second_turn(self, first: tuple[Message, ...], text: str, cold: Stats) -> None:
        """The next question of the same conversation, whose beginning is in the cache."""
        before = (*first, Message("assistant", text))
        length = (
            cold.prompt_tokens + cold.completion_tokens + _QUESTION - 1
        )  # the last written token is not in the cache
        stats, _ = self._ask(prompt(self._tokenizer, length, 1, *before), 1)
        new = stats.prompt_tokens - stats.cached_tokens
        self._figures["warm_ttft_s"] = stats.queue_s + stats.prefill_s
        self._figures["warm_new_tokens"] = new
        if (bare := self._bare) is not None:
            seconds = self._engine.between_batches(lambda: bare.prefill(new))
            self._figures["warm_ttft_to_bare"] = self._figures["warm_ttft_s"] / seconds

    def _decode(self, messages: tuple[Message, ...]) -> None:
        """One stream, in blocks; the bare loop at about the same depth between them."""
        block = max(2, self._task.answer // _BLOCKS)
        engine_s, bare_s, tokens, bare_tokens = 0.0, 0.0, 0, 0
        for _ in range(_BLOCKS):
            stats, _ = self._ask(messages, block + 1)
            engine_s += stats.decode_s
            tokens += stats.completion_tokens - 1
            if (bare := self._bare) is not None:
                bare.cut(stats.prompt_tokens)
                n = max(1, stats.completion_tokens - 1)
                bare_s += self._engine.between_batches(functools.partial(bare.decode, n))
                bare_tokens += n
                self._tell(WORD * n)
        if tokens > 0 and engine_s > 0:
            self._figures["decode_rate"] = tokens / engine_s
            if bare_tokens:
                self._figures["bare_decode_rate"] = bare_tokens / bare_s
                self._figures["decode_to_bare"] = (tokens / engine_s) / (bare_tokens / bare_s)
                self._figures["own_ms"] = 1000 * (engine_s / tokens - bare_s / bare_tokens)

    def _streams(self, n: int) -> float:
        """Tokens per second of `n` answers together, their prompts being in the cache already."""
        requests = [
            Request(prompt(self._tokenizer, 32, self._task.seed + 1000 + i), SamplingParams(0), self._task.answer)
            for i in range(n)
        ]
        for request in requests:
            ask(self._engine, replace(request, max_tokens=1), self._tell)
        generations = [submit(self._engine, request) for request in requests]
        rate = 0.0
        for generation in generations:
            rate += stats_of(list(generation)).decode_rate
            self._tell(self._task.answer)
        return rate

    def _arrival(self) -> None:
        """The longest wait between two chunks of an answer while a long prompt arrives."""
        length = min(ARRIVING, self._engine.info.n_ctx // 2)
        if self._task.config.slots < 2 or self._task.seed > 0:  # once is enough
            return
        running = submit(self._engine, Request(prompt(self._tokenizer, 32, self._task.seed + 2000), SamplingParams(0)))
        running.get()
        long = prompt(self._tokenizer, length, self._task.seed + 3000)
        arriving = submit(self._engine, Request(long, SamplingParams(0), 1))
        longest, last, told = 0.0, time.perf_counter(), 0
        while not over(arriving) and (chunk := running.get()) is not None:
            now = time.perf_counter()
            longest, last = max(longest, now - last), now
            done = arriving.progress.done if arriving.progress is not None else told
            self._tell(max(0, done - told))
            told = max(done, told)
            if chunk.finish_reason is not None:  # it ended too early to tell
                longest = 0.0
                break
        running.cancel()
        for _ in (*running, *arriving):
            pass
        if longest:
            self._figures["arrival_wait_s"] = longest
        self._tell(max(0, length - told))

    def _at(self, depth: int) -> None:
        """Prefill and decode where the context holds `depth` tokens; each depth continues the one before."""
        stats, _ = self._ask(prompt(self._tokenizer, depth, self._task.seed + 4000), 17)
        self._figures[f"depth_{depth}_prefill_rate"] = stats.prefill_rate
        self._figures[f"depth_{depth}_decode_rate"] = stats.decode_rate
