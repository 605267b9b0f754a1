"""The inputs of a matrix while a model read a text: a file of bfloat16, a row for each token.

bfloat16, because inputs can be beyond float16. The file has no head; who reads it knows columns and SHA-256.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from glm_edge.errors import IntegrityError, InvalidFileError
from glm_edge.model.ggml import quantize

from .files import StableFile
from .floats import to_float32

ITEM = 2  # bytes of an input
_STEP = 512  # tokens that are read together


def encoded(x: NDArray[np.float32]) -> bytes:
    """Inputs, shape (tokens, columns), as the file has them."""
    return quantize("bf16", np.ascontiguousarray(x)).tobytes()


@dataclass(frozen=True)
class Inputs:
    """The inputs of one matrix."""

    file: StableFile
    columns: int
    sha256: str

    @property
    def tokens(self) -> int:
        return self.file.size // (ITEM * self.columns)

    def read(self) -> Iterator[NDArray[np.float32]]:
        """All of them, in order, some tokens at a time: (tokens, columns).

        Raises InvalidFileError where the size does not fit or an input is not finite, IntegrityError, at the end, for
        another hash.
        """
        row = ITEM * self.columns
        if self.file.size % row or not self.file.size:
            raise InvalidFileError(f"{self.file.path}: has {self.file.size} bytes, and a row has {row}")
        running = hashlib.sha256()
        for start in range(0, self.file.size, _STEP * row):
            data = self.file.read(start, min(_STEP * row, self.file.size - start))
            running.update(data)
            x = to_float32("bf16", np.frombuffer(data, "<u2").reshape(-1, self.columns))
            if not np.isfinite(x).all():
                raise InvalidFileError(f"{self.file.path}: holds values that are not finite numbers")
            yield x
        if running.hexdigest() != self.sha256:
            raise IntegrityError(f"{self.file.path}: is not what was written; remove its folder and begin again")
