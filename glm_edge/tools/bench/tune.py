"""Find the fastest settings of this machine: runtime, repacking, huge pages, threads, batch size, flash attention.

Every candidate is measured once a round; the medians of the rounds count, because other programs come and go. A
candidate replaces the default only if it is clearly faster. One that is much slower is not measured again.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from typing import TypeVar

from ...engine.engine import open_model
from ...engine.memory_plan import MemoryPlan, Weights, plan_memory, weights_of
from ...errors import GlmEdgeError, UnsupportedModelError
from ...llama import huge_pages
from ...llama.ik import installed
from ...llama.library import gpus
from ...llama.model import Model, check_types
from ...llama.runtime import runtime
from ...model.checks import check_model, model_sizes
from ...model.gguf import read_gguf
from ...system.device import Processors, memory_available, processors
from ...system.profile import SMALL, Profile
from ...types import BatchCosts, EngineConfig, LoadMode, RuntimeName
from .bare import Bare
from .child import Tell

_ROUNDS = 3
_CLEARLY = 1.03  # ratio of speeds; smaller differences are chance
_HOPELESS = 1.5  # ratio of times
_PROMPT, _ANSWER = 128, 8  # tokens of one measurement of threads
REQUEST = (128, 64)  # tokens of prompt and answer by whose time the runtime is chosen
DEPTH = 1024  # tokens of context at which flash attention is measured: it matters with long ones
_BATCHES = (64, 128, 256, 512)
ROWS = (1, 2, 4, 8, 16)  # of the batches whose costs are measured, for drafts

C = TypeVar("C", bound=object)


@dataclass(frozen=True)
class Way:
    """A way to load the weights. They are loaded anew for each."""

    runtime: RuntimeName
    load_mode: LoadMode | None = None
    huge_pages: bool = True

    @property
    def name(self) -> str:
        more = ("not repacked" if self.load_mode == "mmap" else "", "" if self.huge_pages else "without huge pages")
        return ", ".join([self.runtime, *filter(None, more)])

    def of(self, config: EngineConfig) -> EngineConfig:
        """`config`, loaded this way."""
        return replace(
            config,
            runtime=self.runtime,
            load_mode=self.load_mode or config.load_mode,
            huge_pages=config.huge_pages and self.huge_pages,
        )


@dataclass(frozen=True)
class Tuning:
    """The result: the profile, and seconds a token by setting and candidate ("decode threads", "2")."""

    profile: Profile
    figures: dict[str, dict[str, float]]


def tune(config: EngineConfig, tell: Tell) -> Tuning:
    """Measure with the model of `config`; runs in a process of its own."""
    file = read_gguf(config.model)
    check_model(file)
    weights = weights_of(file)
    figures: dict[str, dict[str, float]] = {}
    chosen = _choose_way(config, weights, tell, figures)
    config = chosen.of(config)
    plan = plan_memory(config, weights, sequences=1, available=memory_available())
    with closing(open_model(config, plan)) as model:
        return _Tuner(model, config, plan, tell, figures).run(processors(), chosen)


def runtimes(config: EngineConfig) -> list[RuntimeName]:
    """The candidates; the default is first."""
    if config.runtime is not None:
        return [config.runtime]
    found: list[RuntimeName] = ["llama"]
    if installed():
        with suppress(UnsupportedModelError):
            check_types(read_gguf(config.model), runtime("ik"))
            found.append("ik")
    if gpus():
        found.append("vulkan")
    return found


def ways(config: EngineConfig) -> list[Way]:
    """The candidates; the default is first. Of a small model, the runtimes alone."""
    found = [Way(name) for name in runtimes(config)]
    weights = weights_of(read_gguf(config.model))
    plan = plan_memory(config, weights, sequences=1, available=memory_available())
    if weights.size >= SMALL and plan.repack and config.load_mode is None:
        found.append(Way(found[0].runtime, load_mode="mmap"))
    if weights.size >= SMALL and plan.huge and plan.repack and huge_pages.may_ask():
        found.append(Way(found[0].runtime, huge_pages=False))
    return found


def _choose_way(config: EngineConfig, weights: Weights, tell: Tell, figures: dict[str, dict[str, float]]) -> Way:
    """The fastest way for a request of usual lengths. One is loaded at a time: two would not fit into memory.

    Minutes lie between two of them, so the default is measured once more before another takes its place. One that
    cannot be loaded, on a GPU with too little memory, is left out.
    """
    candidates = ways(config)
    default = candidates[0]
    if len(candidates) < 2:
        return default
    least = math.inf  # median of the fastest so far

    def measured(way: Way) -> list[float]:
        own = way.of(config)
        plan = plan_memory(own, weights, sequences=1, available=memory_available())
        with closing(open_model(own, plan)) as model:
            return _Tuner(model, own, plan, tell, {}).of_requests(processors().best, limit=_HOPELESS * least)

    seconds: dict[Way, list[float]] = {}
    for way in candidates:
        try:
            seconds[way] = measured(way)
        except GlmEdgeError:
            if way == default:
                raise
            continue
        least = min(least, statistics.median(seconds[way]))
    if fastest(seconds, default) != default:
        seconds[default] = min(seconds[default], measured(default), key=statistics.median)
    prompt, answer = REQUEST
    figures["weights"] = {way.name: statistics.median(times) / (prompt + answer) for way, times in seconds.items()}
    return fastest(seconds, default)


def units(candidates: Sequence[Way]) -> float:
    """Work of `tune` in prompt tokens, about; a token of an answer counts as three."""
    choice = len(candidates) * _ROUNDS * (_PROMPT + 3 * _ANSWER) if len(candidates) > 1 else 0
    return (
        choice + _ROUNDS * (3 * (_PROMPT + 3 * _ANSWER) + 4 * max(_BATCHES) + 2 * 3 * _ANSWER + sum(ROWS)) + 3 * _ANSWER
    )


def thread_counts(cpus: Processors) -> list[int]:
    """The candidates; the default is first."""
    counts = [cpus.big, cpus.physical, cpus.logical, max(1, cpus.big - 1)]
    return list(dict.fromkeys(cpus.within(n) for n in counts))


def fastest(seconds: dict[C, list[float]], default: C, clearly: float = _CLEARLY) -> C:
    """The candidate with the smallest median, if it is clearly faster than the default."""
    medians = {candidate: statistics.median(times) for candidate, times in seconds.items()}
    best = min(medians, key=lambda candidate: medians[candidate])
    return best if medians[best] * clearly < medians[default] else default


class _Tuner:
    """The measurements of one tuning, and their figures."""

    def __init__(
        self, model: Model, config: EngineConfig, plan: MemoryPlan, tell: Tell, figures: dict[str, dict[str, float]]
    ) -> None:
        self._model = model
        self._config = config
        self._plan = plan
        self._tell = tell
        self._figures = figures

    def of_requests(self, threads: int, limit: float) -> list[float]:
        """Seconds of a request of usual lengths, from what a shorter one takes; until one is above `limit`."""
        with closing(self._open(flash_attention=False, threads=(threads, threads))) as bare:
            self._prefill(bare, threads, _ANSWER, None)  # the first batch also touches memory for the first time
            prompt, answer = (n / measured for n, measured in zip(REQUEST, (_PROMPT, _ANSWER), strict=True))
            found: list[float] = []
            while len(found) < _ROUNDS and (not found or found[-1] < limit):
                found.append(
                    prompt * self._prefill(bare, threads, _PROMPT, None) + answer * self._decode(bare, threads)
                )
            return found

    def run(self, cpus: Processors, chosen: Way) -> Tuning:
        counts = thread_counts(cpus)
        bare = self._open(flash_attention=False, threads=(counts[0], counts[0]))
        one = self._choose("decode threads", counts, lambda n: self._decode(bare, n), tokens=_ANSWER)
        many = self._choose("prefill threads", counts, lambda n: self._prefill(bare, n, _PROMPT, None), tokens=_PROMPT)
        bare.set_threads(one, many)
        largest = self._plan.n_batch  # what memory allows, and the default
        sizes = [largest, *(n for n in reversed(_BATCHES) if n < largest)]
        longest = min(max(_BATCHES), self._plan.n_ctx // 2, 2 * largest)
        batch = self._choose("batch", sizes, lambda n: self._prefill(bare, many, longest, n), tokens=longest)
        bare.close()
        flash = runtime(chosen.runtime).has_flash_attention and self._choose_flash((one, many))
        costs = self._batch_costs((one, many), flash_attention=flash)
        profile = Profile(
            one, many, batch, flash, chosen.runtime, chosen.load_mode, chosen.huge_pages, costs, self._ik_speed()
        )
        return Tuning(profile, self._figures)

    def _batch_costs(self, threads: tuple[int, int], *, flash_attention: bool) -> BatchCosts:
        with closing(self._open(flash_attention=flash_attention, threads=threads)) as bare:
            self._decode(bare, threads[0])
            bare.set_threads(*threads)
            self._tell(_ROUNDS * sum(ROWS))
            took = {n: min(bare.rows(n) for _ in range(_ROUNDS)) for n in ROWS}
        self._figures["rows of a batch"] = {str(n): seconds / n for n, seconds in took.items()}
        return BatchCosts(self._plan.repack, tuple(took.items()))

    def _ik_speed(self) -> float | None:
        """Of a request, relative to llama.cpp's; None where one of them was not measured."""
        weights = self._figures.get("weights", {})
        return weights["llama"] / weights["ik"] if weights.keys() >= {"llama", "ik"} else None

    def _choose(self, name: str, candidates: Sequence[int], measure: Callable[[int], float], *, tokens: int) -> int:
        """The fastest of the candidates; the first is the default. `measure` returns seconds for `tokens`."""
        if len(candidates) < 2:
            return candidates[0]
        default, left = candidates[0], list(candidates)
        seconds: dict[int, list[float]] = {candidate: [] for candidate in candidates}
        for _ in range(_ROUNDS):
            for candidate in left:
                seconds[candidate].append(measure(candidate) / tokens)
            left = [c for c in left if c == default or min(seconds[c]) < _HOPELESS * min(seconds[default])]
            if len(left) < 2:
                break
        self._figures[name] = {str(c): statistics.median(times) for c, times in seconds.items()}
        return fastest(seconds, default)

    def _decode(self, bare: Bare, threads: int) -> float:
        bare.set_threads(threads, threads)
        bare.cut(0)
        bare.prefill(1)
        self._tell(3 * _ANSWER)
        return bare.decode(_ANSWER)

    def _prefill(self, bare: Bare, threads: int, n: int, n_batch: int | None) -> float:
        bare.set_threads(threads, threads)
        bare.cut(0)
        self._tell(n)
        return bare.prefill(n, n_batch)

    def _choose_flash(self, threads: tuple[int, int]) -> bool:
        """Decode with and without it, at some depth of context. Off is the default: it also changes the rounding."""
        depth, sizes = min(DEPTH, self._plan.n_ctx // 2), model_sizes(read_gguf(self._config.model))
        both = {flash: self._open(flash_attention=flash, threads=threads) for flash in (False, True)}

        def measure(flash: int) -> float:
            bare = both[bool(flash)]
            bare.fill(depth, sizes)
            self._tell(3 * _ANSWER)
            return bare.decode(_ANSWER)

        chosen = self._choose("flash attention", [0, 1], measure, tokens=_ANSWER)
        figures = self._figures["flash attention"].values()
        self._figures["flash attention"] = dict(zip(("off", "on"), figures, strict=True))
        for bare in both.values():
            bare.close()
        return bool(chosen)

    def _open(self, *, flash_attention: bool, threads: tuple[int, int]) -> Bare:
        config = replace(self._config, flash_attention=flash_attention)
        n_ctx = min(self._plan.n_ctx, max(*_BATCHES, DEPTH) + 64)
        n_batch = min(self._plan.n_batch, n_ctx)
        return Bare(self._model, config, n_ctx=n_ctx, n_batch=n_batch, threads=threads, n_outputs=max(ROWS))
