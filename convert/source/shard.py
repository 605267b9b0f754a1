"""One shard of torch.save: its tensors by name, each read from the file by rows.

Joins the archive's members (`archive.py`) with what the pickle says of them (`unpickle.py`). Nothing is loaded here; a
read takes exactly the rows asked for. Values are little endian, as torch writes them on every machine it supports.
Checksums: small members when the shard is opened, the others' as soon as all their rows have been read once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from glm_edge.errors import InvalidFileError

from .archive import Archive, open_archive
from .checksum import Checksum
from .files import StableFile, raise_all
from .floats import to_float32
from .storage import FLOATS, NUMPY, PickledTensor
from .unpickle import MAX_PICKLE, read_state_dict

SMALL = 1 << 14  # bytes; norms and biases are smaller


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a file, row after row without gaps. May be read by any number of threads at once."""

    name: str
    shape: tuple[int, ...]
    dtype: str  # a key of storage.NUMPY: "f32", "f16", "bf16", "i8", ...
    file: StableFile
    offset: int  # bytes, of the first value
    checksum: Checksum | None = field(default=None, compare=False)  # of exactly these bytes, where there is one

    @property
    def rows(self) -> int:
        """Length of the first dimension; a tensor of one dimension or none is one row."""
        return self.shape[0] if len(self.shape) > 1 else 1

    @property
    def columns(self) -> int:
        return math.prod(self.shape[1:] if len(self.shape) > 1 else self.shape)

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * np.dtype(NUMPY[self.dtype]).itemsize

    @property
    def parts(self) -> tuple[StoredTensor, ...]:
        return (self,)

    def read_raw(self, start: int, stop: int) -> NDArray[Any]:
        """Rows [start, stop) as they are stored, shape (stop - start, columns); bf16 as uint16.

        Raises IntegrityError when the file has changed since it was opened, StorageError when it cannot be read,
        InvalidFileError when these were the last rows to be read and the checksum of all is another.
        """
        if not 0 <= start <= stop <= self.rows:
            raise ValueError(f"rows {start} to {stop} of {self.name}, which has {self.rows}")
        dtype = np.dtype(NUMPY[self.dtype])
        row_bytes = self.columns * dtype.itemsize
        offset = self.offset + start * row_bytes
        data = self.file.read(offset, (stop - start) * row_bytes)
        if self.checksum is not None:
            self.checksum.add(offset, data)
        values = np.asarray(data).view(dtype).reshape(stop - start, self.columns)
        return values if values.flags.aligned else values.copy()

    def read_rows(self, start: int, stop: int) -> NDArray[np.float32]:
        """Rows [start, stop) as float32, exact for f16, bf16 and f32. Raises as `read_raw`, and InvalidFileError for
        values of another type."""
        if self.dtype not in FLOATS:
            raise InvalidFileError(f"{self.file.path}: {self.name} holds {self.dtype} values, not f32, f16 or bf16")
        return to_float32(self.dtype, self.read_raw(start, stop))


def open_shard(path: Path) -> dict[str, StoredTensor]:
    """The tensors of a file of torch.save, in its order.

    Raises InvalidFileError, with all problems, where the file is not one or its parts do not fit; StorageError,
    IntegrityError.
    """
    archive = open_archive(path)
    if "constants.pkl" in archive.members:
        raise InvalidFileError(f"{path}: a TorchScript program, not the weights of a checkpoint")
    # torch before 2.1 wrote no such member, and wrote little endian
    if "byteorder" in archive.members and archive.read("byteorder", 16) != b"little":
        raise InvalidFileError(f"{path}: not little endian; load it with torch on a PC and torch.save it again")
    pickled = read_state_dict(archive.read("data.pkl", MAX_PICKLE), path)
    raise_all(path, _misfits(archive, pickled))
    checksums = _checksums(archive, pickled)
    return {
        name: StoredTensor(
            name,
            tensor.shape,
            tensor.storage.dtype,
            archive.file,
            archive.members[f"data/{tensor.storage.key}"].offset + tensor.offset * tensor.storage.itemsize,
            checksums.get(f"data/{tensor.storage.key}"),
        )
        for name, tensor in pickled.items()
    }


def _checksums(archive: Archive, pickled: dict[str, PickledTensor]) -> dict[str, Checksum]:
    """Checks every member that is small, or that no tensor fills; the others' checksums are returned by member.

    Raises InvalidFileError, StorageError, IntegrityError.
    """
    filled = {
        f"data/{tensor.storage.key}" for tensor in pickled.values() if math.prod(tensor.shape) == tensor.storage.length
    }
    later = {}
    for name, member in archive.members.items():
        if member.size <= SMALL or name not in filled:
            archive.verify(name)
        else:
            later[name] = Checksum(archive.file.path, name, member.offset, member.size, member.crc)
    return later


def _misfits(archive: Archive, pickled: dict[str, PickledTensor]) -> list[str]:
    """Storages that are missing, of another size than the pickle says, or that no tensor lies in."""
    problems = []
    used = set()
    for name, tensor in pickled.items():
        storage = tensor.storage
        used.add(key := f"data/{storage.key}")
        member = archive.members.get(key)
        size = storage.length * storage.itemsize
        if member is None:
            problems.append(f"{name} lies in {key}, which is missing")
        elif member.size != size:
            problems.append(f"{name} lies in {key}, which has {member.size} bytes instead of {size}")
    unused = [key for key in archive.members if key.startswith("data/") and key not in used]
    return problems + [f"no tensor lies in {key}" for key in unused]
