"""How far a model is from another one: what a quantization lost, against the file that it was made from.

Both predict the same text in the same windows. For every token: the KL divergence of B's distribution from A's, whether
both find the same token likeliest, and ln p of the token that follows. Intervals are bootstrapped over blocks of
neighbouring tokens, which are not independent of each other; both models are in each block, so differences are paired.
Only the logits of one batch of each are in memory, and the weights are mapped.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..errors import EngineError, UsageError
from ..llama.context import Batch, Context
from ..llama.model import Model
from ..model import keys
from ..model.values import GgufFile, StringArray
from .perplexity import BATCH, windows_of

_RESAMPLES = 1000
_TAIL = 99  # percentile of the divergence that is told
_LEVEL = (2.5, 97.5)  # percentiles: intervals of 95 %
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A figure and its interval of 95 %."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Comparison:
    """B against A on a text. Divergences are in nats a token."""

    tokens: int
    kl: Estimate
    kl_p99: float  # 99th percentile over the tokens
    agreement: Estimate  # share of tokens where both find the same one likeliest
    perplexity_a: float
    perplexity_b: float
    ratio: Estimate  # of the perplexities, B's over A's


def check_same_vocabulary(a: GgufFile, b: GgufFile) -> None:
    """Raise UsageError unless both files give the same token ids."""
    texts = [file.metadata.get(keys.TOKENS) for file in (a, b)]
    same = isinstance(texts[0], StringArray) and isinstance(texts[1], StringArray) and list(texts[0]) == list(texts[1])
    if not same or a.metadata.get(keys.GOLDEN) != b.metadata.get(keys.GOLDEN):
        raise UsageError(
            f"{b.path}: has another vocabulary than {a.path.name}; only files of one model can be compared"
        )


def compare(
    models: tuple[Model, Model],
    contexts: tuple[Context, Context],
    text: str,
    prefix: tuple[int, ...],
    window: int,
    progress: Callable[[int, int], None] | None = None,
) -> Comparison:
    """Compare the second of the models with the first; `contexts`, `prefix`, `window` and `progress` as `perplexity`.

    Raises InvalidFileError for a text without tokens.
    """
    windows = windows_of(models[0], text, window - len(prefix))
    total = sum(map(len, windows))
    blocks: list[Floats] = []  # each of shape (tokens, 4): divergence, agreement, ln p by A, ln p by B
    done = 0
    for ids in windows:
        for block in _blocks(contexts, [*prefix, *ids], len(prefix)):
            blocks.append(block)
            done += len(block)
            if progress is not None:
                progress(done, total)
    return _summary(blocks)


def _blocks(contexts: tuple[Context, Context], ids: list[int], start: int) -> list[Floats]:
    """The figures of every token of `ids` from `start` on, a batch a block."""
    for context in contexts:
        context.remove(0)
    batch, blocks = Batch(BATCH), []
    for first in range(0, len(ids) - 1, BATCH):
        part = ids[first : min(first + BATCH, len(ids) - 1)]
        wanted = [i for i in range(len(part)) if first + i + 1 >= start]
        found = []
        for context in contexts:
            batch.clear()
            for position, token in enumerate(part, first):
                batch.add(token, position, 0, logits=True)
            if context.decode(batch) != "done":
                raise EngineError("the context is full, though the window was checked to fit it")
            found.append(_log_softmax(np.stack([context.logits(i) for i in wanted]).astype(np.float64)))
        a, b = found
        targets = [ids[first + i + 1] for i in wanted]
        rows = np.arange(len(wanted))
        divergence = np.maximum(0.0, (np.exp(a) * (a - b)).sum(axis=1))
        same = a.argmax(axis=1) == b.argmax(axis=1)
        blocks.append(np.column_stack([divergence, same, a[rows, targets], b[rows, targets]]))
    return blocks


def _log_softmax(logits: Floats) -> Floats:
    shifted = logits - logits.max(axis=1, keepdims=True)
    found: Floats = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return found


def _summary(blocks: Sequence[Floats]) -> Comparison:
    every = np.concatenate(blocks)
    sums = np.stack([block.sum(axis=0) for block in blocks])
    counts = np.array([len(block) for block in blocks])
    drawn = np.random.default_rng(0).integers(0, len(blocks), (_RESAMPLES, len(blocks)))  # the same at every call
    means = sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1)[:, None]
    mean = every.mean(axis=0)

    def estimate(value: float, resampled: Floats) -> Estimate:
        low, high = np.percentile(resampled, _LEVEL)
        return Estimate(value, float(low), float(high))

    return Comparison(
        tokens=len(every),
        kl=estimate(float(mean[0]), means[:, 0]),
        kl_p99=float(np.percentile(every[:, 0], _TAIL)),
        agreement=estimate(float(mean[1]), means[:, 1]),
        perplexity_a=math.exp(-mean[2]),
        perplexity_b=math.exp(-mean[3]),
        ratio=estimate(math.exp(mean[2] - mean[3]), np.exp(means[:, 2] - means[:, 3])),
    )
