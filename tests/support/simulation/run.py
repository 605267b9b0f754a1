"""A simulated run: the real loop, scheduler, sequences, samplers and prefix store over the fake llama.cpp, in one
thread, with the invariants checked after every step.

An engine that a fault ended is replaced by a new one, as the worker does. Raises Violation, or whatever the engine
raised that it should not.
"""

from __future__ import annotations

import tempfile
import zlib
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from glm_edge.engine.drafts import MAX_DRAFT
from glm_edge.engine.latency import LatencyModel
from glm_edge.engine.loop import EngineLoop
from glm_edge.engine.memory_plan import sequence_count
from glm_edge.engine.prefix_cache.store import Store
from glm_edge.engine.prefix_cache.store_file import SCOPE
from glm_edge.engine.sampling.sampler import Sampler
from glm_edge.engine.scheduler import Scheduler
from glm_edge.engine.sequence import GenerationJob, Sequence
from glm_edge.engine.text.tokenizer import Prompt
from glm_edge.errors import GlmEdgeError, OverloadedError, RequestError
from glm_edge.generation import Generation
from glm_edge.types import Request

from .client import Client, Violation, check_texts
from .fake_llama import Clock, FakeBatch, FakeContext, FakeModel
from .invariants import Waiting, check_cells, check_idle, check_prefixes
from .plan import Arrival, Plan

MODEL = FakeModel()
_DRAIN = 20_000  # turns after the last arrival; far more than the longest run takes
_FATAL = {"error", "full"}  # faults that may end an engine


@dataclass
class Outcome:
    """What a run came to."""

    turns: int = 0
    events: Counter[str] = field(default_factory=Counter)  # faults, and what else happened how often
    digest: int = 0  # of all that clients were given, and when


class WrittenStore(Store):
    """A store whose writer has always written all that it will, so that a run does not depend on its thread."""

    def put(self, parent: bytes, start: int, tokens: list[int], state: memoryview, scope: bytes = b"") -> bytes | None:
        key = super().put(parent, start, tokens, state, scope)
        self.flush()
        return key


