"""Where everything lies in the GGUF file: its head as bytes, and each tensor's type, offset and size.

The head is serialised by the gguf package's writer, driven with the tensors' sizes alone; their data is written
elsewhere (`write.py`), block by block, at the offsets given here. The head has room for hashes of itself, of every
tensor's data and of the source files, filled in by `sealed` when all are known; `glm-edge verify` compares them.
"""

from __future__ import annotations

import hashlib
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from gguf import GGMLQuantizationType, GGUFValueType, GGUFWriter
from gguf.gguf_writer import WriterState

from glm_edge.model import keys
from glm_edge.model.ggml import TYPE_IDS, block_size, row_size

from .metadata import Value
from .recipes import Recipe, Site
from .tensors import Tensor

ALIGNMENT = 32  # GGUF's default: head and every tensor are padded to a multiple of it


@dataclass(frozen=True)
class Placed:
    """A tensor and its place in the file."""

    tensor: Tensor
    type: str
    row_bytes: int
    offset: int  # from the start of the file

    @property
    def size(self) -> int:
        """Bytes, padding not counted."""
        return self.row_bytes * self.tensor.rows

    @property
    def end(self) -> int:
        """Where the next tensor begins."""
        return padded(self.offset + self.size)


@dataclass(frozen=True)
class Layout:
    """The whole file but for its weights."""

    metadata: Mapping[str, Value]
    head: bytes  # padded
    tensors: tuple[Placed, ...]

    @property
    def size(self) -> int:
        """Bytes of the finished file."""
        return self.tensors[-1].end


def padded(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def lay_out(metadata: Mapping[str, Value], tensors: Sequence[Tensor], recipe: Recipe) -> Layout:
    """Choose each tensor's type by the recipe, and its place."""
    types = _types(metadata, tensors, recipe)
    metadata = {**metadata, keys.HASHES: Value(GGUFValueType.STRING, _room(len(tensors)))}
    head = _head(metadata, tensors, types)
    placed = []
    offset = len(head)
    for tensor, type_name in zip(tensors, types, strict=True):
        placed.append(Placed(tensor, type_name, row_size(type_name, tensor.columns), offset))
        offset = placed[-1].end
    return Layout(metadata, head, tuple(placed))


def _room(tensors: int) -> str:
    return "0" * keys.HASH_DIGITS * (1 + tensors)


def sealed(layout: Layout, hashes: Sequence[str], sources: str) -> Layout:
    """The same layout with the hashes of its tensors' data, in hexadecimal and in file order, and with the value of
    SOURCES, which has to be as long as the one there, in its head."""
    layout = _replaced(layout, keys.SOURCES, sources)
    return _replaced(layout, keys.HASHES, "".join([hashlib.sha256(layout.head).hexdigest(), *hashes]))


def _replaced(layout: Layout, key: str, text: str) -> Layout:
    old = layout.metadata[key]
    head = layout.head.replace(old.value.encode(), text.encode(), 1)
    return replace(layout, metadata={**layout.metadata, key: old._replace(value=text)}, head=head)


def _types(metadata: Mapping[str, Value], tensors: Sequence[Tensor], recipe: Recipe) -> list[str]:
    heads, groups = (metadata[key].value for key in (keys.HEAD_COUNT, keys.HEAD_COUNT_KV))
    counts = Counter(tensor.kind for tensor in tensors)
    seen: Counter[str] = Counter()
    types = []
    for tensor in tensors:
        kind = tensor.kind
        site = Site(kind, tensor.columns, seen[kind], counts[kind], heads // groups)
        types.append(recipe.type_of(site, block_size))
        seen[kind] += 1
    return types


def _head(metadata: Mapping[str, Value], tensors: Sequence[Tensor], types: Sequence[str]) -> bytes:
    writer = GGUFWriter(None, keys.ARCHITECTURE)
    for key, value in metadata.items():
        if key != keys.GENERAL_ARCHITECTURE:  # the writer has put it first
            writer.add_key_value(key, value.value, value.type, value.item)
    for tensor, type_name in zip(tensors, types, strict=True):
        size = row_size(type_name, tensor.columns) * tensor.rows
        raw = GGMLQuantizationType(TYPE_IDS[type_name])
        writer.add_tensor_info(tensor.name, tensor.shape, np.dtype(np.float32), size, raw)
    buffer = io.BytesIO()
    writer.fout = [io.BufferedWriter(buffer)]
    writer.state = WriterState.EMPTY  # as after opening a file
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    head = buffer.getvalue()
    return head + bytes(padded(len(head)) - len(head))
