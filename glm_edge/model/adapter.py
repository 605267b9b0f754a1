"""An adapter file: keys and values of the cells that P-Tuning v2 puts in front of every sequence of one model.

`glm-edge convert-adapter` writes it and the engine reads it, whole: a few megabytes. The tensors are `blk.N.prefix_k`
and `blk.N.prefix_v` in f16 or f32, one row a cell, the keys rotated as llama.cpp's cache has them.
"""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import IntegrityError, InvalidFileError, UnsupportedModelError
from ..system.safe_open import safe_open, unreadable
from . import keys
from .checks import context_length, model_sizes
from .gguf import read_gguf
from .values import TENSOR_TYPES, GgufFile

Cells = NDArray[np.float16] | NDArray[np.float32]

MAX_TOKENS = 4096  # cells; the official guide takes 128
_MAX_BYTES = 1 << 30  # of a file; f32 with the most cells of ChatGLM2-6B has 235 MB
_TYPES = {"f16": "<f2", "f32": "<f4"}


@dataclass(frozen=True)
class ModelShape:
    """What of a model's shape decides whether an adapter fits it."""

    layers: int
    groups: int  # heads of keys and values
    head: int  # length of one head
    hidden: int
    rope_ratio: float  # positions are divided by it
    context: int = field(compare=False)  # tokens that the model was made for

    @property
    def width(self) -> int:
        """Numbers of one cell's keys in one layer, and of its values."""
        return self.groups * self.head

    def __str__(self) -> str:
        scaled = f", positions divided by {self.rope_ratio:g}" if self.rope_ratio != 1 else ""
        return f"{self.layers} layers, {self.groups} groups of {self.head}, hidden size {self.hidden}{scaled}"


@dataclass(frozen=True)
class Adapter:
    """An adapter that was read whole and whose hashes were right."""

    file: GgufFile
    name: str
    shape: ModelShape
    tokens: int  # cells
    digest: bytes  # of all its content; 32 bytes
    keys: tuple[Cells, ...]  # of each layer, shape (tokens, width); rotated; views of the file's bytes
    values: tuple[Cells, ...]  # as `keys`


def tensor_names(layer: int) -> tuple[str, str]:
    """The names of a layer's keys and values."""
    return f"blk.{layer}.prefix_k", f"blk.{layer}.prefix_v"


def shape_of(model: GgufFile) -> ModelShape:
    """The shape of a model that `check_model` has passed."""
    sizes = model_sizes(model)
    ratio = model.metadata.get(keys.ROPE_SCALING_FACTOR, 1.0)
    assert isinstance(ratio, int | float)
    return ModelShape(sizes.layers, sizes.groups, sizes.head, sizes.hidden, float(ratio), context_length(model))


def is_adapter(file: GgufFile) -> bool:
    return file.metadata.get(keys.GENERAL_TYPE) == "adapter"


def read_adapter(path: Path) -> Adapter:
    """Read and check the adapter at `path`.

    Raises UnsupportedModelError for a file that is no adapter of ours, InvalidFileError for a damaged structure,
    IntegrityError for a byte that is not as it was written, StorageError.
    """
    file = read_gguf(path)
    if not is_adapter(file):
        raise UnsupportedModelError(f"{path}: is a model, not an adapter; make one with glm-edge convert-adapter")
    if file.metadata.get(keys.ADAPTER_TYPE) != "prefix":
        kind = str(file.metadata.get(keys.ADAPTER_TYPE))[:64]
        raise UnsupportedModelError(
            f"{path}: is an adapter of the type {kind!r}; only 'prefix', of glm-edge convert-adapter, can be used"
        )
    if file.size > _MAX_BYTES:
        raise InvalidFileError(f"{path}: is larger than {_MAX_BYTES} bytes, which no adapter is")
    shape, tokens = _shape(file), _number(file, keys.ADAPTER_TOKENS, MAX_TOKENS)
    _check_tensors(file, shape, tokens)
    try:
        with io.BufferedReader(safe_open(path)) as content:
            data = content.read(file.size + 1)
    except OSError as error:
        raise unreadable(path, error) from error
    hashes = _check_hashes(file, data)
    arrays = {}
    for tensor in file.tensors:
        values = np.frombuffer(data, _TYPES[TENSOR_TYPES[tensor.type][0]], tokens * shape.width, tensor.offset)
        if not np.isfinite(values).all():
            raise InvalidFileError(f"{path}: {tensor.name} has a number that is not finite")
        arrays[tensor.name] = values.reshape(tokens, shape.width)
    names = [tensor_names(layer) for layer in range(shape.layers)]
    name = file.metadata.get(keys.GENERAL_NAME)
    return Adapter(
        file,
        name if isinstance(name, str) and name.isprintable() else path.stem,
        shape,
        tokens,
        hashlib.sha256(hashes.encode()).digest(),
        tuple(arrays[key] for key, _ in names),
        tuple(arrays[value] for _, value in names),
    )