class Simulation:
    """One run of a plan."""

    def __init__(self, plan: Plan) -> None:
        self.step = 0
        self.outcome = Outcome()
        self._plan = plan
        self._clock = Clock()
        self._clients: list[Client] = []  # that have not ended
        self._said: dict[int, list[int]] = {}  # tokens of the conversations that ended, by the client's seed
        self._known: list[tuple[str, list[int]]] = []  # key and tokens of all that this engine ever had
        self._ends: Counter[int] = Counter()  # by the id of a sequence that has not been let go
        self.waiting = Waiting(plan.world)
        self._folder: Path | None = None  # of prefixes

    def run(self) -> Outcome:
        with tempfile.TemporaryDirectory() as folder:
            if self._plan.world.disk:
                self._folder = Path(folder)
            self._open_engine()
            try:
                return self._run()
            finally:
                self._store.close()

    def _run(self) -> Outcome:
        arrivals, faults = list(self._plan.arrivals), dict(self._plan.faults)
        while arrivals or self._clients:
            if not self._clients and arrivals:
                self.step = max(self.step, arrivals[0].step)  # nothing happens until then
            while arrivals and arrivals[0].step <= self.step:
                self._submit(arrivals.pop(0))
            self._context.fault = faults.get(self.step, self._context.fault)
            self._turn()
            self.step += 1
            if self.outcome.turns > self._plan.steps + _DRAIN:
                raise Violation("waiting without end", f"{self._clients} after {self.outcome.turns} turns")
        return self.outcome

    def _open_engine(self) -> None:
        world = self._plan.world
        n_sequences = sequence_count(world.slots)
        self._context = FakeContext(
            MODEL,
            self._clock,
            n_ctx=world.n_ctx,
            n_sequences=n_sequences,
            n_outputs=max(world.slots + MAX_DRAFT, n_sequences + 1),
            token_s=world.token_s,
            during=self._in_batch,
        )
        self._store = WrittenStore(self._folder, bytes(32), memory=world.store_bytes)
        self._scheduler = Scheduler(
            self._context,
            FakeBatch(world.n_batch),
            world.slots,
            self._store,
            lookup=world.lookup,
            latency=LatencyModel(rows_of_four=world.rows_of_four),
            clock=self._clock,
        )
        self._loop = EngineLoop(self._scheduler, slots=world.slots, queue_size=world.queue_size)
        if self._folder is None:
            self._known.clear()

    def _submit(self, arrival: Arrival) -> None:
        """As LlamaEngine.submit does."""
        world = self._plan.world
        places = world.slots + world.queue_size
        taken = sum(not answer.finished for client in self._clients for answer in client.answers)
        try:
            self._loop.check_capacity(arrival.n)
        except (OverloadedError, RequestError) as error:
            self.outcome.events["refused"] += 1
            if taken + arrival.n <= places:
                raise Violation("refused with places free", f"{arrival}, {taken} of {places} taken: {error}") from error
            return
        if taken + arrival.n > places:
            raise Violation("taken without a place", f"{arrival}, {taken} of {places} taken")
        client = self._client(arrival)
        self._loop.enter(client.answers)
        self._clients.append(client)
        if arrival.leaving != "vanish":
            client.generation.forward(client.take)
        if arrival.leaving == "at once":
            self._cancel(client)

    def _client(self, arrival: Arrival) -> Client:
        """A client with its sequences."""
        world, prompt = self._plan.world, arrival.prompt
        if arrival.continues in self._said:
            longer = self._said[arrival.continues] + arrival.own_tokens
            prompt = longer if len(longer) < world.n_ctx else prompt
        client = Client(arrival, prompt, min(arrival.max_tokens, world.n_ctx - len(prompt)), self.step)
        scope = arrival.key.encode() * SCOPE if world.walls else b""
        request = Request((), arrival.sampling, arrival.max_tokens, arrival.stop, arrival.n, prefix_scope=scope)
        client.generation = Generation(self._loop.on_cancel, lambda: self._loop.progress(client.answers[0]))
        for index in range(arrival.n):
            job = GenerationJob(request, Prompt("", list(prompt)), client.limit, index=index)
            sampler = Sampler(arrival.sampling, index, prompt)
            client.answers.append(
                Sequence(job, sampler, MODEL, client.generation, client.answers, self._on_end, self._clock)
            )
        return client

    def _turn(self) -> None:
        """A turn of the engine's loop and what clients do after it; then the invariants."""
        self.outcome.turns += 1
        before = len(self._context.happened)
        self._loop.turn()
        for client in self._clients:
            leaving, after = client.arrival.leaving, client.arrival.after
            if (leaving == "between batches" and self.step >= client.step + after) or (
                leaving == "after chunks" and client.chunks > after
            ):
                self._cancel(client)
            elif leaving == "vanish" and client.answers and all(answer.finished for answer in client.answers):
                client.read_queue()
        happened = self._context.happened[before:]
        self.outcome.events.update(happened)
        if self._loop.error is not None:
            self._check_death(self._loop.error, set(happened))
        else:
            layout = self._scheduler.layout()
            check_cells(self._context, layout)
            self.waiting.check(self.step, self._clients, self._scheduler.running)
            if self._scheduler.idle:
                check_idle(self._context, layout)
                self._check_all_ended()
        self._let_go()

    def _check_death(self, error: GlmEdgeError, happened: set[str]) -> None:
        """The engine has ended: a fault must be why, and everybody must know. Another one takes its place."""
        if not happened & _FATAL:
            raise Violation("the engine ended without a fault", str(error))
        self.outcome.events["engine ended"] += 1
        self._check_all_ended()
        self._let_go()  # judged by what this engine knew
        self._store.close()
        self._open_engine()

    def _check_all_ended(self) -> None:
        """Nothing is computed any more."""
        for client in self._clients:
            if client.arrival.leaving == "vanish":
                client.read_queue()
            if not client.ended or not all(answer.finished for answer in client.answers):
                raise Violation("an answer without an end", repr(client))

    def _in_batch(self) -> bool:
        """In the middle of a batch, as other threads may: clients leave. Returns whether the engine aborts it."""
        for client in self._clients:
            if client.arrival.leaving == "in a batch" and self.step >= client.step + client.arrival.after:
                self._cancel(client)
        if self._clients and self._clients[self.step % len(self._clients)].generation.progress is None:
            raise Violation("no progress is told", repr(self._clients))
        return self._loop.abort

    def _cancel(self, client: Client) -> None:
        if not client.cancelled and not client.ended:
            client.cancelled = True
            self.outcome.events[f"cancel {client.arrival.leaving}"] += 1
            client.generation.cancel()

    def _on_end(self, sequence: Sequence) -> None:
        """As LlamaEngine's."""
        self._ends[id(sequence)] += 1
        if self._ends[id(sequence)] > 1:
            raise Violation("an answer ended twice", f"answer {sequence.job.index} of {sequence.tokens}")
        self._loop.leave(sequence)

    def _let_go(self) -> None:
        """Judge clients that have their end; those that are left have none."""
        for client in list(self._clients):
            if not client.ended or not all(answer.finished for answer in client.answers):
                continue
            self._clients.remove(client)
            for answer in client.answers:
                if not self._ends.pop(id(answer), 0):
                    raise Violation("an answer without an end", repr(client))
            check_texts(client, MODEL)
            known = [*self._known, *((c.arrival.key, a.tokens) for c in self._clients for a in c.answers)]
            check_prefixes(client, known, walls=self._plan.world.walls)
            self._known += [(client.arrival.key, answer.tokens) for answer in client.answers]
            self._said[client.arrival.seed] = client.answers[0].tokens
            for stats in [last.stats for last in client.lasts if last is not None and last.stats is not None]:
                self.outcome.events["cached tokens"] += stats.cached_tokens
                self.outcome.events["drafted tokens"] += stats.drafted_tokens
                self.outcome.events["accepted tokens"] += stats.accepted_tokens
            self.outcome.events["failed" if client.error else "cancelled" if client.cancelled else "whole"] += 1
            told = f"{self.outcome.digest} {self.step} {client.texts} {client.error} {self._clock.now}"
            self.outcome.digest = zlib.crc32(told.encode())
