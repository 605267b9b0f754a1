"""The importance matrix of a model: how large the inputs of each matrix are, by column, while it reads a text.

As llama.cpp's llama-imatrix: the text's tokens, without control ids in front, in chunks that do not see each other; the
rest that fills no chunk is left out. The weights are mapped. Not here: reading such files
(`convert/source/importance.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from concurrent.futures import CancelledError
from contextlib import closing
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..convert.source.importance import Measured
from ..errors import EngineError, InvalidFileError
from ..llama.context import Batch, Context
from ..llama.inputs import InputSums
from ..llama.model import Model
from ..llama.products import Matrix, Products, kind_of
from ..model.ggml import TYPE_IDS

CHUNK = 512  # tokens that are read together, by default
_WIDTH, _TOKENS = 4096, 64  # of the product that predicts: columns and rows, as in ChatGLM2-6B, and its inputs
_TIMES = 5  # as the first are slow
_REST = 1.10  # what is beside the products, as in the doctor's predictions
TEXT = Path(__file__).with_name("calibration.txt")  # ours: Chinese and English, in the round format


def measure(
    model: Model,
    text: str,
    chunk: int,
    threads: int,
    progress: Callable[[int, int], None] | None = None,
    stopped: Callable[[], bool] = lambda: False,
    keep: Callable[[str, NDArray[np.float32]], None] | None = None,
) -> Measured:
    """Sum the squares of the inputs over all chunks of a text.

    Args:
        model: run by llama.cpp, not repacked.
        chunk: tokens that are read together.
        progress: called with (tokens done, tokens in all).
        stopped: asked between products, in llama.cpp's threads; True ends it with a CancelledError. Not for the thread
            that gets signals: their exceptions would be lost.
        keep: as of InputSums, in llama.cpp's threads.

    Raises InvalidFileError for a text of less than a chunk, and OutOfMemoryError.
    """
    ids = model.tokenize(text)
    total = whole_chunks(len(ids), chunk)
    sums = InputSums(model.runtime, keep)
    with closing(read_chunks(model, ids[:total], chunk, threads, sums, stopped)) as chunks:
        for done in chunks:
            if progress is not None:
                progress(done, total)
    return Measured(sums.sums, total, chunk)


def read_chunks(
    model: Model, ids: list[int], chunk: int, threads: int, sums: InputSums, stopped: Callable[[], bool] = lambda: False
) -> Generator[int, None, None]:
    """Let a model read chunks that do not see each other, watched by `sums`; yields the tokens done, after each.

    Args:
        ids: whole chunks.
        stopped: as in `measure`.
    """
    batch = Batch(chunk)
    context = Context(
        model,
        n_ctx=chunk,
        n_batch=chunk,
        n_sequences=1,
        n_outputs=chunk,  # all, because the last layer computes only what is put out
        n_threads=threads,
        n_threads_batch=threads,
        should_abort=lambda _: stopped(),
        on_node=sums.callback,
    )
    with closing(context):
        for start in range(0, len(ids), chunk):
            context.remove(0)
            batch.clear()
            for position, token in enumerate(ids[start : start + chunk]):
                batch.add(token, position, 0, logits=True)
            done = context.decode(batch)
            if done == "aborted":
                raise CancelledError
            sums.check(start + chunk)
            if done != "done":
                raise EngineError(f"a chunk of {chunk} tokens does not fit a context of as many")
            yield start + chunk


def whole_chunks(tokens: int, chunk: int) -> int:
    """How many of a text's tokens are read. Raises InvalidFileError where they fill no chunk."""
    if tokens < chunk:
        raise InvalidFileError(f"the text has {tokens} tokens, fewer than the {chunk} of one chunk; take a longer one")
    return tokens // chunk * chunk


def expected_seconds(weights: int, tokens: int, threads: int) -> float:
    """About how long `measure` takes with a Q8_0 file, by a product that is computed here, the quickest of a few.

    Args:
        weights: in matrices that are multiplied, so without the embedding's.
    """
    matrix = Matrix(TYPE_IDS["q8_0"], _WIDTH, _WIDTH)
    kind, _ = kind_of(matrix, repack=False)
    size = 2 * _WIDTH * _WIDTH  # bytes, enough for one
    with closing(Products(kind, size, threads)) as products:
        found = [products.seconds_per_weight(matrix, _TOKENS, size=size // 2) for _ in range(_TIMES)]
    return min(found) / _TOKENS * weights * tokens * _REST
