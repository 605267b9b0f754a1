"""The scheduler on a small cache, step by step: what leaves it, what comes back, and that nothing is computed twice."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from glm_edge.engine.latency import LatencyModel
from glm_edge.engine.memory_plan import sequence_count
from glm_edge.engine.prefix_cache.store import Store
from glm_edge.engine.prefix_cache.store_file import CacheBlock
from glm_edge.engine.sampling.sampler import Sampler
from glm_edge.engine.scheduler import Scheduler
from glm_edge.engine.sequence import GenerationJob, Sequence
from glm_edge.engine.text.tokenizer import Prompt
from glm_edge.generation import Generation
from glm_edge.llama.context import Batch, Context
from glm_edge.llama.model import Model
from glm_edge.types import Request, SamplingParams

N_CTX, SLOTS = 512, 2
START = [64790, 64792]


class CountingStore(Store):
    """Counts what is put in and taken out."""

    puts = loads = 0

    def put(self, parent: bytes, start: int, tokens: list[int], state: memoryview, scope: bytes = b"") -> bytes | None:
        self.puts += 1
        return super().put(parent, start, tokens, state, scope)

    def load(self, piece: CacheBlock) -> memoryview | None:
        self.loads += 1
        return super().load(piece)


@dataclass
class Cells:
    """A cache and what runs on it."""

    model: Model
    context: Context
    batch: Batch

    def scheduler(self, store: Store, latency: LatencyModel | None = None) -> Scheduler:
        return Scheduler(self.context, self.batch, SLOTS, store, lookup=False, latency=latency)

    def answer(self, tokens: list[int], limit: int) -> Sequence:
        """To a prompt of these tokens; it has just `limit` tokens, as the text's end is never drawn."""
        params = SamplingParams(0, logit_bias={self.model.eos: -100.0})
        answers: list[Sequence] = []
        task = GenerationJob(Request((), params), Prompt("", [*START, *tokens]), limit)
        answers.append(Sequence(task, Sampler(params), self.model, Generation(), answers, lambda answer: None))
        return answers[0]


@pytest.fixture
def cells(tiny_f32: Path) -> Iterator[Cells]:
    model = Model(tiny_f32)
    context = Context(
        model,
        n_ctx=N_CTX,
        n_batch=64,
        n_sequences=sequence_count(SLOTS),
        n_outputs=SLOTS,
        n_threads=1,
        n_threads_batch=1,
        kv_type="f32",
    )
    batch = Batch(64)
    yield Cells(model, context, batch)
    context.close()
    model.close()


def run(cells: Cells, scheduler: Scheduler, *answers: Sequence) -> int:
    """Until all have ended; returns how many tokens were in the batches."""
    for answer in answers:
        scheduler.add(answer)
    computed = 0
    while not all(answer.finished for answer in answers):
        scheduler.admit()
        scheduler.step()
        computed += len(cells.batch)
    return computed


def test_answer_that_lost_its_cells_is_read_back(cells: Cells) -> None:
    store = CountingStore(None, bytes(32))
    answers = [cells.answer(list(range(1000 * i, 1000 * i + 200)), 150) for i in (1, 2)]
    computed = run(cells, cells.scheduler(store), *answers)
    assert store.puts
    assert store.loads
    assert [len(answer.tokens) for answer in answers] == [352, 352]  # both at once would not fit
    assert computed <= sum(len(answer.tokens) for answer in answers) + 2  # the batch that did not fit is counted too


def test_answer_that_ended_leaves_the_cache_to_the_next_one(cells: Cells) -> None:
    store = Store(None, bytes(32))
    scheduler = cells.scheduler(store)
    first = cells.answer(list(range(1000, 1300)), 3)
    run(cells, scheduler, first)
    assert store.find(first.tokens) == []  # it is still in the cache, and nobody needs the room
    run(cells, scheduler, cells.answer(list(range(2000, 2300)), 3))
    assert store.find(first.tokens)[-1][1] == first.n_past
    again = cells.answer(list(range(1000, 1300)), 3)
    assert run(cells, scheduler, again) == 3
    assert again.tokens == first.tokens


def test_answer_that_the_store_has_no_room_for_stays_until_its_cells_are_needed(cells: Cells) -> None:
    scheduler = cells.scheduler(Store(None, bytes(32), memory=1000))
    first = cells.answer(list(range(1000, 1300)), 3)
    run(cells, scheduler, first)
    other = cells.answer(list(range(2000, 2100)), 3)
    scheduler.add(other)
    scheduler.admit()
    scheduler.step()
    again = cells.answer(list(range(1000, 1300)), 3)
    assert run(cells, scheduler, again, other) < 110
    assert again.tokens == first.tokens
    large = cells.answer(list(range(3000, 3450)), 3)
    run(cells, scheduler, large)
    assert len(large.tokens) == 455


class FourAreQuicker(LatencyModel):
    """Whatever is measured, two rows are filled up to four."""

    def rows(self, n: int, *, prompt: bool) -> int:
        return 4 if n == 2 else n


def test_rows_that_nobody_asked_for_take_no_cell_that_an_answer_needs(cells: Cells) -> None:
    scheduler = cells.scheduler(Store(None, bytes(32)), FourAreQuicker())
    answers = [cells.answer(list(range(1000, 1250)), limit) for limit in (6, 5)]  # the second has the first's prompt
    for answer in answers:
        scheduler.add(answer)
    filled: dict[bool, set[int]] = {True: set(), False: set()}  # rows of two tokens, by whether two more cells are free
    while not any(answer.finished for answer in answers):
        scheduler.admit()
        free = N_CTX - sum(len(answer.tokens) for answer in scheduler.running)
        both = [answer.pending for answer in scheduler.running] == [1, 1]
        scheduler.step()
        if both:
            filled[free >= 2].add(len(cells.batch))
    assert filled == {True: {4}, False: {2}}
