"""Where everything lies in the GGUF file: its head as bytes, and each tensor's type, offset and size.

The gguf package's writer makes the head out of the tensors' sizes. `blocks.py` writes their data, at the offsets given
here. The head has space for the hashes of itself, of every tensor's data and of the source files. `sealed` fills them
in when all are known, and `glm-edge verify` compares them.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
from gguf import GGMLQuantizationType, GGUFValueType, GGUFWriter
from numpy.typing import NDArray

from glm_edge.errors import InvalidFileError
from glm_edge.model import keys
from glm_edge.model.ggml import TYPE_IDS, block_size, row_size
from glm_edge.model.head import head_bytes, padded

from .metadata import Value
from .quantize.recipe import Recipe, Site
from .source.files import StableFile
from .source.importance import ImportanceMatrix
from .tensors import Tensor


@dataclass(frozen=True)
class Placed:
    """A tensor and its place in the file."""

    tensor: Tensor
    type: str
    row_bytes: int
    offset: int  # from the start of the file
    searched: bool = False  # as in the recipe
    importance: NDArray[np.float32] | None = field(default=None, compare=False)  # of each column
    rounded: StableFile | None = field(default=None, compare=False)  # its data, if it was made before

    @property
    def size(self) -> int:
        """Bytes, padding not counted."""
        return self.row_bytes * self.tensor.rows

    @property
    def end(self) -> int:
        """Where the next tensor begins."""
        return padded(self.offset + self.size)


@dataclass(frozen=True)
class Compensated:
    """Matrices that have been rounded with error compensation (`quantize/compensation.py`)."""

    about: str  # the value of keys.GPTQ
    files: Mapping[str, StableFile]  # the data of each, by its name in the GGUF file


@dataclass(frozen=True)
class Layout:
    """The whole file except its weights."""

    metadata: Mapping[str, Value]
    head: bytes  # padded
    tensors: tuple[Placed, ...]

    @property
    def size(self) -> int:
        """Bytes of the finished file."""
        return self.tensors[-1].end


def lay_out(
    metadata: Mapping[str, Value],
    tensors: Sequence[Tensor],
    recipe: Recipe,
    importance: ImportanceMatrix | None = None,
    compensated: Compensated | None = None,
) -> Layout:
    """Choose each tensor's type by the recipe, and its place. Raises InvalidFileError for another model's matrices."""
    if importance is not None:
        importance.check({tensor.name: tensor.columns for tensor in tensors if len(tensor.shape) > 1})
    columns = importance.columns if importance is not None else {}
    types = _types(metadata, tensors, recipe, calibrated=importance is not None)
    metadata = {**metadata, keys.HASHES: Value(GGUFValueType.STRING, no_hashes(len(tensors)))}
    entries = [HeadEntry(tensor.name, tensor.shape, name) for tensor, name in zip(tensors, types, strict=True)]
    head = head_of(metadata, entries)
    placed = []
    offset = len(head)
    for tensor, type_name in zip(tensors, types, strict=True):
        row_bytes = row_size(type_name, tensor.columns)
        rounded = compensated.files.get(tensor.name) if compensated is not None else None
        placed.append(Placed(tensor, type_name, row_bytes, offset, recipe.searched, columns.get(tensor.name), rounded))
        if rounded is not None and rounded.size != placed[-1].size:
            raise InvalidFileError(
                f"{rounded.path}: has {rounded.size} bytes where {tensor.name} has {placed[-1].size}"
            )
        offset = placed[-1].end
    return Layout(metadata, head, tuple(placed))


def no_hashes(tensors: int) -> str:
    """As long as the value of keys.HASHES will be."""
    return "0" * keys.HASH_DIGITS * (1 + tensors)


def sealed(layout: Layout, hashes: Sequence[str], sources: str) -> Layout:
    """The same layout with all hashes in its head.

    Args:
        hashes: of the tensors' data, in hexadecimal and in the order of the file.
        sources: the value of keys.SOURCES, as long as the one that is there.
    """
    layout = _replaced(layout, keys.SOURCES, sources)
    return _replaced(layout, keys.HASHES, "".join([hashlib.sha256(layout.head).hexdigest(), *hashes]))


def _replaced(layout: Layout, key: str, text: str) -> Layout:
    old = layout.metadata[key]
    head = layout.head.replace(old.value.encode(), text.encode(), 1)
    return replace(layout, metadata={**layout.metadata, key: old._replace(value=text)}, head=head)


def _types(metadata: Mapping[str, Value], tensors: Sequence[Tensor], recipe: Recipe, *, calibrated: bool) -> list[str]:
    heads, groups = (metadata[key].value for key in (keys.HEAD_COUNT, keys.HEAD_COUNT_KV))
    counts = Counter(tensor.kind for tensor in tensors)
    seen: Counter[str] = Counter()
    types = []
    for tensor in tensors:
        kind = tensor.kind
        site = Site(kind, tensor.columns, seen[kind], counts[kind], heads // groups, calibrated)
        types.append(recipe.type_of(site, block_size))
        seen[kind] += 1
    return types


class HeadEntry(NamedTuple):
    """A tensor as the head describes it."""

    name: str
    shape: tuple[int, ...]  # torch's order: the length of a row last
    type: str


def head_of(metadata: Mapping[str, Value], entries: Sequence[HeadEntry]) -> bytes:
    """The bytes before the tensors' data, padded."""
    writer = GGUFWriter(None, keys.ARCHITECTURE)
    for key, value in metadata.items():
        if key != keys.GENERAL_ARCHITECTURE:  # the writer has put it first
            writer.add_key_value(key, value.value, value.type, value.item)
    for entry in entries:
        size = row_size(entry.type, entry.shape[-1]) * math.prod(entry.shape[:-1])
        raw = GGMLQuantizationType(TYPE_IDS[entry.type])
        writer.add_tensor_info(entry.name, entry.shape, np.dtype(np.float32), size, raw)
    return head_bytes(writer)
