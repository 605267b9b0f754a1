"""The importance matrix of a model: how large the inputs of each matrix are, by column, while it reads a text.

As llama.cpp's llama-imatrix: the text's tokens, without control ids in front, in chunks that do not see each other; the
rest that fills no chunk is left out. The weights are mapped. Not here: reading such files
(`convert/source/importance.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from ..convert.source.importance import Measured
from ..errors import EngineError, InvalidFileError
from ..llama.context import Batch, Context
from ..llama.inputs import InputSums
from ..llama.model import Model

TEXT = Path(__file__).with_name("calibration.txt")  # ours: Chinese and English, in the round format


def measure(
    model: Model,
    text: str,
    chunk: int,
    threads: int,
    progress: Callable[[int, int], None] | None = None,
) -> Measured:
    """Sum the squares of the inputs over all chunks of a text.

    Args:
        model: run by llama.cpp, not repacked.
        chunk: tokens that are read together.
        progress: called with (tokens done, tokens in all).

    Raises InvalidFileError for a text of less than a chunk, OutOfMemoryError, and what a signal raises.
    """
    ids = model.tokenize(text)
    if len(ids) < chunk:
        raise InvalidFileError(
            f"the text has {len(ids)} tokens, fewer than the {chunk} of one chunk; take a longer one"
        )
    total = len(ids) // chunk * chunk
    sums, batch = InputSums(model.runtime), Batch(chunk)
    context = Context(
        model,
        n_ctx=chunk,
        n_batch=chunk,
        n_sequences=1,
        n_outputs=chunk,  # all, because the last layer computes only what is put out
        n_threads=threads,
        n_threads_batch=threads,
        on_node=sums.callback,
    )
    with closing(context):
        for start in range(0, total, chunk):
            context.remove(0)
            batch.clear()
            for position, token in enumerate(ids[start : start + chunk]):
                batch.add(token, position, 0, logits=True)
            done = context.decode(batch)
            sums.check(start + chunk)
            if done != "done":
                raise EngineError(f"a chunk of {chunk} tokens does not fit a context of as many")
            if progress is not None:
                progress(start + chunk, total)
    return Measured(sums.sums, total, chunk)
