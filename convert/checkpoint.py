"""A checkpoint folder: which files it consists of, and the tensors in them by name.

Everything that can be wrong with the files is found before a value is read. Which tensors the model needs, and in which
shape, is checked by `tensors.py`. Only .bin files (torch.save) are read so far.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from glm_edge.errors import InvalidFileError, StorageError, UnsupportedModelError

from .config import ModelConfig, read_config
from .files import inside, is_plain, open_regular, raise_all, read_json, refuse_download_error, shown, unreadable
from .shard import StoredTensor, open_shard

SINGLE = "pytorch_model.bin"
INDEX = "pytorch_model.bin.index.json"

_SHARD_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}", re.ASCII)
# Names that open a device on Windows, whatever follows the first dot.
_DEVICE = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.ASCII | re.IGNORECASE)


class SourceTensor(Protocol):
    """A tensor of a checkpoint, in whatever format: read by rows, by any number of threads at once."""

    @property
    def name(self) -> str: ...
    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def dtype(self) -> str:
        """What is stored: "f32", "f16", "bf16", or another name for what `read_rows` refuses."""
        ...

    def read_rows(self, start: int, stop: int) -> NDArray[np.float32]:
        """Rows [start, stop) as float32, shape (stop - start, columns); a 1-D tensor is one row."""
        ...


@dataclass(frozen=True)
class Checkpoint:
    """An opened checkpoint. Nothing needs closing: files are open only while they are read."""

    folder: Path
    config: ModelConfig
    tokenizer: Path
    tensors: Mapping[str, SourceTensor]
    files: tuple[Path, ...]  # what the tensors come from: the shards, and the index where there is one


def open_checkpoint(folder: Path) -> Checkpoint:
    """Find and check the files of the checkpoint in `folder`, in seconds at any size.

    Raises StorageError where the folder is missing or cannot be read, UnsupportedModelError for another model or
    format, InvalidFileError for files that are missing, broken or hostile; problems of shards and tensors are listed
    together.
    """
    try:
        names = os.listdir(folder)
    except FileNotFoundError:
        raise StorageError(f"{folder}: no such folder; give the folder of a checkpoint, with its config.json") from None
    except NotADirectoryError:
        raise InvalidFileError(f"{folder}: is not a folder; give the folder of a checkpoint") from None
    except OSError as error:
        raise unreadable(folder, error) from error
    config = read_config(inside(folder, "config.json"))
    tokenizer = inside(folder, "tokenizer.model")
    _refuse_no_tokenizer(tokenizer)
    if INDEX in names and SINGLE in names:
        raise InvalidFileError(f"{folder}: holds {INDEX} and {SINGLE}; remove the one that does not belong to it")
    if INDEX in names:
        tensors, files = _open_sharded(folder, names)
    elif SINGLE in names:
        path = inside(folder, SINGLE)
        tensors, files = open_shard(path), (path,)
    elif any(name.endswith(".safetensors") for name in names):
        raise UnsupportedModelError(f"{folder}: its weights are safetensors; this version reads {SINGLE} or its shards")
    else:
        raise InvalidFileError(f"{folder}: holds neither {INDEX} nor {SINGLE}; the weights are missing")
    return Checkpoint(folder, config, tokenizer, tensors, files)


def _refuse_no_tokenizer(path: Path) -> None:
    with open_regular(path) as file:
        refuse_download_error(path, file.read(512))


def _open_sharded(folder: Path, names: list[str]) -> tuple[dict[str, StoredTensor], tuple[Path, ...]]:
    """The tensors of all shards, in the order of the shards' names, and the files read."""
    index = inside(folder, INDEX)
    weight_map, total = _read_index(index)
    shards = sorted(set(weight_map.values()))
    tensors: dict[str, StoredTensor] = {}
    problems = [
        f"{name} is a shard that {INDEX} does not list"
        for name in sorted(names)
        if re.fullmatch(r"pytorch_model-\d+-of-\d+\.bin", name) and name not in shards
    ]
    for shard in shards:
        wanted = [name for name, place in weight_map.items() if place == shard]
        try:
            found = open_shard(inside(folder, shard))
        except InvalidFileError as error:
            problems.append(str(error).removeprefix(f"{folder}{os.sep}"))
            continue
        problems += [f"{name} is not in {shard}, where {INDEX} has it" for name in wanted if name not in found]
        for name, tensor in found.items():
            if name in tensors:
                problems.append(f"{name} is in {tensors[name].file.path.name} and in {shard}")
            elif name not in weight_map:
                problems.append(f"{name} in {shard} is not listed in {INDEX}")
            elif weight_map[name] != shard:
                problems.append(f"{name} is in {shard}, and {INDEX} has it in {weight_map[name]}")
            tensors[name] = tensor
    stored = sum(tensor.nbytes for tensor in tensors.values())
    if not problems and total not in (None, stored):
        problems.append(f"total_size in {INDEX} is {shown(total)}, and the tensors have {stored} bytes")
    raise_all(folder, problems)
    return tensors, (index, *(folder / shard for shard in shards))


def _read_index(path: Path) -> tuple[dict[str, str], object]:
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
