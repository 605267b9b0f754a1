"""Error compensation of a whole model: one matrix after the other, its rows in threads.

Not here: the arithmetic (`convert/quantize/compensation.py`), the reading of the text (`imatrix.py`), and what is kept
on the disk (`compensation_folder.py`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from ..convert.layout import Compensated, Placed
from ..convert.quantize.columns import COMPENSATED
from ..convert.quantize.compensation import GROUP, add_products, compensated, factor
from ..convert.quantize.threads import Threads
from ..convert.source.inputs import ITEM, Inputs
from ..errors import InvalidFileError
from .compensation_folder import CompensationFolder

_CHUNK = 1 << 22  # weights that a thread rounds at once
_PROGRAM = 200 << 20  # bytes
_REST = 2.5  # what a matrix of full size takes of what its parts take alone: caches, threads that wait for each other


def to_compensate(tensors: Iterable[Placed]) -> list[Placed]:
    """The matrices of the layers whose type the compensation knows."""
    return [placed for placed in tensors if _is_matrix(placed) and placed.type in COMPENSATED]


def _is_matrix(placed: Placed) -> bool:
    """Whether it is a matrix of a layer, whose inputs are kept."""
    return placed.tensor.name.startswith("blk.") and len(placed.tensor.shape) > 1


def compensate(
    tensors: Sequence[Placed], folder: CompensationFolder, threads: int, progress: Callable[[int, int], None]
) -> Compensated:
    """Round the matrices that are not done yet.

    Args:
        tensors: of `to_compensate`, with importances.
        progress: called with weights done and weights in all.

    Raises as reading inputs and sources does, and StorageError.
    """
    total = sum(placed.tensor.rows * placed.tensor.columns for placed in tensors)
    files, done = {}, 0
    for placed in tensors:
        file = folder.rounded(placed)
        if file is None:
            move = partial(_moved, progress, done, total)
            folder.add(placed, _rounded(placed, folder.inputs(placed), threads, move))
            file = folder.rounded(placed)
            assert file is not None
        files[placed.tensor.name] = file
        done += placed.tensor.rows * placed.tensor.columns
        progress(done, total)
    return Compensated(f"{folder.tokens} tokens", files)


def _moved(progress: Callable[[int, int], None], before: int, total: int, done: int) -> None:
    progress(before + done, total)


def _rounded(placed: Placed, inputs: Inputs, threads: int, progress: Callable[[int], None]) -> NDArray[np.uint8]:
    tensor, importance = placed.tensor, placed.importance
    assert importance is not None
    h = np.zeros((tensor.columns, tensor.columns), np.float32)
    for x in inputs.read():
        add_products(h, x)
    try:
        factor(h, inputs.tokens)
    except np.linalg.LinAlgError:
        raise InvalidFileError(f"{inputs.file.path}: inputs too small to compensate errors; leave --gptq out") from None
    step = max(1, _CHUNK // tensor.columns)
    out = np.empty((tensor.rows, placed.row_bytes), np.uint8)

    def work(start: int) -> None:
        rows = tensor.source.read_rows(start, min(start + step, tensor.rows))
        out[start : start + step] = compensated(placed.type, rows, h, importance)

    pool = Threads(threads, thread_name_prefix="compensate")
    try:
        for start, working in [(start, pool.submit(work, start)) for start in range(0, tensor.rows, step)]:
            pool.result(working)
            progress(min(start + step, tensor.rows) * tensor.columns)
    finally:
        pool.shutdown(cancel_futures=True)
    return out


def inputs_size(tensors: Iterable[Placed], tokens: int) -> int:
    """Bytes of the inputs of all matrices of the layers."""
    return sum(ITEM * tokens * placed.tensor.columns for placed in tensors if _is_matrix(placed))


def memory(tensors: Iterable[Placed], threads: int) -> int:
    """About how many bytes the largest matrix takes, and the program beside it."""
    return _PROGRAM + max(
        4 * placed.tensor.columns**2 + placed.size + 12 * threads * max(_CHUNK, placed.tensor.columns)
        for placed in tensors
    )


def expected_seconds(tensors: Sequence[Placed], tokens: int, threads: int) -> float:
    """About how long `compensate` takes, by a product and some rows of each type that are computed here."""
    draw = np.random.default_rng(0)
    square = draw.standard_normal((1024, 1024), np.float32)
    flops = 2 * 1024**3 / _least_seconds(lambda: square @ square)
    seconds = 0.0
    rows, h = square[:, :GROUP], np.eye(GROUP, dtype=np.float32)
    factor(h, GROUP)
    of_type: dict[str, float] = {}  # seconds a weight
    for placed in tensors:
        if placed.type not in of_type:
            took = _least_seconds(partial(compensated, placed.type, rows, h, np.ones(GROUP, np.float32)))
            of_type[placed.type] = took / rows.size
        count, columns = placed.tensor.rows, placed.tensor.columns
        seconds += count * columns * of_type[placed.type] / threads
        seconds += columns**2 * (tokens + columns / 3 + count) / flops
    return _REST * seconds


def _least_seconds(call: Callable[[], object]) -> float:
    found = []
    for _ in range(4):  # the least, as others may use the processors
        start = time.perf_counter()
        call()
        found.append(time.perf_counter() - start)
    return min(found)
