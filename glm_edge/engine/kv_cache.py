"""The cells of the KV cache: who has them, which are reused, and what moves to the prefix store and back.

Attention visits every used cell, whoever owns it: with 6,656 cells of others, prefill runs at 0.61 of its speed and
decode at 0.84 (full size). So the sequence of an ended answer stays in the cache only until another answer begins.
Unless that one continues it, it is offloaded to the prefix store, which takes 5 ms for 512 tokens, and 31 ms back.
Only requests of one scope share prefixes: how much is found, and how soon, would tell others what was asked.
Runs in the engine's thread alone. Not here: which answer is computed when (`scheduler.py`).
"""

from __future__ import annotations

from collections.abc import Sequence as Seq

from ..errors import EngineError
from ..llama.context import Context
from .memory_plan import sequence_count
from .prefix_cache.prefix import common_prefix, front_of
from .prefix_cache.store import BLOCK_TOKENS, LEAST_WRITTEN, Store
from .sequence import Sequence

_WORTH_RESTORING = 16  # tokens that the store has and the cache does not


class KvCache:
    """The KV cache of one context: its free sequence ids, and the cached sequence of the answer that ended last.

    Args:
        context: with `sequence_count(slots)` sequences.
        store: prefixes outside of the cache.
    """

    def __init__(self, context: Context, slots: int, store: Store) -> None:
        self._context = context
        self._store = store
        self._free = list(range(sequence_count(slots)))
        self._cached: tuple[int, list[int], bytes] | None = None  # id, tokens, scope of the answer that ended last

    def start(self, sequence: Sequence, running: Seq[Sequence]) -> bool:
        """Give an answer its sequence id, with the longest known prefix of its prompt; `running` are the others.

        False, and nothing is given, where the cache has no room for its adapter.
        """
        sequence.seq_id = self._free.pop()
        source, length = self._longest(sequence, running)
        if length > 0:
            self._context.copy(source, sequence.seq_id, 0, length)
        sequence.reuse(length)
        self._offload([*running, sequence])
        if sequence.n_past < sequence.job.n_front and not self._restore_adapter(sequence):
            self._free.append(sequence.seq_id)
            sequence.preempt()
            return False
        self._restore(sequence)
        return True

    def checkpoint(self, sequence: Sequence) -> None:
        """Save what was computed of a long prompt while it is still being read, block by block."""
        if self._store.writes and sequence.n_past - sequence.n_stored >= BLOCK_TOKENS:
            self._save(sequence.seq_id, sequence.computed, sequence.scope, BLOCK_TOKENS)
            sequence.n_stored = sequence.n_past

    def trim(self, sequence: Sequence) -> None:
        """Drop the cells after the answer's own tokens: rejected drafts, unused rows, an aborted batch."""
        self._context.remove(sequence.seq_id, sequence.n_past)

    def release(self, sequence: Sequence, running: Seq[Sequence]) -> None:
        """Keep the sequence of an ended answer in the cache while no other answer is there."""
        self.trim(sequence)
        if self._store.writes:
            self._save(sequence.seq_id, sequence.computed, sequence.scope, LEAST_WRITTEN)
        self.evict()
        self._cached = sequence.seq_id, sequence.computed, sequence.scope
        if running:
            self._offload(running)

    def preempt(self, sequence: Sequence) -> None:
        """Take a running answer's cells; what fits into the store is restored when the answer starts again."""
        self._save(sequence.seq_id, sequence.computed, sequence.scope, 1)
        self._context.remove(sequence.seq_id)
        self._free.append(sequence.seq_id)
        sequence.preempt()

    def evict(self) -> bool:
        """Drop the cached sequence; False where there is none."""
        if self._cached is None:
            return False
        seq_id = self._cached[0]
        self._context.remove(seq_id)
        self._free.append(seq_id)
        self._cached = None
        return True

    def layout(self, running: Seq[Sequence]) -> list[tuple[int, list[int]]]:
        """(sequence id, tokens it should have in the cache) of every sequence: running, cached and free."""
        cached = [] if self._cached is None else [self._cached[:2]]
        return [*((a.seq_id, a.computed) for a in running), *cached, *((seq_id, []) for seq_id in self._free)]

    def _longest(self, sequence: Sequence, running: Seq[Sequence]) -> tuple[int, int]:
        """(sequence id, length) of the longest prefix of its scope in the cache, without the last token: its logits are
        needed."""
        known = [(other.seq_id, other.computed, other.scope) for other in running]
        if self._cached is not None:
            known.append(self._cached)
        known = [one for one in known if one[2] == sequence.scope]
        lengths = [(common_prefix(tokens, sequence.tokens), seq_id) for seq_id, tokens, _ in known]
        length, source = max(lengths, default=(0, -1))
        return source, min(length, sequence.reusable)

    def _restore(self, sequence: Sequence) -> None:
        """Restore from the store the part of the prompt's beginning that the cache lacks, if it is worth the time."""
        most = sequence.reusable
        found = self._store.find(sequence.tokens, sequence.scope)
        if not found or min(found[-1][1], most) - sequence.n_past < _WORTH_RESTORING:
            return
        for block, position in found:
            end = min(position, most)
            if end <= sequence.n_past:
                continue
            state = self._store.load(block)
            if state is None or not self._context.restore(sequence.seq_id, state, sequence.n_past, end):
                return
            sequence.reuse(end)

    def _restore_adapter(self, sequence: Sequence) -> bool:
        """Whether the cells of its adapter are in the cache now; drops the cached sequence where there is no room."""
        adapter = sequence.job.adapter
        assert adapter is not None
        while not self._context.restore(sequence.seq_id, adapter.state, 0, adapter.n):
            if not self.evict():
                return False
        sequence.reuse(adapter.n)
        return True

    def _offload(self, running: Seq[Sequence]) -> None:
        """Move the cached sequence into the store; it stays if the store cannot take it, until its cells are needed."""
        if self._cached is None:
            return
        seq_id, tokens, scope = self._cached
        same = [sequence.computed for sequence in running if sequence.scope == scope]
        shared = any(common_prefix(computed, tokens) == len(tokens) for computed in same)
        if shared or self._save(seq_id, tokens, scope, 1):
            self.evict()

    def _save(self, seq_id: int, tokens: list[int], scope: bytes, least: int) -> bool:
        """Save `tokens`, which are in sequence `seq_id`, into the store if it lacks at least `least` of them.

        Returns whether it lacks fewer than `least` afterwards: not where the store has no room, or where there is no
        memory for a state or llama.cpp does not give it.
        """
        key: bytes | None
        key, start, known = self._store.end(tokens, scope)
        if len(tokens) - known < least:
            return True
        first = max(start, front_of(tokens))  # an adapter's cells are not stored: they are restored from the adapter
        while key is not None and len(tokens) - first >= least:
            end = first + BLOCK_TOKENS
            if LEAST_WRITTEN <= known - first < BLOCK_TOKENS:
                end = known  # a block ends where conversations part, so that they can share it
            if len(tokens) < end + LEAST_WRITTEN:
                end = len(tokens)  # one larger block instead of a block and a partial one
            try:
                state = self._context.state(seq_id, first, end)
            except (MemoryError, EngineError):  # the cells are still right: nobody's answer ends for it
                return False
            key = self._store.put(key, start, tokens[start:end], state, scope)
            start = first = end
        return key is not None
