"""A checkpoint folder: the files it consists of, and the tensors in them by name.

All faults of the files are found before a value is read. Weights are safetensors or files of torch.save, in one file or
in shards with an index, as floats or quantized to 4 or 8 bits. Not here: which tensors the model needs (`tensors.py`).
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from glm_edge.errors import InvalidFileError

from .config import ModelConfig, read_config
from .files import (
    StableFile,
    inside,
    is_plain,
    names_in,
    raise_all,
    read_json,
    refuse_download_error,
    shown,
)
from .quantized import dequantized
from .safetensors import open_safetensors
from .shard import StoredTensor, open_shard

_SHARD_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}", re.ASCII)
# Names that open a device on Windows, whatever follows the first dot.
_DEVICE = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.ASCII | re.IGNORECASE)


@dataclass(frozen=True)
class Format:
    """A format of weights: the names of its files, and the function that reads one."""

    single: str
    index: str
    shard: re.Pattern[str]
    open: Callable[[Path], dict[str, StoredTensor]]


# The first of these that a folder has is read, as transformers does. Many folders of the hub have both.
FORMATS = (
    Format(
        "model.safetensors",
        "model.safetensors.index.json",
        re.compile(r"model-\d+-of-\d+\.safetensors", re.ASCII),
        open_safetensors,
    ),
    Format(
        "pytorch_model.bin",
        "pytorch_model.bin.index.json",
        re.compile(r"pytorch_model-\d+-of-\d+\.bin", re.ASCII),
        open_shard,
    ),
)


class SourceTensor(Protocol):
    """A tensor of a checkpoint in any format: read by rows, by any number of threads at once."""

    @property
    def name(self) -> str: ...
    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def dtype(self) -> str:
        """The type of the values: "f32", "f16" or "bf16"; `decode` refuses any other."""
        ...

    @property
    def parts(self) -> tuple[StoredTensor, ...]:
        """The stored tensors that it is made of. Row N of the first holds row N of this one."""
        ...

    def decode(self, raw: memoryview, start: int) -> NDArray[np.float32]:
        """The rows from `start` on as float32, out of their bytes in the first part; shape (rows, columns)."""
        ...

    def read_rows(self, start: int, stop: int) -> NDArray[np.float32]:
        """Rows [start, stop) as float32, shape (stop - start, columns); a 1-D tensor is one row."""
        ...


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose files have been checked. Files are open only while they are read, so nothing needs closing."""

    folder: Path
    config: ModelConfig
    tokenizer: Path
    tensors: Mapping[str, SourceTensor]
    files: tuple[StableFile, ...]  # every file that is read, as it was before reading


def open_checkpoint(folder: Path) -> Checkpoint:
    """Find and check the files of the checkpoint in `folder`, in seconds at any size.

    Raises StorageError where the folder is missing or cannot be read, UnsupportedModelError for another model or
    format, InvalidFileError for files that are missing, broken or hostile; problems of shards and tensors are listed
    together.
    """
    names = names_in(folder, "a checkpoint, with its config.json")
    config_file = StableFile.find(inside(folder, "config.json"))
    config = read_config(config_file.path)
    tokenizer = StableFile.find(inside(folder, "tokenizer.model"))
    refuse_download_error(tokenizer.path, bytes(tokenizer.read(0, min(tokenizer.size, 512))))
    stored, files = open_weights(folder, names)
    tensors = dequantized(stored, config.quantization_bit, folder) if config.quantization_bit else stored
    return Checkpoint(folder, config, tokenizer.path, tensors, (*files, tokenizer, config_file))


def open_weights(folder: Path, names: list[str]) -> tuple[dict[str, StoredTensor], list[StableFile]]:
    """The tensors in a folder with these names, and the files read for them. Raises as `open_checkpoint` does."""
    format = format_of(names, str(folder))
    if format.index in names:
        return _open_sharded(folder, format, names)
    path = inside(folder, format.single)
    stored = format.open(path)
    return stored, [file_of(path, stored)]


