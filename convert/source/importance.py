"""Importance matrices: how much each column of a matrix matters, read from a file of llama.cpp's GGUF format.

`glm-edge imatrix` and llama.cpp's llama-imatrix write such files. For each matrix NAME there are NAME.in_sum2, the sums
of the squares of its inputs by column, and NAME.counts, over how many inputs. The importance of a column is the mean,
as llama-quantize computes it. Not here: the older format (imatrix.dat).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from gguf import GGUFWriter
from numpy.typing import NDArray

from glm_edge.errors import IntegrityError, InvalidFileError, StorageError
from glm_edge.model.gguf import read_gguf
from glm_edge.model.head import head_bytes, with_padding
from glm_edge.model.values import TENSOR_TYPES, GgufFile, TensorInfo
from glm_edge.system.safe_open import read_file

from .files import raise_all

SUMS, COUNTS = ".in_sum2", ".counts"
TYPE = "imatrix"  # the value of general.type
_DATASETS, _CHUNKS, _CHUNK_SIZE = "imatrix.datasets", "imatrix.chunk_count", "imatrix.chunk_size"
_FILE_BYTES = 256 << 20  # at most; that of ChatGLM2-6B has 3 MB
# The embedding is looked up, not multiplied; llama-imatrix leaves the output out unless asked.
_MAY_LACK = frozenset({"token_embd.weight", "output.weight"})


@dataclass(frozen=True)
class ImportanceMatrix:
    """The importance of every column, by the name of the matrix in the GGUF file, each of shape (columns,)."""

    path: Path
    sha256: str  # of the file
    columns: Mapping[str, NDArray[np.float32]]

    def check(self, matrices: Mapping[str, int]) -> None:
        """Raises InvalidFileError unless it is of a model with these matrices, of so many columns each."""
        problems = []
        for name, count in matrices.items():
            if name not in self.columns and name not in _MAY_LACK:
                problems.append(f"has nothing for {name}")
            elif name in self.columns and len(self.columns[name]) != count:
                problems.append(f"has {len(self.columns[name])} columns for {name} where the model has {count}")
        problems += [f"{name} is not a matrix of this model" for name in self.columns if name not in matrices]
        raise_all(self.path, problems)


@dataclass(frozen=True)
class Measured:
    """What was summed over a text."""

    sums: Mapping[str, NDArray[np.float32]]  # of the squares of each column's inputs, by the matrix's name
    tokens: int
    chunk: int  # tokens that were read together


def encoded(measured: Measured, text: str) -> bytes:
    """The file. `text` names what was read; llama.cpp's tools ask for a name."""
    writer = GGUFWriter(None, TYPE)
    writer.kv_data[0].clear()  # the architecture: such files have none
    writer.add_type(TYPE)
    writer.add_array(_DATASETS, [text])
    writer.add_uint32(_CHUNKS, measured.tokens // measured.chunk)
    writer.add_uint32(_CHUNK_SIZE, measured.chunk)
    tensors: dict[str, NDArray[np.float32]] = {}
    for name in sorted(measured.sums):
        tensors[name + SUMS] = measured.sums[name]
        tensors[name + COUNTS] = np.array([measured.tokens], np.float32)
    for name, values in tensors.items():
        writer.add_tensor_info(name, values.shape, values.dtype, values.nbytes)
    return head_bytes(writer) + b"".join(with_padding(values.tobytes()) for values in tensors.values())


def read_importance(path: Path) -> ImportanceMatrix:
    """Raises InvalidFileError for anything but a sound importance matrix, StorageError if it is missing."""
    head = read_gguf(path)
    if head.metadata.get("general.type") != TYPE:
        raise InvalidFileError(f"{path}: is no importance matrix; glm-edge imatrix MODEL --out FILE makes one")
    try:
        data = read_file(path, _FILE_BYTES)
    except FileNotFoundError as error:
        raise StorageError(f"{path}: was removed meanwhile") from error
    if len(data) != head.size:
        raise IntegrityError(f"{path}: changed while it was read; try again")
    tensors = {tensor.name: tensor for tensor in head.tensors}
    names = [name.removesuffix(SUMS) for name in tensors if name.endswith(SUMS)]
    if not names:
        raise InvalidFileError(f"{path}: has no sums; make it again")
    unpaired = tensors.keys() - {name + end for name in names for end in (SUMS, COUNTS)}
    raise_all(path, [f"{name} is not a pair of sums and counts" for name in sorted(unpaired)])
    columns = {name: _mean(head, data, tensors[name + SUMS], tensors.get(name + COUNTS)) for name in names}
    return ImportanceMatrix(path, hashlib.sha256(data).hexdigest(), columns)


def _mean(head: GgufFile, data: bytes, sums: TensorInfo, counts: TensorInfo | None) -> NDArray[np.float32]:
    where = f"{head.path}: {sums.name}"
    if counts is None:
        raise InvalidFileError(f"{where} has no counts beside it")
    if {TENSOR_TYPES[tensor.type][0] for tensor in (sums, counts)} != {"f32"}:
        raise InvalidFileError(f"{where} and its counts must be f32")
    total, number = (np.frombuffer(data, "<f4", tensor.n_bytes // 4, tensor.offset) for tensor in (sums, counts))
    if len(number) != 1 or not 1 <= number[0] < np.inf:
        raise InvalidFileError(f"{where} must have one count, 1 or more")
    if not (np.isfinite(total).all() and total.min() >= 0 and total.max() > 0):
        raise InvalidFileError(f"{where} has values that are no sums of squares; make it again")
    return np.ascontiguousarray(total / np.float32(np.rint(number[0])), np.float32)
