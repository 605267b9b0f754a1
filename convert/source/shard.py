"""One shard of torch.save: its tensors by name, each read from the file by rows.

Joins the archive's members (`archive.py`) with the pickle that describes them (`unpickle.py`). A read takes exactly the
rows asked for. Values are little endian, as torch writes them on every machine it supports.
Checksums: vectors and small members are checked when the shard is opened. A matrix carries its CRC, which is compared
while its rows pass to the quantizer (`convert/blocks.py`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from glm_edge.errors import InvalidFileError

from .archive import Archive, open_archive
from .files import StableFile, raise_all
from .floats import to_float32
from .storage import FLOATS, NUMPY, PickledTensor
from .unpickle import MAX_PICKLE, read_state_dict

SMALL = 1 << 14  # bytes


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a file, row after row without gaps. Any number of threads may read it at once."""

    name: str
    shape: tuple[int, ...]
    dtype: str  # a key of storage.NUMPY: "f32", "f16", "bf16", "i8", ...
    file: StableFile
    offset: int  # bytes, of the first value
    crc: int | None = None  # CRC-32 of exactly these bytes, where it is recorded and has not been compared

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

    def offset_of(self, row: int) -> int:
        """Where in the file a row begins, in bytes."""
        return self.offset + row * self.columns * np.dtype(NUMPY[self.dtype]).itemsize

    def read_raw(self, start: int, stop: int) -> memoryview:
        """The bytes of rows [start, stop), as they are stored.

        Raises IntegrityError when the file has changed since it was opened, StorageError when it cannot be read.
        """
        if not 0 <= start <= stop <= self.rows:
            raise ValueError(f"rows {start} to {stop} of {self.name}, which has {self.rows}")
        offset = self.offset_of(start)
        return self.file.read(offset, self.offset_of(stop) - offset)

    def values(self, raw: memoryview) -> NDArray[Any]:
        """Whole rows out of `read_raw`, shape (rows, columns); bf16 as uint16."""
        values = np.asarray(raw).view(NUMPY[self.dtype]).reshape(-1, self.columns)
        return values if values.flags.aligned else values.copy()

    def decode(self, raw: memoryview, start: int) -> NDArray[np.float32]:
        """The rows out of `read_raw` as float32, exact for f16, bf16 and f32.

        Raises InvalidFileError for values of another type.
        """
        if self.dtype not in FLOATS:
            raise InvalidFileError(f"{self.file.path}: {self.name} holds {self.dtype} values, not f32, f16 or bf16")
        return to_float32(self.dtype, self.values(raw))

    def read_rows(self, start: int, stop: int) -> NDArray[np.float32]:
        """Rows [start, stop) as float32. Raises as `read_raw` and `decode`."""
        return self.decode(self.read_raw(start, stop), start)


def open_shard(path: Path, *, verify: bool = False) -> dict[str, StoredTensor]:
    """The tensors of a file of torch.save, in its order. `verify` compares every checksum now.

    Raises InvalidFileError, which lists all problems, if it is no such file or its parts do not fit; StorageError,
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
    crcs = _verify(archive, {} if verify else pickled)
    return {
        name: StoredTensor(
            name,
            tensor.shape,
            tensor.storage.dtype,
            archive.file,
            archive.members[f"data/{tensor.storage.key}"].offset + tensor.offset * tensor.storage.itemsize,
            crcs.get(f"data/{tensor.storage.key}"),
        )
        for name, tensor in pickled.items()
    }


def _verify(archive: Archive, pickled: dict[str, PickledTensor]) -> dict[str, int]:
    """Compare the CRC of every member but the large ones that a matrix fills; these CRCs are returned by member.

    Raises InvalidFileError, StorageError, IntegrityError.
    """
    matrices = {
        f"data/{tensor.storage.key}"
        for tensor in pickled.values()
        if len(tensor.shape) > 1 and math.prod(tensor.shape) == tensor.storage.length
    }
    later = {}
    for name, member in archive.members.items():
        if member.size <= SMALL or name not in matrices:
            archive.verify(name)
        else:
            later[name] = member.crc
    return later


def _misfits(archive: Archive, pickled: dict[str, PickledTensor]) -> list[str]:
    """A problem for each storage that is missing, has another size than the pickle says, or holds no tensor."""
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
