"""Which shards a pull fetches, in which order, and how much of the disk they take at most. Pure: sizes and names alone.

A tensor is converted as soon as all shards that its parts lie in are there (a weight of 4 or 8 bits and its scale can
lie in two), and a shard goes as soon as nothing needs it any more.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Schedule:
    """Names of tensors are those of the checkpoint; `done` are those that are in the result."""

    homes: Mapping[str, frozenset[str]]  # tensor -> the shards that its parts lie in
    sizes: Mapping[str, int]  # shard -> bytes, in the order in which they are fetched

    def needed(self, shard: str, done: Collection[str]) -> bool:
        return any(shard in homes and name not in done for name, homes in self.homes.items())

    def to_fetch(self, done: Collection[str]) -> list[str]:
        return [shard for shard in self.sizes if self.needed(shard, done)]

    def ready(self, there: Collection[str], done: Collection[str]) -> list[str]:
        """Tensors that can be converted when these shards are there."""
        return [name for name, homes in self.homes.items() if name not in done and homes <= set(there)]

    def peak(self, done: Collection[str]) -> int:
        """Bytes of the shards that are on the disk at a time, at most, from here on."""
        highest = 0
        there: set[str] = set()
        for shard in self.to_fetch(done):
            there.add(shard)
            highest = max(highest, sum(self.sizes[name] for name in there))
            done = {*done, *self.ready(there, done)}
            there = {name for name in there if self.needed(name, done)}
        return highest
