"""Row blocks on their way through: read, checked and quantized in a pool of threads; hashed and written in order.

At most two blocks for each thread exist at a time, so memory depends neither on the model nor on its largest tensor.
"""

from __future__ import annotations

import hashlib
import math
import zlib
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from glm_edge.errors import InvalidFileError, StorageError

from .layout import Placed
from .quantize.rounding import quantize_rows
from .quantize.threads import Threads
from .source.archive import damaged
from .write import OutputFile

BLOCK_WEIGHTS = 1 << 19  # 2 MiB as float32: long enough to make the calls cheap, short enough for the caches
MAX_F16 = 65504.0  # the largest weight that a type with float16 scales can hold
# The largest weight of the types that have no such scales.
LIMITS = {"f32": math.inf, "bf16": float(np.uint32(0x7F7F0000).view(np.float32))}
_ZERO_ALLOWED = frozenset({"bias"})


@dataclass(frozen=True)
class Block:
    """Rows [start, stop) of one tensor, as stored in the checkpoint and as encoded for the result."""

    placed: Placed
    start: int
    stop: int
    raw: memoryview  # their bytes in the tensor's first part
    data: NDArray[np.uint8]  # (stop - start, bytes of a row)
    all_zero: bool

    @property
    def is_last(self) -> bool:
        """Whether this is the tensor's last block."""
        return self.stop == self.placed.tensor.rows


def write_blocks(
    file: OutputFile, tensors: Iterable[Placed], where: Path, threads: int
) -> Iterator[tuple[Block, str | None]]:
    """Write the data of every tensor to its place, padding included.

    Yields every block and, with the last one of a tensor, the SHA-256 of the tensor's data. Raises as `encoded_blocks`
    does.
    """
    running = hashlib.sha256()
    position = -1
    for block in encoded_blocks(tensors, where, threads):
        placed = block.placed
        if block.start == 0 and position != placed.offset:
            file.seek(placed.offset)
        file.write(block.data.data)
        running.update(block.data.data)
        if not block.is_last:
            yield block, None
            continue
        file.write(bytes(placed.end - placed.offset - placed.size))
        position = placed.end
        yield block, running.hexdigest()
        running = hashlib.sha256()


def encoded_blocks(tensors: Iterable[Placed], where: Path, threads: int) -> Iterator[Block]:
    """Every block of the tensors' data, in the order of the tensors.

    Raises InvalidFileError for a tensor whose CRC is another than the recorded one, for a weight that is not finite or
    beyond float16 where the type needs that, and for a matrix or norm of zeros. The error names tensor and index, and
    `where`, the checkpoint. Raises StorageError, IntegrityError.
    """
    ranges = _ranges(tensors)
    pending: deque[Future[Block]] = deque()
    pool = Threads(threads, thread_name_prefix="convert")
    try:
        pending.extend(pool.submit(_encode, where, *r) for r in islice(ranges, 2 * threads))
        all_zero, crc = True, 0  # of the current tensor, so far
        while pending:
            block = pool.result(pending.popleft())
            pending.extend(pool.submit(_encode, where, *r) for r in islice(ranges, 1))
            tensor = block.placed.tensor
            stored = tensor.source.parts[0]
            all_zero &= block.all_zero
            if stored.crc is not None:
                crc = zlib.crc32(block.raw, crc)
            if block.is_last:
                if stored.crc is not None and crc != stored.crc:
                    raise damaged(stored.file.path, stored.name, crc, stored.crc)
                if all_zero and tensor.kind not in _ZERO_ALLOWED:
                    raise InvalidFileError(f"{where}: every weight of {tensor.source.name} is zero")
                all_zero, crc = True, 0
            yield block
    finally:
        pool.shutdown(cancel_futures=True)


def _ranges(tensors: Iterable[Placed]) -> Iterator[tuple[Placed, int, int]]:
    for placed in tensors:
        rows = placed.tensor.rows
        step = max(1, BLOCK_WEIGHTS // placed.tensor.columns)
        for start in range(0, rows, step):
            yield placed, start, min(start + step, rows)


def _encode(where: Path, placed: Placed, start: int, stop: int) -> Block:
    """Read, check and quantize; runs in a thread of the pool."""
    source = placed.tensor.source
    try:
        raw = source.parts[0].read_raw(start, stop)
        rows = source.decode(raw, start)
    except OSError as error:
        raise StorageError(f"{where}: {source.name} cannot be read: {error.strerror or error}") from error
    lowest, highest = float(rows.min()), float(rows.max())  # both NaN when any weight is
    limit = LIMITS.get(placed.type, MAX_F16)
    if not -limit <= lowest <= highest <= limit or math.isinf(lowest) or math.isinf(highest):
        raise _bad_weight(where, placed, start, rows, limit)
    return Block(placed, start, stop, raw, encoded(placed, start, rows), lowest == highest == 0)


def encoded(placed: Placed, start: int, rows: NDArray[np.float32]) -> NDArray[np.uint8]:
    """The data of the rows from `start` on, shape (rows, bytes of a row). Raises as `StableFile.read` does."""
    if placed.rounded is None:
        return quantize_rows(placed.type, rows, placed.importance, searched=placed.searched)
    data = placed.rounded.read(start * placed.row_bytes, len(rows) * placed.row_bytes)
    return np.frombuffer(data, np.uint8).reshape(len(rows), -1)


def _bad_weight(where: Path, placed: Placed, start: int, rows: NDArray[np.float32], limit: float) -> InvalidFileError:
    """The error for the first weight of a block that the type cannot hold."""
    row, column = (int(i) for i in np.argwhere(~np.isfinite(rows) | (np.abs(rows) > limit))[0])
    name, value = placed.tensor.source.name, float(rows[row, column])
    index = (start + row, column) if len(placed.tensor.shape) > 1 else (column,)
    place = f"{where}: {name}{list(index)} is {value:g}"
    if not math.isfinite(value):
        return InvalidFileError(f"{place}, not a finite number; the checkpoint is damaged")
    return InvalidFileError(f"{place}, beyond the {limit:g} that {placed.type} can hold; convert with --type f32")