def file_of(path: Path, stored: Mapping[str, StoredTensor]) -> StableFile:
    """The file at `path`, through which these tensors of it are read."""
    return next((tensor.file for tensor in stored.values()), None) or StableFile.find(path)


def format_of(names: Iterable[str], where: str) -> Format:
    """The format of the weights among files of these names. Raises InvalidFileError where there is none, or two."""
    names = set(names)
    format = next((format for format in FORMATS if {format.index, format.single} & names), None)
    if format is None:
        wanted = ", ".join(f"{format.index} or {format.single}" for format in FORMATS)
        raise InvalidFileError(f"{where}: the weights are missing; there is none of {wanted}")
    if {format.index, format.single} <= names:
        raise InvalidFileError(
            f"{where}: holds {format.index} and {format.single}; remove the one that does not belong to it"
        )
    return format


def _open_sharded(folder: Path, format: Format, names: list[str]) -> tuple[dict[str, StoredTensor], list[StableFile]]:
    """The tensors of all shards, in the order of the shards' names, and the files read."""
    files = [StableFile.find(inside(folder, format.index))]
    weight_map, total = read_index(files[0].path)
    shards = sorted(set(weight_map.values()))
    tensors: dict[str, StoredTensor] = {}
    problems = [
        f"{name} is a shard that {format.index} does not list"
        for name in sorted(names)
        if format.shard.fullmatch(name) and name not in shards
    ]
    for shard in shards:
        try:
            found = format.open(inside(folder, shard))
        except InvalidFileError as error:
            problems.append(str(error).removeprefix(f"{folder}{os.sep}"))
            continue
        problems += [f"{n} is in {tensors[n].file.path.name} and in {shard}" for n in found if n in tensors]
        problems += misplaced(shard, found, weight_map, format.index, known=tensors)
        tensors |= found
        files.append(file_of(folder / shard, found))
    stored = sum(tensor.nbytes for tensor in tensors.values())
    if not problems and total not in (None, stored):
        problems.append(f"total_size in {format.index} is {shown(total)}, and the tensors have {stored} bytes")
    raise_all(folder, problems)
    return tensors, files


def misplaced(
    shard: str, found: Collection[str], weight_map: Mapping[str, str], index: str, known: Collection[str] = ()
) -> list[str]:
    """The problems of a shard: tensors that are in it or in the index, and not in both. `known` names are left out."""
    wanted = [name for name, place in weight_map.items() if place == shard]
    problems = [f"{name} is not in {shard}, where {index} has it" for name in wanted if name not in found]
    for name in found:
        if name in known:
            continue
        if name not in weight_map:
            problems.append(f"{name} in {shard} is not listed in {index}")
        elif weight_map[name] != shard:
            problems.append(f"{name} is in {shard}, and {index} has it in {weight_map[name]}")
    return problems


def read_index(path: Path) -> tuple[dict[str, str], object]:
    """(tensor name -> shard name, total bytes of the tensors or None). Every shard name is a plain file name.

    Raises InvalidFileError.
    """
    content = read_json(path)
    weight_map, metadata = content.get("weight_map"), content.get("metadata", {})
    if not isinstance(weight_map, dict) or not weight_map or not isinstance(metadata, dict):
        raise InvalidFileError(f"{path}: weight_map is {shown(weight_map)} where tensor and shard names are expected")
    problems = [f"{shown(name)} is no name of a tensor" for name in weight_map if not is_plain(name)]
    shards = list(dict.fromkeys(place if isinstance(place, str) else None for place in weight_map.values()))
    plain = []
    for shard in shards:
        if shard is None:
            problems.append("weight_map has a value that is not text")
        elif not _SHARD_NAME.fullmatch(shard) or _DEVICE.fullmatch(shard) or shard.endswith("."):
            problems.append(f"the shard name {shown(shard)} is not a plain file name")
        else:
            plain.append(shard)
    lower = [shard.lower() for shard in plain]
    problems += [
        f"the shard name {shard} is there in two spellings, which is one file on Windows and macOS"
        for shard in plain
        if lower.count(shard.lower()) > 1
    ]
    raise_all(path, problems)
    return weight_map, metadata.get("total_size")
