"""Which shards a pull fetches, in which order, and how much of the disk they take at most.

A tensor is converted as soon as the shards of all its parts are there: a weight of 4 or 8 bits and its scale can be in
two shards. A shard is deleted as soon as no tensor needs it. Not here: files; this knows names and sizes only.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Schedule:
    """The order of a pull. Tensors have their source names; `done` are those in the result."""

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
        """The most bytes of shards that are on the disk at a time, from here on."""
        highest = 0
        there: set[str] = set()
        for shard in self.to_fetch(done):
            there.add(shard)
            highest = max(highest, sum(self.sizes[name] for name in there))
            done = {*done, *self.ready(there, done)}
            there = {name for name in there if self.needed(name, done)}
        return highest
