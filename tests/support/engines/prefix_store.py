"""A store of computed prefixes as tests use it: blocks of tokens put in and read back, and the files that they make."""

from __future__ import annotations

from pathlib import Path

from glm_edge.engine.prefix_cache.store import LEAST_WRITTEN, Store
from glm_edge.system.private import KEY_NAME

IDENTITY = bytes(32)
A, B, C = (list(range(start, start + LEAST_WRITTEN)) for start in (1000, 2000, 3000))  # tokens of a block each


def opened(folder: Path | None, identity: bytes = IDENTITY, limit: int = 1 << 20, memory: int = 1 << 20) -> Store:
    return Store(folder, identity, limit=limit, memory=memory)


def put(store: Store, *blocks: list[int], state: bytes = b"") -> None:
    """Put blocks that continue each other, as the scheduler does; what of them is there already is left."""
    tokens = [token for block in blocks for token in block]
    key: bytes | None
    key, start, _ = store.end(tokens)
    position = 0
    for i, block in enumerate(blocks):
        if position >= start and key is not None:
            key = store.put(key, position, block, memoryview(bytearray(state or b"state %d" % i)))
        position += len(block)


def saved(
    folder: Path, *blocks: list[int], identity: bytes = IDENTITY, limit: int = 1 << 20, state: bytes = b""
) -> None:
    store = opened(folder, identity, limit)
    put(store, *blocks, state=state)
    store.close()


def loaded(store: Store, tokens: list[int]) -> list[tuple[bytes | None, int]]:
    """The states that these tokens begin with, each with the position up to which it is theirs."""
    found = [(store.load(block), position) for block, position in store.find(tokens)]
    return [(None if state is None else bytes(state), position) for state, position in found]


def longest(store: Store, tokens: list[int]) -> int:
    """How many leading tokens of these it holds."""
    return store.end(tokens)[2]


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*") if path.name != KEY_NAME)
