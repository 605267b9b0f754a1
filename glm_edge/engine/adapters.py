"""The adapters of an engine: cells of P-Tuning v2 that go in front of the prompts which ask for them.

An adapter is loaded once, as a state of the KV cache. It takes cells only while an answer with it runs: attention
visits every used cell, whoever owns it, so ten adapters in the cache would slow everybody down. To restore one takes
milliseconds, and answers of one adapter share its cells.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import GlmEdgeError, RequestError, UsageError
from ..llama.context import Context
from ..model.adapter import check_fits, read_adapter
from ..model.checks import model_id
from ..model.values import GgufFile
from ..system.safe_open import unreadable
from ..types import LEAST_CTX


@dataclass(frozen=True)
class AdapterCells:
    """An adapter as the engine's thread uses it."""

    name: str
    digest: bytes  # of its file's content
    n: int  # cells
    state: memoryview  # of the KV cache at positions 0 to n - 1

    @property
    def tokens(self) -> list[int]:
        """What stands for its cells in a sequence of token ids: numbers that no token has."""
        return list(range(-1, -1 - self.n, -1))

    def scope(self, prefix_scope: bytes) -> bytes:
        """The scope of prefixes that were computed behind it."""
        return hashlib.sha256(self.digest + prefix_scope).digest()


def load_adapters(
    wanted: Sequence[tuple[str, Path]],
    model: GgufFile,
    context: Context,
    n_ctx: int,
    on_error: Callable[[GlmEdgeError], None] | None = None,
) -> Mapping[str, AdapterCells]:
    """The adapters by their names. Must run where nothing is computed with `context`.

    Args:
        wanted: as EngineConfig.adapters.
        on_error: is told why an adapter is left out; None raises that instead.

    Raises UsageError for a name that is there twice or an adapter that leaves no room, InvalidFileError for one of
    another model, and what `read_adapter` raises.
    """
    found: dict[str, AdapterCells] = {}
    for name, path in _files(wanted):
        try:
            if name in (*found, model_id(model)):
                raise UsageError(f"{path}: the name {name!r} is taken; give each adapter a name of its own")
            found[name] = _load(name, path, model, context, n_ctx)
        except GlmEdgeError as error:
            if on_error is None:
                raise
            on_error(error)
    return found


def _files(wanted: Sequence[tuple[str, Path]]) -> Iterator[tuple[str, Path]]:
    """(name, file) of every adapter. Raises StorageError for a folder that cannot be read."""
    for name, path in wanted:
        if name:
            yield name, path
            continue
        try:
            names = sorted(entry for entry in os.listdir(path) if entry.endswith(".gguf") and not entry.startswith("."))
        except OSError as error:
            raise unreadable(path, error) from error
        yield from ((entry.removesuffix(".gguf"), path / entry) for entry in names)


def _load(name: str, path: Path, model: GgufFile, context: Context, n_ctx: int) -> AdapterCells:
    adapter = read_adapter(path)
    check_fits(adapter, model)
    if adapter.tokens > n_ctx - LEAST_CTX:
        raise UsageError(
            f"{path}: takes {adapter.tokens} of {n_ctx} tokens of context and leaves less than {LEAST_CTX}; ask for a"
            " longer one with --ctx"
        )
    return AdapterCells(name, adapter.digest, adapter.tokens, context.cells(adapter.keys, adapter.values))


def chosen(adapters: Mapping[str, AdapterCells], name: str | None) -> AdapterCells | None:
    """The adapter of this name. Raises RequestError for one that is not there, as after it was removed."""
    if name is None:
        return None
    if name not in adapters:
        raise RequestError(f"the adapter {name!r} is not loaded here", param="model", code="model_not_found")
    return adapters[name]
