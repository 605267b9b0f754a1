"""The plan of a pull: the layout of the whole result, made from the small files before a shard is fetched.

Shapes follow from config.json, and places from shapes. The index must name the right tensors; `pull.py` checks whether
the shards hold them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from glm_edge.errors import InvalidFileError

from ..convert import planned
from ..layout import Layout
from ..quantize.recipe import Recipe
from ..source.checkpoint import Format, SourceTensor, format_of, read_index
from ..source.config import ModelConfig, read_config
from ..source.files import raise_all
from ..source.importance import ImportanceMatrix
from ..source.quantized import SCALE
from ..source.shard import StoredTensor
from ..tensors import expected, map_tensors
from .hub import HubFile
from .schedule import Schedule

CONFIG, TOKENIZER = "config.json", "tokenizer.model"
MAY_BE_THERE = "tokenizer_config.json"  # its role tokens show a ChatGLM3 or later


@dataclass(frozen=True)
class Awaited:
    """A tensor that the checkpoint should have and that is not fetched yet: a SourceTensor without values."""

    name: str
    shape: tuple[int, ...]

    @property
    def dtype(self) -> str:
        return "f16"

    @property
    def parts(self) -> tuple[StoredTensor, ...]:
        return ()

    def decode(self, raw: memoryview, start: int) -> NDArray[np.float32]:
        raise ValueError(f"{self.name} has not been fetched")

    def read_rows(self, start: int, stop: int) -> NDArray[np.float32]:
        raise ValueError(f"{self.name} has not been fetched")


@dataclass(frozen=True)
class Plan:
    """What a pull will make, and from which files."""

    config: ModelConfig
    format: Format
    weight_map: Mapping[str, str] | None  # tensor or scale -> shard; None if the weights are one file
    sources: Mapping[str, SourceTensor]  # every tensor the checkpoint should have, by name
    layout: Layout
    schedule: Schedule
    inputs: tuple[str, ...]  # names of the source files


def make_plan(
    where: Path,
    listed: Mapping[str, HubFile],
    address: str,
    recipe: Recipe,
    importance: ImportanceMatrix | None,
    fetch: Callable[[str], object],
) -> Plan:
    """Plan with the files `listed` at `address`, of which `fetch` puts one into the folder `where`.

    Raises InvalidFileError, UnsupportedModelError, and what `fetch` raises.
    """
    for name in (CONFIG, TOKENIZER):
        if name not in listed:
            raise InvalidFileError(f"{address}: has no {name}; only a ChatGLM2 checkpoint can be converted")
    for name in (CONFIG, TOKENIZER, MAY_BE_THERE):
        if name in listed:
            fetch(name)
    config, format = read_config(where / CONFIG), format_of(listed, address)
    shapes = {row.source: row.shape for row in expected(config)}
    weight_map, names, shards = None, list(shapes), [format.single]
    if format.index in listed:
        fetch(format.index)
        weight_map, _ = read_index(where / format.index)
        shards = sorted(set(weight_map.values()))
        unknown = [shard for shard in shards if shard not in listed]
        raise_all(
            where / format.index, [f"{shard} is not in {address}, or not called as shards are" for shard in unknown]
        )
        scales = {name + SCALE for name in weight_map} if config.quantization_bit else set()
        names = [name for name in weight_map if name not in scales]
    sources = {name: Awaited(name, shapes.get(name, ())) for name in names}
    tensors = map_tensors(config, sources, where)
    inputs = (CONFIG, TOKENIZER, *([format.index] if weight_map is not None else []), *shards)
    layout = planned(
        config, where / TOKENIZER, {name: listed[name].size for name in inputs}, tensors, recipe, importance
    )
    homes = {tensor.source.name: _homes(tensor.source.name, weight_map, format) for tensor in tensors}
    schedule = Schedule(homes, {name: listed[name].size for name in shards})
    return Plan(config, format, weight_map, sources, layout, schedule, inputs)


def _homes(name: str, weight_map: Mapping[str, str] | None, format: Format) -> frozenset[str]:
    """The shards that a tensor's parts lie in."""
    if weight_map is None:
        return frozenset({format.single})
    return frozenset(weight_map[part] for part in (name, name + SCALE) if part in weight_map)
