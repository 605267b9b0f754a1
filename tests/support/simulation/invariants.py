"""What must hold after every step of a simulated run."""

from __future__ import annotations

from collections.abc import Sequence

from glm_edge.engine.prefix_cache.prefix import common_prefix
from glm_edge.engine.sequence import Sequence as Answer

from .client import Client, Violation
from .fake_llama import FakeContext
from .plan import World

_STANDS_STILL = 10  # steps


def check_cells(context: FakeContext, layout: Sequence[tuple[int, list[int]]]) -> None:
    """Every sequence of the cache has one owner, and holds what that believes."""
    ids = sorted(seq_id for seq_id, _ in layout)
    if ids != list(range(len(ids))) or len(ids) != context.n_sequences:
        raise Violation("a sequence lost or owned twice", f"{ids} of {context.n_sequences}")
    for seq_id, tokens in layout:
        if (held := context.tokens(seq_id)) != tokens:
            raise Violation(
                "cells lost or left over",
                f"sequence {seq_id} holds {len(held)} tokens, its owner believes {len(tokens)}",
            )
    if not context.spare_is_empty:
        raise Violation("cells lost or left over", "in the spare sequence")


def check_idle(context: FakeContext, layout: Sequence[tuple[int, list[int]]]) -> None:
    """Nobody is there: only the answer that ended last may be in the cache."""
    holders = [seq_id for seq_id, tokens in layout if tokens]
    if len(holders) > 1:
        raise Violation("cells lost or left over", f"sequences {holders} hold tokens and nobody is there")
    if context.owned() != context.used:
        raise Violation("cells lost or left over", f"{context.used} in use, {context.owned()} owned")


def check_prefixes(client: Client, known: Sequence[tuple[str, list[int]]], *, walls: bool) -> None:
    """No more of its prompt came out of a cache than others had in common with it; with walls, others of its key."""
    others = [tokens for key, tokens in known if not walls or key == client.arrival.key]
    if client.arrival.n > 1 or client.preempted:
        others.append(client.prompt)
    most = max((common_prefix(tokens, client.prompt) for tokens in others), default=0)
    for last in client.lasts:
        if last is not None and last.stats is not None and last.stats.cached_tokens > most:
            raise Violation("a prefix of nowhere", f"{client} had {last.stats.cached_tokens} tokens of it, not {most}")


class Waiting:
    """How long answers stand still, wait and are overtaken, and that it is bounded.

    A running answer gets on with every batch, but for faults and a cache that is full. One that has not begun waits for
    those before it, and for a prompt that begins like its own: each takes a context's tokens at most.
    """

    def __init__(self, world: World) -> None:
        self.longest = self.waited = self.overtaken = 0  # the most there was: steps, steps, clients
        self._patience = 2 * (world.slots + world.queue_size) * world.n_ctx  # steps
        self._overtakes = world.n_ctx  # clients
        self._seen: dict[Answer, tuple[tuple[int, int, int], int]] = {}  # its state, and the step when that was new
        self._begun: set[Client] = set()

    def check(self, step: int, clients: Sequence[Client], running: Sequence[Answer]) -> None:
        """Args:
        clients: those that have not ended, in the order they came.
        running: answers that have a slot.
        """
        seen = {}
        for answer in running:
            state = (answer.n_past, len(answer.tokens), answer.seq_id)
            before = self._seen.get(answer)
            seen[answer] = before if before is not None and before[0] == state else (state, step)
            stood = step - seen[answer][1]
            self.longest = max(self.longest, stood)
            if stood > _STANDS_STILL:
                raise Violation("a running answer stands still", f"for {stood} steps: {answer.pending} tokens pending")
        self._seen = seen
        slots = set(running)
        for i, client in enumerate(clients):
            client.preempted |= any(a.started and a not in slots and not a.finished for a in client.answers)
            if client in self._begun:
                continue
            if client.started:
                self._begun.add(client)
                self._count_overtaken([c for c in clients[:i] if c not in self._begun and not c.cancelled])
            else:
                self.waited = max(self.waited, step - client.step)
                if step - client.step > self._patience:
                    raise Violation("waiting without end", f"{client}, {step - client.step} steps")

    def _count_overtaken(self, earlier: Sequence[Client]) -> None:
        for client in earlier:
            client.overtaken += 1
            self.overtaken = max(self.overtaken, client.overtaken)
            if client.overtaken > self._overtakes:
                raise Violation("overtaken without end", f"{client}, {client.overtaken} times")
