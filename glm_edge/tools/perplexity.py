"""Perplexity: how well a model predicts a text. Quantizations are compared by it.

perplexity = exp(-mean of ln p(token | tokens before it)), over all tokens except the control ids in front. The text is
cut into conversations at each "[Round 1]", and those into windows of the context's length. Only the logits of one batch
are in memory at a time, so memory does not grow with the window.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..errors import EngineError, InvalidFileError
from ..llama.context import Batch, Context
from ..llama.model import Model

BATCH = 32  # tokens whose logits are in memory together: 8 MiB at 65,024 candidates
_START = "[Round 1]"


@dataclass(frozen=True)
class Perplexity:
    """The perplexity of a text.

    Args:
        standard_error: of `value`: that of the mean logarithm, times `value`.
    """

    value: float
    standard_error: float
    tokens: int  # predicted ones


def perplexity(
    model: Model,
    context: Context,
    text: str,
    prefix: tuple[int, ...],
    window: int,
    progress: Callable[[int, int], None] | None = None,
) -> Perplexity:
    """Perplexity of `text`; `prefix` are the ids that come before every window.

    Args:
        context: empty, of `window` tokens at least, for batches of BATCH tokens with as many outputs.
        window: tokens that are predicted together, the prefix included.
        progress: called with (tokens done, tokens in all).

    Raises InvalidFileError for a text without tokens.
    """
    windows = windows_of(model, text, window - len(prefix))
    total = sum(len(part) for part in windows)
    values: list[float] = []
    for part in windows:
        values += _log_probabilities(context, [*prefix, *part], len(prefix))
        if progress is not None:
            progress(len(values), total)
    mean = -math.fsum(values) / total
    deviation = float(np.std(values)) / math.sqrt(total)
    return Perplexity(math.exp(mean), deviation * math.exp(mean), total)


def open_context(model: Model, window: int, threads: int) -> Context:
    """A context for `perplexity`, which the caller closes. Raises OutOfMemoryError."""
    return Context(
        model,
        n_ctx=window,
        n_batch=BATCH,
        n_sequences=1,
        n_outputs=BATCH,
        n_threads=threads,
        n_threads_batch=threads,
    )


def windows_of(model: Model, text: str, size: int) -> list[list[int]]:
    """The token ids of a text, cut at conversations and into `size` at most. Raises InvalidFileError without any."""
    conversations = [model.tokenize(part) for part in split(text)]
    windows = [ids[i : i + size] for ids in conversations for i in range(0, len(ids), size)]
    if not windows:
        raise InvalidFileError("the text is empty: nothing to predict")
    return windows


def split(text: str) -> list[str]:
    """The conversations of a text, without white space around them; the whole text where it has no rounds."""
    parts = text.split(_START)
    whole = [parts[0], *(_START + part for part in parts[1:])]
    return [stripped for part in whole if (stripped := part.strip())]


def _log_probabilities(context: Context, ids: list[int], start: int) -> list[float]:
    """ln p of every token of `ids` from `start` on, given those before it."""
    context.remove(0)
    values: list[float] = []
    batch = Batch(BATCH)
    for first in range(0, len(ids) - 1, BATCH):
        part = ids[first : min(first + BATCH, len(ids) - 1)]
        batch.clear()
        for position, token in enumerate(part, first):
            batch.add(token, position, 0, logits=True)
        if context.decode(batch) != "done":
            raise EngineError("the context is full, though the window was checked to fit it")
        for i in range(len(part)):
            if (target := first + i + 1) >= start:
                logits = context.logits(i).astype(np.float64)
                peak = logits.max()
                values.append(float(logits[ids[target]] - peak - math.log(np.exp(logits - peak).sum())))
    return values
