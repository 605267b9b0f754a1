"""Ask a loaded engine, and report the work while it is done.

Units of work: a token of a prompt is 1, a token of an answer is WORD, a load is LOAD. So a unit takes about the same
time everywhere.
"""

from __future__ import annotations

import random
from dataclasses import replace

from ...engine.engine import LlamaEngine
from ...engine.text.tokenizer import Tokenizer
from ...errors import EngineError
from ...generation import Generation
from ...types import Chunk, EngineConfig, Message, Request, Stats
from .child import Tell

LOAD, WORD = 100, 3
_POLL_S = 0.25  # between two looks at how far a prompt is


def load(config: EngineConfig, tell: Tell) -> LlamaEngine:
    """Load an engine; reports the load."""
    told = 0.0

    def progress(done: float) -> bool:
        nonlocal told
        tell(LOAD * (done - told))
        told = done
        return True

    return LlamaEngine(config, progress)


def prompt(tokenizer: Tokenizer, n: int, seed: int, *before: Message) -> tuple[Message, ...]:
    """A conversation of `n` tokens, or as near as the vocabulary allows; its last message is random digits."""
    digits = random.Random(seed)
    text = "".join(digits.choice("0123456789") for _ in range(8 * n))
    low, high = 1, len(text)
    while low < high:  # the longest that is not above n
        middle = (low + high + 1) // 2
        if len(tokenizer.prompt((*before, Message("user", text[:middle]))).ids) <= n:
            low = middle
        else:
            high = middle - 1
    return (*before, Message("user", text[:low]))


def submit(engine: LlamaEngine, request: Request) -> Generation[Chunk]:
    """Submit a request, with the engine's adapter where it has one."""
    return engine.submit(replace(request, adapter=next(iter(engine.info.adapters), None)))


def ask(engine: LlamaEngine, request: Request, tell: Tell) -> tuple[Stats, str]:
    """The figures and the text of a whole answer; reports its work."""
    generation = submit(engine, request)
    chunks: list[Chunk] = []
    start: int | None = None  # tokens of the prompt in the cache at the first look
    told = 0
    while not chunks or chunks[-1].finish_reason is None:
        try:
            if (chunk := generation.get(_POLL_S)) is None:
                break
        except TimeoutError:
            if (progress := generation.progress) is not None and not chunks:
                start = progress.done if start is None else start
                tell(max(0, progress.done - start - told))
                told = max(told, progress.done - start)
            continue
        chunks.append(chunk)
        if chunk.finish_reason is None:
            tell(WORD)
    stats = stats_of(chunks)
    tell(max(0, stats.prompt_tokens - stats.cached_tokens - told))
    return stats, "".join(chunk.text for chunk in chunks)


def stats_of(chunks: list[Chunk]) -> Stats:
    """The figures that came with the last chunk."""
    if not chunks or (stats := chunks[-1].stats) is None:
        raise EngineError("an answer ended without its figures")
    return stats


def over(generation: Generation[Chunk]) -> bool:
    """Whether an answer has ended; reads the chunks that it has so far."""
    try:
        while (chunk := generation.get(timeout=0)) is not None:
            if chunk.finish_reason is not None:
                return True
    except TimeoutError:
        return False
    return True