def check_fits(adapter: Adapter, model: GgufFile) -> None:
    """Raise InvalidFileError, with both shapes, unless the adapter was made for a model of this shape."""
    if adapter.shape != (shape := shape_of(model)):
        raise InvalidFileError(
            f"{adapter.file.path}: was made for another model ({adapter.shape}); {model.path.name} has {shape}"
        )


def _number(file: GgufFile, key: str, most: int) -> int:
    value = file.metadata.get(key)
    if file.types.get(key) != "u32" or not isinstance(value, int) or not 1 <= value <= most:
        raise InvalidFileError(f"{file.path}: {key} must be a u32 of 1 to {most}; convert the adapter again")
    return value


def _shape(file: GgufFile) -> ModelShape:
    ratio = file.metadata.get(keys.ROPE_SCALING_FACTOR)
    if not isinstance(ratio, float) or not ratio > 0:
        raise InvalidFileError(f"{file.path}: {keys.ROPE_SCALING_FACTOR} must be above 0; convert the adapter again")
    return ModelShape(
        layers=_number(file, keys.BLOCK_COUNT, 512),
        groups=_number(file, keys.HEAD_COUNT_KV, 1 << 12),
        head=_number(file, keys.KEY_LENGTH, 1 << 12),
        hidden=_number(file, keys.EMBEDDING_LENGTH, 1 << 16),
        context=_number(file, keys.CONTEXT_LENGTH, 1 << 20),
        rope_ratio=ratio,
    )


def _check_tensors(file: GgufFile, shape: ModelShape, tokens: int) -> None:
    """Raise InvalidFileError unless the file has exactly the tensors of its shape."""
    expected = {name for layer in range(shape.layers) for name in tensor_names(layer)}
    found = {tensor.name: tensor for tensor in file.tensors}
    problems = [f"{name} is missing" for name in sorted(expected - found.keys())]
    problems += [f"{name} does not belong there" for name in found if name not in expected]
    problems += [
        f"{tensor.name} has the shape {tensor.shape} and the type {TENSOR_TYPES[tensor.type][0]}, must be"
        f" {(shape.width, tokens)} of f16 or f32"
        for tensor in file.tensors
        if tensor.shape != (shape.width, tokens) or TENSOR_TYPES[tensor.type][0] not in _TYPES
    ]
    if problems:
        raise InvalidFileError(f"{file.path}: {len(problems)} tensors are wrong: {'; '.join(problems[:5])}")


def _check_hashes(file: GgufFile, data: bytes) -> str:
    """The hashes in the file. Raises IntegrityError unless `data`, all of its bytes, has them."""
    hashes = str(file.metadata.get(keys.HASHES))
    if len(data) != file.size or hashes != _hashes(file, data, hashes):
        raise IntegrityError(f"{file.path}: a byte is not as it was written; convert the adapter again")
    return hashes


def _hashes(file: GgufFile, data: bytes, written: str) -> str:
    head = data[: file.data_offset].replace(written.encode(), b"0" * len(written), 1)
    parts = [head, *(data[tensor.offset : tensor.offset + tensor.n_bytes] for tensor in file.tensors)]
    return "".join(hashlib.sha256(part).hexdigest() for part in parts)
