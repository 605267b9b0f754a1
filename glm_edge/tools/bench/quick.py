"""The quick tuning of a first start: what can be changed without loading the weights again, in a few seconds.

In this order, as far as the time goes: threads for single tokens, threads for batches, what batches of some rows cost,
flash attention. A round of measurements is begun if it is likely to end in time, by what the one before took; and the
callback that llama.cpp asks between the nodes of its graph ends a batch at the end of the time. So even a board that
takes seconds a token keeps it. Not here: how weights are loaded, batch sizes and runtimes, which `tune.py` compares.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from typing import TypeVar

from ...engine.memory_plan import MemoryPlan
from ...llama.model import Model
from ...model.checks import model_sizes
from ...model.gguf import read_gguf
from ...system.device import processors
from ...system.profile import Profile
from ...types import BatchCosts, EngineConfig
from .bare import Bare, Stopped
from .tune import DEPTH, ROWS, fastest, thread_counts

BUDGET_S = 10.0
_ROUNDS = 2  # of what would replace a default; one is enough to keep it
_CLEARLY = 1.1  # ratio of speeds that replaces a default: few rounds tell no less
_FIGURE_S, _STEPS = 0.1, 8  # seconds of one measurement at least, in steps at most
_BATCH = 8  # rows by which the threads for batches are chosen

C = TypeVar("C", bound=object)


class QuickTuner:
    """One quick tuning.

    Args:
        config, plan: as the engine will have them.
        stopped: whether the user wants it to end; asked some hundred times a batch.
        clock: seconds, of which only differences count.
        budget: seconds.
    """

    def __init__(
        self,
        config: EngineConfig,
        model: Model,
        plan: MemoryPlan,
        *,
        stopped: Callable[[], bool],
        clock: Callable[[], float] = time.monotonic,
        budget: float = BUDGET_S,
    ) -> None:
        self._config, self._model, self._plan = config, model, plan
        self._stopped, self._clock = stopped, clock
        self._began, self._budget = clock(), budget

    @property
    def seconds(self) -> float:
        """Since the beginning."""
        return self._clock() - self._began

    def run(self) -> Profile:
        """The profile: defaults where nothing was measured, or nothing else was clearly faster."""
        counts = thread_counts(processors())
        one = many = counts[0]
        with closing(self._open((one, many), n_ctx=64)) as bare:
            # the first step also touches memory for the first time
            step = min(self._measured([1], bare.prefill, 0, 1)[1], default=self._budget)
            steps = max(1, min(_STEPS, int(_FIGURE_S / step)))

            def decode(threads: int) -> float:
                bare.set_threads(threads, many)
                bare.cut(1)
                return bare.decode(steps) / steps

            def batch(threads: int) -> float:
                bare.set_threads(one, threads)
                return bare.rows(_BATCH)

            one = self._fastest(counts, decode, step * steps, 0.4)
            many = self._fastest(counts, batch, 4 * step, 0.5)
            bare.set_threads(one, many)
            took: dict[int, float] = {}
            for n in ROWS:
                seconds = self._measured([n], bare.rows, 2 * took[n // 2] if took else step, 0.6)[n]
                if not seconds:
                    break
                took[n] = min(seconds)
        flash = self._flash((one, many), step, steps)
        costs = BatchCosts(self._plan.repack, tuple(took.items()))
        return Profile(one, many, None, flash, "llama", batch_costs=costs, quick=True)

    def _fastest(self, candidates: Sequence[C], measure: Callable[[C], float], guess: float, share: float) -> C:
        """The candidate that is clearly faster than the first one, the default; see `_measured`."""
        default = candidates[0]
        if len(candidates) == 1:
            return default
        found = self._measured(candidates, measure, guess, share, until=lambda found: _best(found, default) == default)
        return _best(found, default)

    def _measured(
        self,
        candidates: Sequence[C],
        measure: Callable[[C], float],
        guess: float,
        share: float,
        until: Callable[[dict[C, list[float]]], bool] = lambda found: False,
    ) -> dict[C, list[float]]:
        """Figures of all candidates, as many of each; none where there is no time.

        Args:
            guess: seconds that a measurement is likely to take.
            share: of the budget, in which other rounds than the first must end.
            until: whether what was found needs no other round.
        """
        found: dict[C, list[float]] = {candidate: [] for candidate in candidates}
        for i in range(_ROUNDS):
            began = self.seconds
            if began + guess * len(candidates) > self._budget * (share if i else 1):
                break
            try:
                figures = [measure(candidate) for candidate in candidates]
            except Stopped:
                break
            for candidate, figure in zip(candidates, figures, strict=True):
                found[candidate].append(figure)
            if until(found):
                break
            guess = (self.seconds - began) / len(candidates)
        return found

    def _flash(self, threads: tuple[int, int], step: float, steps: int) -> bool:
        """Whether flash attention is faster with much in the context. Off is the default: it also rounds otherwise."""
        if not self._model.runtime.has_flash_attention or self.seconds + 2 * step * steps > self._budget:
            return False
        depth, sizes = min(DEPTH, self._plan.n_ctx // 2), model_sizes(read_gguf(self._config.model))
        with ExitStack() as opened:
            both = {
                flash: opened.enter_context(closing(self._open(threads, n_ctx=depth + 64, flash_attention=flash)))
                for flash in (False, True)
            }

            def decode(flash: bool) -> float:
                both[flash].fill(depth, sizes)
                return both[flash].decode(steps)

            return self._fastest([False, True], decode, step * steps, 1.0)

    def _open(self, threads: tuple[int, int], *, n_ctx: int, flash_attention: bool = False) -> Bare:
        return Bare(
            self._model,
            replace(self._config, flash_attention=flash_attention),
            n_ctx=min(n_ctx, self._plan.n_ctx),
            n_batch=max(ROWS),
            threads=threads,
            n_outputs=max(ROWS),
            should_abort=lambda _: self._stopped() or self.seconds > self._budget,
        )


def _best(seconds: dict[C, list[float]], default: C) -> C:
    return fastest(seconds, default, _CLEARLY) if seconds[default] else default
